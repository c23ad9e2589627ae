"""A run as two pictures for slides: its scores, curve and cases, and its confusions."""

import io
import math

import numpy as np
from PIL import Image, ImageDraw, PngImagePlugin

from trainer.drawing import captions, charts
from trainer.report import page
from trainer.report.runs import Run

MARKS = ("trainer.report",)  # in what is written
WIDTH, GAP = 1600, 16  # pixels
TALLEST = 640  # case, in pixels
LINE = captions.LINE
NAME = 220  # of a class, in pixels at most
SHOWN = (("best", 1), ("worst", 2))  # of each kind of cases so many


def results(run: Run) -> bytes:
    """Draws the Dice over the steps, the scores, and a good and two bad cases, as a PNG."""
    classes = list(run.summary.get("classes", {}))[1:]
    of_class = {name: f"dice/{name}" for name in classes} if len(classes) > 1 else {}
    figures = {"mean, foreground": "dice", **of_class}
    lines = {name: run.curve("val", figure) for name, figure in figures.items()}
    curve = charts.shares_over_steps(lines, "val Dice")
    number = sum(count for _, count in SHOWN)
    width = (WIDTH - GAP) // number - GAP
    cases = [
        (f"{kind}: {name}", _fitted(png, width))
        for kind, count in SHOWN
        for name, png in run.pictures.get(kind, ())[:count]
    ]
    top = 2 * LINE + GAP
    height = top + len(curve) + max((LINE + GAP + case.height for _, case in cases), default=0)
    canvas = Image.new("RGB", (WIDTH, height + GAP), charts.PAPER)
    draw = ImageDraw.Draw(canvas)

    def write(left: int, top: int, text: str, width: int) -> None:
        draw.text((left, top), captions.cut(text, width), charts.INK, captions.font())

    write(GAP, GAP, run.folder, WIDTH - 2 * GAP)
    write(GAP, GAP + LINE, page.headline(run), WIDTH - 2 * GAP)
    canvas.paste(Image.fromarray(curve), (0, top))
    left = curve.shape[1] + GAP
    table = page.scores(run.summary, run.cases) if run.summary else {"heads": [], "rows": []}
    rows = [table["heads"], *table["rows"]][: len(curve) // LINE - 3]
    for cells in zip(*rows, strict=True):  # column by column, as many as there is room for
        widest = max(math.ceil(captions.font().getlength(captions.shown(x))) for x in cells)
        if left + min(widest, NAME) > WIDTH - GAP:
            break
        for row, cell in enumerate(cells):
            write(left, top + charts.MARGIN + LINE * row, cell, min(widest, NAME))
        left += min(widest, NAME) + GAP
    for place, (caption, case) in enumerate(cases):
        left = GAP + place * (width + GAP)
        write(left, top + len(curve), caption, width)
        canvas.paste(case, (left, top + len(curve) + LINE))
    return _encoded(canvas)


def confusion(run: Run) -> bytes:
    """Draws the confusions of a run that has some, as a PNG."""
    found = page.confusions(run)
    names = found["names"] if found else []
    counts = np.array(run.confusions)[: len(names), : len(names)]
    return _encoded(Image.fromarray(charts.confusion_matrix(counts, names)))


def _fitted(png: bytes, width: int) -> Image.Image:
    """Returns a picture that is no wider than so many pixels, nor taller than TALLEST."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.thumbnail((width, TALLEST))
    return picture


def _encoded(picture: Image.Image) -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", MARKS[0])
    file = io.BytesIO()
    picture.save(file, "png", pnginfo=text)
    return file.getvalue()
