"""The files of an evaluation."""

import csv
import dataclasses
import json

import pytest
import tensorflow as tf

from tests.evaluations import evaluator_of, pointwise_model
from trainer.evaluate import output
from trainer.evaluate.cases import CaseSelector
from trainer.monitoring import tensorboard


def test_cases_summary_and_pictures_are_written(data, tmp_path):
    selected = CaseSelector(worst=2, best=1)
    scores = evaluator_of(data, pointwise_model())("val", selected.add)
    output.write(str(tmp_path / "out"), scores, selected, data[1], "val")
    with open(tmp_path / "out" / "cases.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7 * 3
    assert [row["case"] for row in rows[::3]] == list(data[1].splits["val"].cases)
    assert [int(rows[4][key]) for key in ("truth", "prediction", "intersection")] == list(
        scores.counts[1, 1]
    )
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["dice"] == scores.summary["dice"]
    for kind, ranks in (("worst", ["01-", "02-"]), ("best", ["01-"])):
        pictures = sorted(path.name for path in (tmp_path / "out" / kind).iterdir())
        assert [name[:3] for name in pictures] == ranks


def test_pictures_of_others_stay_and_a_folder_that_was_not_finished_is_an_evaluations(
    data, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    selected = CaseSelector(worst=2)
    scores = evaluator_of(data, pointwise_model())("val", selected.add)
    with monkeypatch.context() as patch:
        patch.setattr(output, "cases_csv", lambda *arguments: 1 / 0)  # in place of a kill
        with pytest.raises(ZeroDivisionError):
            output.write(str(out), scores, selected, data[1], "val")
    output.check_output(str(out))
    output.write(str(out), scores, selected, data[1], "val")
    (out / "worst" / "notes.png").write_text("mine")
    output.write(str(out), scores, CaseSelector(), data[1], "val")
    assert [path.name for path in (out / "worst").iterdir()] == ["notes.png"]


def test_cases_may_have_any_name(data, tmp_path):
    folder, manifest = data
    split = manifest.splits["val"]
    names = ["p1/a", "p2/a", "two\nlines", "a,b", "back\\slash", "é" * 100, "a"]
    split = dataclasses.replace(split, cases=tuple(names))
    named = dataclasses.replace(manifest, splits={**manifest.splits, "val": split})
    selected = CaseSelector(worst=7, first=7)
    scores = evaluator_of((folder, named), pointwise_model())("val", selected.add)
    output.write(str(tmp_path / "out"), scores, selected, named, "val")
    with open(tmp_path / "out" / "cases.csv", newline="") as file:
        assert [row["case"] for row in csv.DictReader(file)][::3] == names
    pictures = {path.name[3:] for path in (tmp_path / "out" / "worst").iterdir()}
    assert pictures == {
        *("p1_a.png", "p2_a.png", "two_lines.png", "a,b.png", "back_slash.png", "a.png"),
        f"{'é' * 60}.png",
    }
    with tf.summary.create_file_writer(str(tmp_path / "events")).as_default(step=1):
        tensorboard.write_evaluation(scores, selected, named, "val")
