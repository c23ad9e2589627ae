"""Pictures of tables and curves."""

import numpy as np
from PIL import ImageDraw

from trainer.drawing import captions, charts, overlays
from trainer.evaluate import counting


def test_a_confusion_matrix_colours_shares_of_its_rows():
    picture = charts.confusion_matrix(np.array([[30, 10], [0, 0]]), ["background", "nucleus"])
    left = 24 + round(captions.font().getlength("background"))

    def corner(row, column):
        place = picture[50 + charts.CELL * row + 3, left + charts.CELL * column + 3]
        return tuple(int(v) for v in place)

    def colour(share):
        return tuple(int(v) for v in overlays.draw_quantity(np.array([[share]]))[0, 0])

    assert corner(0, 0) == colour(0.75)
    assert corner(0, 1) == colour(0.25)
    assert corner(1, 0) == corner(1, 1) == colour(0.0)  # a class without pixels


def test_a_class_without_pixels_has_no_shares(monkeypatch):
    written = record_texts(monkeypatch)
    charts.confusion_matrix(np.array([[30, 10], [0, 0]]), ["background", "nucleus"])
    assert written[-5:] == ["75.0%", "25.0%", "nucleus", "–", "–"]


def test_few_steps_are_numbered_by_where_they_are(monkeypatch):
    written = record_texts(monkeypatch)
    charts.shares_over_steps({"mean": [(1, 0.5), (4, 0.5)]}, "val Dice")
    assert written[:12:2] == ["0", "0.8", "1.6", "2.4", "3.2", "4"]


def test_a_long_name_is_cut_and_the_number_of_lines_that_are_left_out_is_said(monkeypatch):
    written = record_texts(monkeypatch)
    lines = {f"{k}{'L' * 200}": [(1, 0.5)] for k in range(charts.MOST_LINES + 3)}
    charts.shares_over_steps(lines, "val Dice")
    *names, last = written[-charts.MOST_LINES - 1 :]
    assert all(captions.font().getlength(name) <= charts.MARGIN + charts.SIDE for name in names)
    assert last == "3 more"


def record_texts(monkeypatch):
    """Returns a list that takes the texts that are drawn from now on."""
    written = []
    draw = ImageDraw.ImageDraw.text

    def text(self, place, text, *others):
        written.append(text)
        draw(self, place, text, *others)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return written


def test_a_reliability_diagram_has_a_point_where_pixels_are():
    counts = np.zeros((1, 101, 2), int)
    counts[0, 95] = 60, 20  # given 0.955, true in a quarter
    picture = charts.reliability([counting.calibration(counts[0])], ["nucleus"])
    across = charts.MARGIN + round(charts.SIDE * 0.955)
    up = charts.MARGIN + round(charts.SIDE * 0.75)
    assert tuple(int(v) for v in picture[up, across]) == overlays.class_colour(1)


def test_the_curve_of_a_class_has_its_colour_and_that_of_the_mean_none():
    picture = charts.shares_over_steps({"mean": [(10, 0.5)], "a": [(10, 0.9)]}, "val Dice")

    def centre(share):
        point = picture[
            charts.MARGIN + round(charts.SIDE * (1 - share)), charts.MARGIN + charts.SIDE
        ]
        return tuple(int(v) for v in point)

    assert centre(0.5) == charts.INK
    assert centre(0.9) == overlays.class_colour(1)


def test_many_classes_are_drawn():
    names = [f"class{k}" for k in range(12)]
    assert charts.confusion_matrix(np.eye(12), names).shape[1] > 12 * charts.CELL
    calibrations = [counting.calibration(np.ones((101, 2)))] * 11
    assert charts.reliability(calibrations, names[1:]).ndim == 3
