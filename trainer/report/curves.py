"""Curves as SVG, from the template beside this module: small, sharp at any size, and no script."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from trainer.report import templates

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 420, 262
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 30, 40
MOST_POINTS = 400  # of a line; more than there are pixels
LABEL_HEIGHT = 12  # of the name of a line, at its end
LABEL_LENGTH = 22  # letters of a name, or its middle is left out
LETTER = 6.2  # pixels of one, about
DASHES = ("", "6 3", "2 3", "8 3 2 3")


class Line(NamedTuple):
    """A line of a chart: its points, its colour, whether it is thin, and a row of `DASHES`."""

    points: Points
    colour: str
    thin: bool
    dashes: str = ""


def draw(title: str, lines: Mapping[str, Line]) -> Markup:
    """Draws lines over the step, each with its name at its end.

    Args:
        title: of the chart.
        lines: by name; as many names are written as there is room for, the first ones.

    Returns:
        An SVG element; empty if there is nothing to draw.
    """
    finite = {name: line._replace(points=_finite(line.points)) for name, line in lines.items()}
    finite = {name: line for name, line in finite.items() if line.points}
    points = [point for line in finite.values() for point in line.points]
    if not points:
        return Markup("")
    named = list(finite)[: (HEIGHT - TOP - BOTTOM) // LABEL_HEIGHT + 1]
    right = WIDTH - RIGHT - round(LETTER * max(len(cut(name)) for name in named))
    across = ticks(0, max(x for x, _ in points))
    up = ticks(min(y for _, y in points), max(y for _, y in points))
    x_scale = (right - LEFT) / ((across[-1] - across[0]) or 1)
    y_scale = (HEIGHT - TOP - BOTTOM) / ((up[-1] - up[0]) or 1)

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + (x - across[0]) * x_scale, HEIGHT - BOTTOM - (y - up[0]) * y_scale

    digits = max(len(f"{y:f}".rstrip("0").partition(".")[2]) for y in up)
    ends = {name: place(*line.points[-1]) for name, line in finite.items()}
    levels = spread([ends[name][1] for name in named], LABEL_HEIGHT, TOP, HEIGHT - BOTTOM)
    return templates.render(
        "curves.html",
        title=title,
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        right=right,
        bottom=HEIGHT - BOTTOM,
        up=[(place(0, y)[1], f"{y:.{digits}f}") for y in up],
        across=[(place(x, up[0])[0], f"{x:g}") for x in across],
        lines=[
            (name, line, [place(*point) for point in line.points]) for name, line in finite.items()
        ],
        labels=[
            (cut(name), level, ends[name], finite[name].colour)
            for name, level in zip(named, levels, strict=True)
        ],
    )


def cut(name: str) -> str:
    """Returns a name without its middle if it is too long for the space beside a chart."""
    end = LABEL_LENGTH // 2 + 2  # where it says the split
    return name if len(name) <= LABEL_LENGTH else f"{name[: LABEL_LENGTH - end - 1]}…{name[-end:]}"


def spread(levels: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Returns where labels go that want to be at `levels`: at least `gap` apart, in low … high."""
    order = sorted(range(len(levels)), key=lambda k: levels[k])
    placed = list(levels)
    floor = low
    for k in order:
        placed[k] = floor = max(levels[k], floor)
        floor += gap
    ceiling = high
    for k in reversed(order):
        placed[k] = ceiling = min(placed[k], ceiling)
        ceiling -= gap
    return placed


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
