"""Curves as SVG, drawn by hand: a few kilobytes, sharp at any size, and no script."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 420, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 30, 28
MOST_POINTS = 400  # of a line; more than there are pixels


class Line(NamedTuple):
    """A line of a chart: its points, its colour, and whether it is thin."""

    points: Points
    colour: str
    thin: bool


def draw(title: str, lines: Mapping[str, Line]) -> str:
    """Draws named lines over the step.

    Args:
        title: of the chart.
        lines: by name.

    Returns:
        An SVG element; empty if there is nothing to draw.
    """
    finite = {name: line._replace(points=_finite(line.points)) for name, line in lines.items()}
    points = [point for line in finite.values() for point in line.points]
    if not points:
        return ""
    across = ticks(0, max(x for x, _ in points))
    up = ticks(min(y for _, y in points), max(y for _, y in points))
    x_scale = (WIDTH - LEFT - RIGHT) / ((across[-1] - across[0]) or 1)
    y_scale = (HEIGHT - TOP - BOTTOM) / ((up[-1] - up[0]) or 1)

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + (x - across[0]) * x_scale, HEIGHT - BOTTOM - (y - up[0]) * y_scale

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">',
        f'<text x="{LEFT}" y="18" class="title">{html.escape(title)}</text>',
    ]
    for y in up:
        level = place(0, y)[1]
        parts.append(f'<path class="grid" d="M{LEFT} {level:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{level + 4:.1f}" class="up">{y:g}</text>')
    for x in across:
        column = place(x, up[0])[0]
        parts.append(f'<text x="{column:.1f}" y="{HEIGHT - 8}" class="across">{x:g}</text>')
    for name, (entry, colour, thin) in finite.items():
        if not entry:
            continue
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in entry))
        style = f'stroke="{colour}"' + (' class="thin"' if thin else "")
        last = f"{html.escape(name)}: {entry[-1][1]:.4g} at step {entry[-1][0]:g}"
        parts.append(f'<polyline points="{path}" {style}><title>{last}</title></polyline>')
        x, y = place(*entry[-1])
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>')
    return "".join([*parts, "</svg>"])


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Returns round numbers, evenly spaced, that enclose low … high."""
    span = (high - low) or abs(high) or 1.0
    power = 10 ** math.floor(math.log10(span / about))
    step = next(power * k for k in (1, 2, 5, 10) if span / (power * k) <= about)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * n, 12) for n in range(first, max(last, first + 1) + 1)]


def _finite(points: Points) -> Points:
    """Returns at most so many points, the last among them, that can be drawn."""
    kept = [point for point in points if math.isfinite(point[1])]
    stride = -(-len(kept) // MOST_POINTS) or 1
    return kept[(len(kept) - 1) % stride :: stride] if kept else []
