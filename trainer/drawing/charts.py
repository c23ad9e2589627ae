"""Draws tables and curves of an evaluation as pictures, by Pillow alone."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from trainer.drawing.captions import cut, font, shown
from trainer.drawing.overlays import CLASS_COLOURS, class_colour, draw_quantity

PAPER, INK, FAINT = (255, 255, 255), (40, 40, 40), (200, 200, 200)
SIDE = 320  # of a plot, in pixels
MARGIN = 48
MOST_LINES = len(CLASS_COLOURS)  # each in a colour of its own
CELL = 104
ROW = 22  # of text, in pixels


def confusion_matrix(confusions: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Draws how the pixels of each true class (row) were predicted (column), as shares of the row.

    The row of a class without pixels has dashes: it has no shares.

    Args:
        confusions: integers [K, K], truth by prediction.
        classes: the K names.

    Returns:
        uint8 [H, W, 3].
    """
    classes = [shown(name) for name in classes]
    counts = np.asarray(confusions, np.float64)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    side = CELL * len(classes)
    left = 24 + max(round(font().getlength(name)) for name in classes)
    canvas = Image.new("RGB", (max(left + side + 12, 300), 56 + side), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((8, 6), "truth (row), prediction (column)", INK, font())
    for column, name in enumerate(classes):
        draw.text((left + CELL * column + 4, 30), cut(name, CELL - 6), INK, font())
    for row, name in enumerate(classes):
        draw.text((8, 50 + CELL * row + CELL // 2 - 10), name, INK, font())
        for column, share in enumerate(shares[row]):
            box = (left + CELL * column, 50 + CELL * row)
            fill = tuple(draw_quantity(np.array([[share]]))[0, 0].tolist())
            draw.rectangle((*box, box[0] + CELL - 2, box[1] + CELL - 2), fill)
            ink = (0, 0, 0) if share > 0.5 else (255, 255, 255)
            text = f"{share:.1%}" if totals[row] else "–"
            draw.text((box[0] + 10, box[1] + CELL // 2 - 10), text, ink, font())
    return np.asarray(canvas)


def reliability(
    calibrations: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], classes: Sequence[str]
) -> np.ndarray:
    """Draws how often each class is true where it is given a probability; the diagonal is ideal.

    Args:
        calibrations: of each foreground class the mean probability in groups of pixels, the share
            that is of the class, and the number of pixels.
        classes: names of the foreground classes.

    Returns:
        uint8 [H, W, 3].
    """
    lines, notes = {}, {}
    for index, (name, (mean, share, pixels)) in enumerate(zip(classes, calibrations, strict=True)):
        seen = pixels > 0
        gap = np.sum(np.abs(mean - share)[seen] * pixels[seen]) / max(1, pixels.sum())
        label = f"{shown(name)}, mean gap {gap:.3f}"
        lines[label] = list(zip(mean[seen], share[seen], strict=True))
        notes[label] = class_colour(index + 1)
    return _plot(lines, notes, "given probability", "share that is true", diagonal=True)


def shares_over_steps(lines: Mapping[str, Sequence[tuple[float, float]]], title: str) -> np.ndarray:
    """Draws shares, such as a Dice, over the steps of a run.

    Args:
        lines: (step, share in 0 … 1) by name; the first is of all classes, the others of the
            foreground classes in their order.
        title: of the chart.

    Returns:
        uint8 [H, W, 3].
    """
    last = max((step for points in lines.values() for step, _ in points), default=0) or 1
    colours = {name: class_colour(index) if index else INK for index, name in enumerate(lines)}
    scaled = {name: [(x / last, y) for x, y in points] for name, points in lines.items()}
    return _plot(scaled, colours, "step", title, last=last)


def _plot(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    colours: Mapping[str, tuple[int, int, int]],
    across: str,
    up: str,
    *,
    last: float = 1,
    diagonal: bool = False,
) -> np.ndarray:
    """Draws lines in the unit square, whose right end is written as `last`."""
    named, left_out = list(lines)[:MOST_LINES], len(lines) - MOST_LINES
    height = MARGIN + SIDE + MARGIN + ROW * (len(named) + (left_out > 0))
    canvas = Image.new("RGB", (2 * MARGIN + SIDE, height), PAPER)
    draw = ImageDraw.Draw(canvas)

    def place(x: float, y: float) -> tuple[float, float]:
        return MARGIN + SIDE * x, MARGIN + SIDE * (1 - y)

    for tick in np.linspace(0, 1, 6):
        draw.line([place(tick, 0), place(tick, 1)], FAINT)
        draw.line([place(0, tick), place(1, tick)], FAINT)
        x, y = place(tick, 0)
        draw.text((x - 12, y + 4), f"{last * tick:.1f}".removesuffix(".0"), INK, font())
        draw.text((MARGIN - 32, place(0, tick)[1] - 10), f"{tick:.1f}", INK, font())
    if diagonal:
        draw.line([place(0, 0), place(1, 1)], INK)
    draw.text((MARGIN, MARGIN - 24), up, INK, font())
    draw.text((MARGIN + SIDE // 2 - 62, MARGIN + SIDE + 22), across, INK, font())
    for row, name in enumerate(named):
        points = [place(*point) for point in lines[name]]
        if len(points) > 1:
            draw.line(points, colours[name], 3)
        for x, y in points:
            draw.ellipse((x - 4, y - 4, x + 4, y + 4), colours[name], INK)
        top = MARGIN + SIDE + 42 + ROW * row
        draw.rectangle((MARGIN, top + 4, MARGIN + 10, top + 14), colours[name])
        draw.text((MARGIN + 16, top), cut(name, MARGIN + SIDE - 16), INK, font())
    if left_out > 0:
        draw.text((MARGIN + 16, height - ROW - 6), f"{left_out} more", INK, font())
    return np.asarray(canvas)
