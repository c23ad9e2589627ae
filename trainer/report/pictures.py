"""A run as two pictures for slides: its scores, curve and cases, and its confusions."""

import io

import numpy as np
from PIL import Image, ImageDraw, PngImagePlugin

from trainer.drawing import captions, charts
from trainer.report import page
from trainer.report.runs import Run

MARKS = ("trainer.report",)  # in what is written
WIDTH, GAP = 1200, 16  # pixels
LINE = captions.LINE
SHOWN = (("best", 1), ("worst", 2))  # of each kind of cases so many


def results(run: Run) -> bytes:
    """Draws the Dice over the steps, the scores, and a good and two bad cases, as a PNG."""
    classes = list(run.summary.get("classes", {}))[1:]
    figures = {"mean, foreground": "dice", **{name: f"dice/{name}" for name in classes}}
    lines = {name: run.curve("val", figure) for name, figure in figures.items()}
    shown = [(name, points) for name, points in lines.items() if points][: charts.MOST_LINES]
    curve = charts.shares_over_steps(dict(shown), "val Dice")
    cases = [
        (f"{kind} cases: {name}", _fitted(png))
        for kind, number in SHOWN
        for name, png in run.pictures.get(kind, ())[:number]
    ]
    top = 2 * LINE + GAP
    height = top + len(curve) + sum(LINE + GAP + case.height for _, case in cases) + GAP
    canvas = Image.new("RGB", (WIDTH, height), charts.PAPER)
    draw = ImageDraw.Draw(canvas)

    def write(left: int, top: int, text: str, width: int) -> None:
        draw.text((left, top), captions.cut(text, width), charts.INK, captions.font())

    write(GAP, GAP, run.folder, WIDTH - 2 * GAP)
    write(GAP, GAP + LINE, page.headline(run), WIDTH - 2 * GAP)
    canvas.paste(Image.fromarray(curve), (0, top))
    left = curve.shape[1] + GAP
    table = page.scores(run.summary, run.cases) if run.summary else {"heads": [], "rows": []}
    columns = [(left, 220), *((left + 220 + 150 * k, 140) for k in range(3))]
    for row, cells in enumerate([table["heads"], *table["rows"]][: len(curve) // LINE - 3]):
        for (place, width), cell in zip(columns, cells, strict=False):
            write(place, top + charts.MARGIN + LINE * row, cell, width)
    place = top + len(curve)
    for caption, case in cases:
        write(GAP, place, caption, WIDTH - 2 * GAP)
        canvas.paste(case, (GAP, place + LINE))
        place += LINE + GAP + case.height
    return _encoded(canvas)


def confusion(run: Run) -> bytes:
    """Draws the confusions of a run that has some, as a PNG."""
    found = page.confusions(run)
    names = found["names"] if found else []
    counts = np.array(run.confusions)[: len(names), : len(names)]
    return _encoded(Image.fromarray(charts.confusion_matrix(counts, names)))


def _fitted(png: bytes) -> Image.Image:
    """Returns a picture that is no wider than the canvas, less its margins."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.thumbnail((WIDTH - 2 * GAP, WIDTH))
    return picture


def _encoded(picture: Image.Image) -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", MARKS[0])
    file = io.BytesIO()
    picture.save(file, "png", pnginfo=text)
    return file.getvalue()
