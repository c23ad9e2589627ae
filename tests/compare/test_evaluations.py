"""Which evaluations may be compared."""

import json

import numpy as np
import pytest

from tests.compared import write_evaluation
from trainer.compare.evaluations import check_comparable, read
from trainer.errors import InputError


def test_cases_are_paired_by_name_whatever_their_order(tmp_path):
    write_evaluation(tmp_path / "a", {"x": [0.5, 0.25], "two\nlines": [None, 1.0]})
    write_evaluation(tmp_path / "b", {"two\nlines": [1.0, 1.0], "x": [0.5, 0.75]})
    a, b = (read(str(tmp_path / name), "test", "dice") for name in "ab")
    check_comparable(a, b)
    assert a.cases == b.cases == ("two\nlines", "x")
    assert a.classes == ("background", "class1", "class2")
    np.testing.assert_array_equal(a.of_foreground(), [[np.nan, 1.0], [0.5, 0.25]])
    np.testing.assert_array_equal(b.of_foreground(), [[1.0, 1.0], [0.5, 0.75]])


@pytest.mark.parametrize(
    ("better", "expected"), [("higher", [-2, 1]), ("lower", [2, -1]), ("near 0", [-2, -1])]
)
def test_larger_is_better_whatever_the_metric(tmp_path, better, expected):
    write_evaluation(tmp_path, {"x": [-2.0, 1.0]}, better=better)
    assert read(str(tmp_path), "test", "dice").of_foreground().tolist() == [expected]


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ({"data_fingerprint": "other"}, "data with fingerprint"),
        ({"classes": ("class1", "lesion")}, "has the classes"),
        ({"meaning": "something else"}, "measured another metric by the same name"),
        ({"tolerance": {"value": 2.0, "unit": "mm"}}, "another --tolerance_mm"),
        ({"names": ("x", "z")}, "they do not match: y is only in"),
    ],
)
def test_what_does_not_match_is_refused(tmp_path, others, reason):
    first, second = others.pop("names", ("x", "y"))
    write_evaluation(tmp_path / "a", {"x": [0.5, 0.5], "y": [0.5, 0.5]})
    write_evaluation(tmp_path / "b", {first: [0.5, 0.5], second: [0.5, 0.5]}, **others)
    a, b = (read(str(tmp_path / name), "test", "dice") for name in "ab")
    with pytest.raises(InputError, match=reason):
        check_comparable(a, b)


def test_a_run_without_the_evaluation_or_the_metric_is_refused_with_those_it_has(tmp_path):
    with pytest.raises(InputError, match="has no evaluation; name a run folder"):
        read(str(tmp_path), "test", "dice")
    write_evaluation(tmp_path, {"x": [0.5, 0.5]})
    with pytest.raises(InputError, match="has no evaluation --split=val, only test; name one"):
        read(str(tmp_path), "val", "dice")
    with pytest.raises(InputError, match="--metric=hd95 is not in .*, which has dice; name one"):
        read(str(tmp_path), "test", "hd95")


def test_damaged_files_are_refused(tmp_path):
    write_evaluation(tmp_path, {"x": [0.5, 0.5]})
    place = tmp_path / "evaluation" / "test"
    table = (place / "cases.csv").read_text()
    for damaged, reason in (
        (table + table.splitlines()[1] + "\n", "'x' is there twice"),
        (table.replace("dice", "duce"), "is not the table of an evaluation"),
        (table.replace("0.500000", "half"), "is not the table of an evaluation"),
        (table.replace("class1", "class9"), "differ in their classes"),
    ):
        (place / "cases.csv").write_text(damaged)
        with pytest.raises(InputError, match=reason):
            read(str(tmp_path), "test", "dice")
    for damaged in ("{", "[]", json.dumps({"metrics": {}})):
        (place / "summary.json").write_text(damaged)
        with pytest.raises(InputError, match="evaluate again"):
            read(str(tmp_path), "test", "dice")
