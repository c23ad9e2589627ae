"""Cross-validation as a command."""

import csv
import dataclasses
import json
import os
import pathlib
import shutil
import signal

import numpy as np
import pytest

from tests.jobs import SMALL, begin, command, wait_for
from tests.runs import write_run
from trainer import cli, config
from trainer.checkpointing import run_metadata
from trainer.config import flags
from trainer.crossval import __main__ as crossval
from trainer.crossval import configurations, cross_validate
from trainer.crossval import fold as folding
from trainer.data.dataset import schema
from trainer.errors import InputError
from trainer.evaluate import components
from trainer.storage import files


def arguments(data_dir, run_dir, *others):
    return [f"--data_dir={data_dir}", f"--run_dir={run_dir}", *SMALL, *others]


def refusal(capfd, *argv):
    """Runs the command in this process, which must refuse it; returns the line that says why."""
    with pytest.raises(SystemExit) as stop:
        cli.run(config.CrossValidation, crossval.main, ["crossval", *map(str, argv)])
    assert stop.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    return line


@pytest.mark.slow
def test_a_stopped_cross_validation_resumes_and_sums_up_every_case_once(folds_dir, tmp_path):
    run_dir, manifest = tmp_path / "CV", schema.read_manifest(folds_dir)
    argv = arguments(folds_dir, run_dir, "--folds=3", "--steps=6")
    job = begin("trainer.crossval", *argv, start_new_session=True)
    wait_for(job, run_dir / "fold-0/best")
    job.send_signal(signal.SIGTERM)
    _, said = job.communicate()
    assert job.returncode == 143, said
    assert "The cross-validation was stopped by SIGTERM. The same command resumes." in said
    done = command("trainer.crossval", *argv)
    assert done.returncode == 0, done.stderr
    with open(run_dir / "evaluation/val/cases.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    expected = [(name, str(k)) for k, fold in enumerate(manifest.folds) for name in fold.val.cases]
    assert [(row["case"], row["fold"]) for row in rows[::2]] == expected
    summary = json.loads((run_dir / "evaluation/val/summary.json").read_text())
    folds = [
        json.loads((run_dir / f"fold-{k}/evaluation/val/summary.json").read_text())
        for k in range(3)
    ]
    for metric in ("dice", "hd95", "nsd"):
        found = [part["per_image"]["foreground"][metric] for part in folds]
        assert [part["mean, foreground"][metric] for part in summary["folds"]] == pytest.approx(
            found, abs=2e-6
        )  # cases.csv has six decimals
    assert summary["images"] == 12
    assert summary["tolerance"] == folds[0]["tolerance"]
    assert summary["data_fingerprint"] == schema.fingerprint(manifest)
    assert "Out-of-fold, 12 cases in folds of 4, 4, 4" in done.stdout
    decision = json.loads((run_dir / "postprocessing.json").read_text())
    assert decision["decided_on"]["cases"] == 12
    assert "Post-processing: " in done.stdout
    # A second start trains nothing, and says the same.
    before = (run_dir / "fold-1/run.json").read_bytes()
    again = command("trainer.crossval", *argv)
    assert (again.returncode, again.stdout) == (0, done.stdout)
    assert (run_dir / "fold-1/run.json").read_bytes() == before
    refused = command("trainer.crossval", *argv, "--learning_rate=0.01")
    assert refused.returncode == 2
    assert f"{run_dir}/fold-0 was trained with other settings: --learning_rate=0.01" in (
        refused.stderr
    )
    assert run_metadata.with_folds([str(run_dir)]) == [str(run_dir / f"fold-{k}") for k in range(3)]


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["--fold=1"], "--fold=1: trainer.crossval trains every fold; drop it."),
        (["--model_dir=x"], "--model_dir=x is for one model, and each fold is one; drop it, and"),
        (["--data_dir="], "--data_dir is missing; name a folder that was prepared with --folds."),
        (["--strategy=multi_worker"], "trainer.crossval runs on one machine; on several, train"),
        (["--folds=5"], "--folds=5 and --data_dir=DATA has 3; use --folds=3, or prepare"),
        (["--folds=1"], "--folds=1 is below 2, its smallest value."),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(folds_dir, tmp_path, capfd, argv, reason):
    line = refusal(capfd, *arguments(folds_dir, tmp_path / "CV", "--folds=3", *argv))
    assert line.replace(folds_dir, "DATA").startswith(reason)
    assert not (tmp_path / "CV").exists()


def test_data_without_folds_and_a_folder_of_a_run_are_refused(data_dir, tmp_path, capfd):
    assert refusal(capfd, *arguments(data_dir, tmp_path / "CV")) == (
        f"--data_dir={data_dir} has no folds; prepare the data again with --folds=5."
    )
    write_run(tmp_path)
    assert refusal(capfd, *arguments(data_dir, tmp_path)).startswith(
        f"--run_dir={tmp_path} holds a run; name another folder"
    )


def write_ended(job, manifest, found):
    """Writes folds whose runs have ended; of each case 4 pixels are true, and so many are found.

    Of these 4 are found by the largest component alone, and 4 are right.
    """
    run = run_metadata.read(write_run(f"{job.run.run_dir}-any"))
    for k, part in enumerate(manifest.folds):
        fold = folding.of(job, k, manifest)
        facts = {"data_fingerprint": fold.fingerprint, "total_steps": 7, "exit_reason": "finished"}
        facts["data"] = {**run["data"], "folds": len(manifest.folds)}
        run_metadata.write(fold.run_dir, {**run, "settings": config.to_dict(fold.job), **facts})
        place = pathlib.Path(fold.run_dir, "evaluation/val")
        place.mkdir(parents=True)
        summary = {"data_fingerprint": fold.fingerprint, "tolerance": {"value": 1.0}}
        (place / "summary.json").write_text(json.dumps({**summary, "components": "all"}))
        rows = [f"{case},class{c},4,{(4, found)[c]},4" for case in part.val.cases for c in range(2)]
        head = "case,class,truth,prediction,intersection"
        (place / "cases.csv").write_text("\n".join([head, *rows]) + "\n")
        of_case = [[(4, 4, 4), (4, pixels, 4)] for pixels in (found, 4, 4, 4)]
        text = components.to_csv(np.array([of_case] * 4), part.val.cases, ["class0", "class1"])
        (place / "components.csv").write_text(text)
        files.write_whole(fold.temperature, "{}")


def test_folds_that_have_ended_are_summed_up_and_decide_without_a_process(
    folds_dir, tmp_path, capsys, monkeypatch
):
    asked = flags.parse(
        config.CrossValidation,
        ["crossval", f"--data_dir={folds_dir}", f"--run_dir={tmp_path}", "--folds=3", "--steps=7"],
    )
    write_ended(asked.job, schema.read_manifest(folds_dir), 8)
    monkeypatch.setattr(cross_validate.subprocess, "Popen", lambda *argv, **options: 1 / 0)
    crossval.main(asked)
    said = capsys.readouterr().out
    assert "Out-of-fold, 12 cases in folds of 4, 4, 4" in said
    assert "only the largest component of the foreground is kept" in said
    assert "validation Dice 0.6667 → 1.0000" in said
    assert components.read(str(tmp_path), ["class0", "class1"]) == components.Decision(True)
    decided_on = json.loads((tmp_path / "postprocessing.json").read_text())["decided_on"]
    assert (decided_on["cases"], decided_on["split"]) == (12, "val of every fold")


def test_the_configuration_with_the_best_dice_of_all_folds_is_chosen(
    folds_dir, tmp_path, capfd, monkeypatch
):
    for name, filters in (("narrow", 4), ("wide", 8)):
        (tmp_path / f"{name}.cfg").write_text(f"--filters={filters}\n")
    run_dir = tmp_path / "CV"
    argv = ["--folds=3", f"--configurations={tmp_path}/narrow.cfg,{tmp_path}/wide.cfg"]
    argv = [f"--data_dir={folds_dir}", f"--run_dir={run_dir}", "--steps=7", *argv]
    asked = flags.parse(config.CrossValidation, ["crossval", *argv])
    for (name, job), found in zip(configurations.read(asked).items(), (8, 4), strict=True):
        assert job.run.run_dir == str(run_dir / name)
        write_ended(job, schema.read_manifest(folds_dir), found)
    monkeypatch.setattr(cross_validate.subprocess, "Popen", lambda *argv, **options: 1 / 0)
    crossval.main(asked)
    said = capfd.readouterr().out
    # The Dice of 4 pixels of 8 that are found is 2/3.
    lines = [" ".join(line.split()) for line in said.splitlines()]
    assert "narrow 0.6667 +0.3333 +0.3333 … +0.3333 is better 12 0 0" in lines
    assert lines[-1] == f"The best is wide: {run_dir}/wide"
    folds = [str(run_dir / f"wide/fold-{k}") for k in range(3)]
    assert run_metadata.with_folds([str(run_dir)]) == folds
    # The decision on components is that of the best: all are kept.
    assert components.read(run_metadata.chosen(str(run_dir)), ["class0", "class1"]) == (
        components.ALL
    )
    # Its folds are not those of a cross-validation of the flags alone, nor the other way round.
    assert refusal(capfd, *argv[:3], "--folds=3") == (
        f"--run_dir={run_dir} holds a cross-validation with --configurations; name another folder."
    )
    argv[1] = f"--run_dir={run_dir}/wide"
    assert refusal(capfd, *argv).endswith(
        "wide holds a cross-validation without --configurations; name another folder."
    )


@pytest.fixture
def fold(tmp_path):
    """A fold whose run has ended, and was evaluated."""
    run_dir = write_run(tmp_path / "fold-1")
    run = run_metadata.read(run_dir)
    job = config.from_dict(config.Job, {**run["settings"], "run_dir": run_dir})
    run_metadata.write(run_dir, {**run, "exit_reason": "finished", "data_fingerprint": "d"})
    found = folding.Fold(1, job, run["total_steps"], "d")
    (tmp_path / "fold-1/evaluation/val").mkdir(parents=True)
    summary = {"data_fingerprint": "d", "tolerance": {"value": 1.0, "unit": "px"}}
    summary["components"] = "all"
    (tmp_path / "fold-1/evaluation/val/summary.json").write_text(json.dumps(summary))
    for name in ("components.csv", "cases.csv"):
        (tmp_path / "fold-1/evaluation/val" / name).touch()
    (tmp_path / "fold-1/calibration.json").touch()
    return found


def test_a_fold_is_trained_once_and_again_with_more_steps(fold):
    assert fold.is_trained()
    assert not dataclasses.replace(fold, total_steps=fold.total_steps + 1).is_trained()
    with pytest.raises(InputError, match=r"other settings: 6 steps \(were 7\); give the same"):
        dataclasses.replace(fold, total_steps=fold.total_steps - 1).is_trained()
    with pytest.raises(InputError, match="other settings: other data; give"):
        dataclasses.replace(fold, fingerprint="e").is_trained()
    run = run_metadata.read(fold.run_dir)
    for reason, is_trained in ((None, False), ("Stopped", False), ("stopped early", True)):
        run_metadata.write(fold.run_dir, {**run, "exit_reason": reason})
        assert fold.is_trained() == is_trained
    shutil.rmtree(fold.run_dir)
    assert not fold.is_trained()


def test_an_evaluation_of_other_data_or_with_another_tolerance_is_done_again(fold):
    assert fold.is_evaluated()
    assert not dataclasses.replace(fold, fingerprint="e").is_evaluated()
    run = dataclasses.replace(fold.job.run, tolerance_mm=2.0)
    other = dataclasses.replace(fold.job, run=run)
    assert not dataclasses.replace(fold, job=other).is_evaluated()
    text = files.read_text(fold.evaluation)
    files.write_whole(fold.evaluation, text.replace('"all"', '"only the largest"'))
    assert not fold.is_evaluated()
    files.write_whole(fold.evaluation, text)
    assert fold.is_evaluated()
    for name in ("cases.csv", "components.csv"):
        path = os.path.join(os.path.dirname(fold.evaluation), name)
        files.remove(path)
        assert not fold.is_evaluated()
        files.write_whole(path, "")
