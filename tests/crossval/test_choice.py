"""The choice among configurations."""

import json

import pytest

from tests.compared import write_evaluation
from trainer.crossval import choice
from trainer.errors import InputError


def write(folder, **values):
    """Writes the evaluation of each configuration, of cases with so large a Dice of one class."""
    for name, dice in values.items():
        cases = {f"p{n // 2}_{n}": [value] for n, value in enumerate(dice)}
        write_evaluation(folder / name, cases, split="val")
    return {name: sum(dice) / len(dice) for name, dice in values.items()}


def test_the_best_comes_first_with_its_paired_difference_from_each(tmp_path):
    dice = write(tmp_path, a=[0.5, 0.7, 0.5, 0.7], b=[0.6, 0.8, 0.6, 0.8], c=[0.8, 0.6, 0.8, 0.56])
    found = choice.choose(str(tmp_path), dice, "")
    assert list(found.dice) == ["b", "c", "a"]
    assert (found.best, found.num_cases, found.num_groups) == ("b", 4, 4)
    one = found.others["a"]  # by 0.1 in each case, whichever are drawn
    assert (one.difference, one.low, one.high) == pytest.approx((0.1, 0.1, 0.1))
    assert (one.winner, one.wins) == ("b", 4)
    assert found.others["c"].difference == pytest.approx(0.01)  # -0.2, 0.2, -0.2 and 0.24
    assert found.others["c"].winner == ""
    rows = [" ".join(line.split()) for line in choice.table(found).splitlines()]
    assert "a 0.6000 +0.1000 +0.1000 … +0.1000 is better 4 0 0" in rows
    assert any(row.startswith("c 0.6900 +0.0100 ") and "is not told apart" in row for row in rows)
    choice.write(str(tmp_path), found, "d")
    written = json.loads((tmp_path / "configurations.json").read_text())
    assert (written["best"], written["configurations"]["b"]) == (
        "b",
        {"dice": pytest.approx(0.7), "best_less_this": None},
    )
    assert written["configurations"]["a"]["best_less_this"]["low"] == pytest.approx(0.1)


def test_cases_of_a_group_are_drawn_together(tmp_path):
    dice = write(tmp_path, a=[0.5] * 4, b=[0.7, 0.7, 0.5, 0.5])
    found = choice.choose(str(tmp_path), dice, "^(p[0-9]+)_")
    assert (found.num_cases, found.num_groups) == (4, 2)
    # Both groups, or one of them twice: 0, 0.1 or 0.2.
    assert (found.others["a"].low, found.others["a"].high) == pytest.approx((0.0, 0.2))
    assert "4 cases in 2 groups" in choice.table(found)


def test_of_equal_ones_the_first_is_the_best_and_an_undefined_one_the_last(tmp_path):
    dice = {"c": None, **write(tmp_path, b=[0.5, 0.6], a=[0.6, 0.5])}
    write(tmp_path, c=[float("nan")] * 2)
    found = choice.choose(str(tmp_path), dice, "")
    assert list(found.dice) == ["b", "a", "c"]
    assert "c – " in " ".join(choice.table(found).split())


def test_other_cases_are_not_compared(tmp_path):
    dice = write(tmp_path, a=[0.5, 0.6], b=[0.5, 0.6, 0.7])
    with pytest.raises(InputError, match="a has 2 cases and .*b 3, and they do not match"):
        choice.choose(str(tmp_path), dice, "")
