"""Tests of rows as aligned lines."""

from trainer import text_table

ROWS = [["name", "size"], ["a", "10"], ["bcdefg", ""]]


def test_columns_are_as_wide_as_their_widest_cell():
    assert text_table.aligned(ROWS) == ["name    size", "a       10", "bcdefg"]


def test_a_table_that_is_too_wide_continues_below_with_its_first_column():
    rows = [["class", "dice", "iou"], ["nucleus", "0.9", "0.80"]]
    below = ["class    dice", "nucleus   0.9", "", "class    iou", "nucleus  0.80"]
    assert text_table.folded(rows, {1}, width=13) == below
    assert text_table.folded(rows, {1}, width=5) == below  # no narrower than one column
    assert text_table.folded(rows, {1, 2}) == ["class    dice   iou", "nucleus   0.9  0.80"]
    assert text_table.folded(rows, {2}, first=2) == ["class    dice   iou", "nucleus  0.9   0.80"]


def test_columns_may_be_set_to_the_right_and_ruled_off():
    assert text_table.aligned(ROWS, right={1}, gap=" ", ruled=True) == [
        "name   size",
        "────── ────",
        "a        10",
        "bcdefg",
    ]
