"""The files of an evaluation."""

import csv
import dataclasses
import importlib.util
import json

import pytest
import tensorflow as tf

from tests.devices import strategy_of
from tests.evaluations import evaluator_of, pointwise_model
from trainer.errors import InputError
from trainer.evaluate import case_tables, output
from trainer.evaluate.case_tables import CaseTables
from trainer.evaluate.cases import CaseSelector
from trainer.monitoring import tensorboard


def write(folder, data, selected, *, replicas=1):
    """Evaluates the val split and writes its files; returns the scores."""
    manifest = data[1]
    names = [entry.name for entry in manifest.classes]
    with CaseTables(manifest.splits["val"].cases, names) as tables:
        evaluator = evaluator_of(data, pointwise_model(replicas), replicas=replicas)
        scores = evaluator("val", selected.add, tolerance=1.0, keep=tables.keep)
        strategy = strategy_of(replicas)
        output.write(str(folder), scores, tables, selected, manifest, "val", strategy)
    return scores


def test_cases_summary_and_pictures_are_written(data, scores, tmp_path):
    summary = write(tmp_path / "out", data, CaseSelector(worst=2, best=1)).summary
    with open(tmp_path / "out" / "cases.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7 * 3
    assert [row["case"] for row in rows[::3]] == list(data[1].splits["val"].cases)
    assert [int(rows[4][key]) for key in ("truth", "prediction", "intersection")] == list(
        scores.counts[1, 1]
    )
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["dice"] == summary["dice"]
    for kind, ranks in (("worst", ["01-", "02-"]), ("best", ["01-"])):
        pictures = sorted(path.name for path in (tmp_path / "out" / kind).iterdir())
        assert [name[:3] for name in pictures] == ranks


def test_pictures_of_others_stay_and_a_folder_that_was_not_finished_is_an_evaluations(
    data, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(case_tables, "to_csv", lambda *arguments: 1 / 0)  # in place of a kill
        with pytest.raises(ZeroDivisionError):
            write(out, data, CaseSelector(worst=2))
    output.check_output(str(out))
    write(out, data, CaseSelector(worst=2))
    (out / "worst" / "notes.png").write_text("mine")
    write(out, data, CaseSelector())
    assert [path.name for path in (out / "worst").iterdir()] == ["notes.png"]


def test_tables_that_no_evaluation_wrote_are_not_replaced(tmp_path):
    (tmp_path / "cases-00000-of-00002.parquet").write_text("mine")
    with pytest.raises(InputError, match=r"holds cases-00000-of-00002.parquet that no evaluation"):
        output.check_output(str(tmp_path))


def test_tables_of_a_former_evaluation_are_removed_whatever_they_were(data, tmp_path, monkeypatch):
    def tables():
        return sorted(path.name for path in tmp_path.glob("cases*"))

    write(tmp_path, data, CaseSelector())
    assert tables() == ["cases-00000-of-00001.parquet", "cases.csv"]
    (tmp_path / "cases-00001-of-00002.parquet").write_text("of two workers")
    with monkeypatch.context() as patch:
        patch.setattr(case_tables, "MOST_IN_CSV", 6)
        write(tmp_path, data, CaseSelector())
    assert tables() == ["cases-00000-of-00001.parquet"]
    without_pyarrow(monkeypatch)
    write(tmp_path, data, CaseSelector())
    assert tables() == ["cases.csv"]


def test_figures_are_the_same_with_and_without_parquet(data, tmp_path, monkeypatch):
    ours = write(tmp_path / "with", data, CaseSelector()).summary
    without_pyarrow(monkeypatch)
    theirs = write(tmp_path / "without", data, CaseSelector(), replicas=2).summary
    tables = [(tmp_path / name / "cases.csv").read_bytes() for name in ("with", "without")]
    assert tables[0] == tables[1]
    for name in ("per_image", "pooled", "classes", "accuracy"):
        assert ours[name] == theirs[name]


def without_pyarrow(monkeypatch):
    """Has this process not find pyarrow."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "pyarrow" else find(name)
    )


def test_cases_may_have_any_name(data, tmp_path):
    folder, manifest = data
    split = manifest.splits["val"]
    names = ["p1/a", "p2/a", "two\nlines", "a,b", "back\\slash", "é" * 100, "a"]
    split = dataclasses.replace(split, cases=tuple(names))
    named = dataclasses.replace(manifest, splits={**manifest.splits, "val": split})
    selected = CaseSelector(worst=7, first=7)
    scores = write(tmp_path / "out", (folder, named), selected)
    with open(tmp_path / "out" / "cases.csv", newline="") as file:
        assert [row["case"] for row in csv.DictReader(file)][::3] == names
    pictures = {path.name[3:] for path in (tmp_path / "out" / "worst").iterdir()}
    assert pictures == {
        *("p1_a.png", "p2_a.png", "two_lines.png", "a,b.png", "back_slash.png", "a.png"),
        f"{'é' * 60}.png",
    }
    with tf.summary.create_file_writer(str(tmp_path / "events")).as_default(step=1):
        tensorboard.write_evaluation(scores, selected, named, "val")
