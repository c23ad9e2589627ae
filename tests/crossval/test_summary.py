"""What the folds say together."""

import dataclasses
import types

import numpy as np
import pytest

from trainer.crossval import summary
from trainer.data.dataset import schema
from trainer.errors import InputError

MANIFEST = types.SimpleNamespace(
    classes=[schema.Class(name, k) for k, name in enumerate(("background", "a", "b"))], rank=3
)
HEADS = "case,class,truth,prediction,intersection,dice,iou,nsd"


def write_fold(folder, cases):
    """Writes the evaluation of a fold; of each case the counts, and nsd, of the classes a and b."""
    place = folder / "evaluation" / "val"
    place.mkdir(parents=True)
    lines = [HEADS]
    for case, values in cases.items():
        lines.append(f"{case},background,9,9,9,,,")
        for name, (truth, prediction, both, nsd) in zip("ab", values, strict=True):
            lines.append(f"{case},{name},{truth},{prediction},{both},,,{nsd}")
    (place / "cases.csv").write_text("\n".join(lines) + "\n")
    return str(folder)


@pytest.fixture
def found(tmp_path):
    # Dice of a: 1 and 0.5, then 0.75; of b: undefined and 0, then 1.
    first = {"x": [(4, 4, 4, 0.5), (0, 0, 0, "")], "y": [(4, 4, 2, 1), (1, 0, 0, 0)]}
    second = {"z": [(4, 4, 3, 0.25), (2, 2, 2, 1)]}
    folders = [write_fold(tmp_path / "0", first), write_fold(tmp_path / "1", second)]
    return summary.read(folders, MANIFEST, 2.0)


def test_every_case_counts_once_and_an_undefined_score_is_left_out(found):
    classes = found.summary["classes"]
    assert classes["a"]["per_image"]["dice"] == pytest.approx((1 + 0.5 + 0.75) / 3)
    assert classes["b"]["per_image"]["dice"] == pytest.approx((0 + 1) / 2)
    assert found.summary["dice"] == pytest.approx((0.75 + 0.5) / 2)
    assert classes["a"]["per_image"]["nsd"] == pytest.approx(1.75 / 3)
    assert found.summary["tolerance"] == {"value": 2.0, "unit": "mm"}
    assert found.summary["soft_dice_nvidia"] == {"per_image": None, "pooled": None}


def test_the_spread_is_over_cases_and_over_the_means_of_folds(found):
    spread, parts = found.summary["spread"], found.summary["folds"]
    assert spread["a"]["dice"]["cases"] == pytest.approx(np.std([1, 0.5, 0.75], ddof=1))
    assert [part["a"]["dice"] for part in parts] == [0.75, 0.75]
    assert [part["b"]["dice"] for part in parts] == [0, 1]
    assert spread["a"]["dice"]["folds"] == 0
    assert spread["b"]["dice"]["folds"] == pytest.approx(np.std([0, 1], ddof=1))
    # The foreground of a case is the mean of its defined classes: 1, 0.25 and 0.875.
    of_cases = np.std([1, 0.25, 0.875], ddof=1)
    assert spread["mean, foreground"]["dice"]["cases"] == pytest.approx(of_cases)
    assert [part["mean, foreground"]["dice"] for part in parts] == [0.375, 0.875]
    assert [part["images"] for part in parts] == [2, 1]


def test_the_table_has_a_row_for_each_class_and_a_column_for_each_fold(found):
    lines = summary.table(found).splitlines()
    assert lines[0].startswith("Out-of-fold, 3 cases in folds of 2, 1: mean over cases,")
    assert lines[3].split() == ["dice", "a", "0.7500", "0.2500", "0.0000", "0.7500", "0.7500"]
    assert lines[4].split() == ["dice", "b", "0.5000", "0.7071", "0.7071", "0.0000", "1.0000"]
    assert lines[5].split()[:3] == ["dice", "mean,", "foreground"]


def test_a_table_that_is_damaged_is_refused(tmp_path):
    folder = write_fold(tmp_path / "0", {"x": [(4, 4, 4, 0.5), (0, 0, 0, "")]})
    other = dataclasses.replace(MANIFEST.classes[2], name="c")
    manifest = types.SimpleNamespace(classes=[*MANIFEST.classes[:2], other], rank=3)
    with pytest.raises(InputError, match="val has other classes than the data; remove it"):
        summary.read([folder], manifest, 1.0)
    path = tmp_path / "0/evaluation/val/cases.csv"
    path.write_text(HEADS + "\n")
    with pytest.raises(
        InputError, match=r"is not the table of an evaluation \(it has no case\); remove it\.$"
    ):
        summary.read([folder], MANIFEST, 1.0)
