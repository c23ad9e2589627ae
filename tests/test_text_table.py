"""Tests of rows as aligned lines."""

from trainer import text_table

ROWS = [["name", "size"], ["a", "10"], ["bcdefg", ""]]


def test_columns_are_as_wide_as_their_widest_cell():
    assert text_table.aligned(ROWS) == ["name    size", "a       10", "bcdefg"]


def test_columns_may_be_set_to_the_right_and_ruled_off():
    assert text_table.aligned(ROWS, right={1}, gap=" ", ruled=True) == [
        "name   size",
        "────── ────",
        "a        10",
        "bcdefg",
    ]
