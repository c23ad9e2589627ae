"""The command that compares two runs."""

import json

import numpy as np
import pytest

from tests.compared import write_evaluation
from trainer import cli, config
from trainer.compare import __main__ as command
from trainer.config import flags


def run(*words):
    cli.run(config.Compare, command.main, flags.with_name(["compare", *map(str, words)], "runs"))


@pytest.fixture
def runs(tmp_path):
    """Two runs on twelve cases: B is better by 0.1 in class 1, and by 0 on average in class 2."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, better in zip(folders, (0.0, 0.1), strict=True):
        cases = {f"p{n // 2}_{n}": [0.5 + better, 0.5 + better * (-1) ** n] for n in range(12)}
        write_evaluation(folder, cases)
    return folders


def test_a_comparison_prints_a_row_a_class_and_who_is_better(runs, capsys):
    run(*runs)
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("dice (higher is better) on test, 12 cases; percentile bootstrap")
    rows = [line.split() for line in lines[5:8]]
    assert " ".join(rows[0]) == "class1 0.5000 0.6000 +0.1000 +0.1000 … +0.1000 B"
    assert rows[1][:4] == ["class2", "0.5000", "0.5000", "+0.0000"]
    assert "not told apart" in lines[6]
    assert rows[2][:5] == ["mean,", "foreground", "0.5000", "0.5500", "+0.0500"]
    counts = [" ".join(line.split()) for line in lines[9:13]]
    assert counts[:2] == ["class B wins ties losses", "class1 12 0 0"]
    assert counts[2:] == ["class2 6 0 6", "mean, foreground 6 6 0"]
    assert max(map(len, lines[4:13])) <= 80
    assert lines[-1] == "B is better: the interval of the difference does not hold 0."


def test_figures_are_also_written_as_json_that_a_second_start_replaces(runs, tmp_path):
    path = tmp_path / "compared.json"
    run(*runs, f"--json={path}")
    text = path.read_text()
    run(*runs, f"--json={path}")
    assert path.read_text() == text
    found = json.loads(text)
    assert found["classes"]["class1"]["difference"] == pytest.approx(0.1)
    assert (found["foreground"]["excludes_0"], found["foreground"]["winner"]) == (True, "b")
    assert (found["cases"], found["groups"], found["seed"]) == (12, 12, 0)


def test_of_a_metric_that_is_better_lower_the_signs_are_its_own(tmp_path, capsys):
    for name, value in (("a", 2.0), ("b", 3.0)):
        write_evaluation(tmp_path / name, {f"c{n}": [value] for n in range(12)}, better="lower")
    run(tmp_path / "a", tmp_path / "b")
    row, counts = [
        line.split() for line in capsys.readouterr().out.splitlines() if "class1" in line
    ]
    assert " ".join(row) == "class1 2.0000 3.0000 +1.0000 +1.0000 … +1.0000 A"
    assert counts == ["class1", "0", "0", "12"]


def test_groups_are_counted_and_few_are_warned_of(runs, capfd):
    run(*runs, "--group_by=^([^_]+)")
    said = capfd.readouterr()
    assert "12 cases in 6 groups" in said.out
    assert "Warning: an interval from 6 groups is too narrow; evaluate on more." in said.err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["a"], "names 1 run folders; write python -m trainer.compare RUN_A RUN_B."),
        (["a", "b", "--split=val"], "has no evaluation --split=val, only test"),
        (["a", "b", "--group_by=p"], "an interval takes at least two"),
        (["a", "b", "--samples=5"], "--samples=5 is below 100"),
        (["a", "c"], "is defined in no case of"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(runs, tmp_path, capfd, words, reason):
    names = [f"p{n // 2}_{n}" for n in range(12)]
    write_evaluation(tmp_path / "c", {name: [np.nan, None] for name in names})
    with pytest.raises(SystemExit) as stop:
        run(*(word if word.startswith("-") else tmp_path / word for word in words))
    assert stop.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert reason in line


def test_a_job_says_which_data_it_was_evaluated_on(finished, tmp_path, capsys):
    run_json = json.loads((finished / "run.json").read_text())
    summary = json.loads((finished / "evaluation/test/summary.json").read_text())
    assert summary["data_fingerprint"] == run_json["data_fingerprint"]
    run(finished, finished)
    assert "A and B are not told apart" in capsys.readouterr().out
