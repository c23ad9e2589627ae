"""Pictures of tables and curves."""

import numpy as np

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
