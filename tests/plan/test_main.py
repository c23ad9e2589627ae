"""`python -m trainer.plan`."""

import dataclasses

import pytest

from tests import shards
from trainer import cli, config
from trainer.config import flags
from trainer.data.dataset import schema
from trainer.data.dataset.schema import Grid
from trainer.errors import InputError
from trainer.plan import __main__ as command
from trainer.plan import measure, timed


def plan(*argv):
    cli.run(config.Plan, command.main, ["trainer.plan", *argv])


@pytest.fixture
def folder(tmp_path):
    """Volumes of 24×16×16 voxels."""
    (tmp_path / "balls").mkdir()
    shapes = {"train": [(24, 16, 16)] * 9, "val": [(8, 8, 8)]}
    manifest = shards.write_balls(tmp_path / "balls", shapes)
    grids = (Grid((48, 16, 16), (1.0, 1.0, 1.0), 9),)
    schema.write_manifest(dataclasses.replace(manifest, grids=grids), str(tmp_path / "balls"))
    return tmp_path / "balls"


def test_a_plan_names_its_data_and_a_run_of_their_own(folder, caplog):
    plan(f"--data_dir={folder}", "--rules=nnunet")
    job = flags.parse(config.Job, ["trainer.task", f"--flagfile={folder}/plan.cfg"])
    assert (job.data.data_dir, job.run.run_dir) == (str(folder), "runs/balls")
    assert (job.data.crop, job.model.strides) == ((24, 16, 16), "1,2,2/2/2,1,1")
    assert caplog.messages[-1] == (
        f"Wrote {folder}/plan.cfg. Train by it: python -m trainer.task --flagfile={folder}/plan.cfg"
    )


def test_a_plan_that_somebody_changed_is_left_alone(folder, capfd):
    (folder / "plan.cfg").write_text("--filters=3\n")
    with pytest.raises(SystemExit) as stop:
        plan(f"--data_dir={folder}", "--rules=nnunet")
    assert stop.value.code == 2
    assert "exists and is not as trainer.plan wrote it" in capfd.readouterr().err
    assert (folder / "plan.cfg").read_text() == "--filters=3\n"


def test_the_demo_data_have_a_plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan("--rules=nnunet")
    job = flags.parse(config.Job, ["trainer.task", "--flagfile=plan.cfg"])
    assert (job.data.data_dir, job.run.run_dir, job.data.crop) == ("", "runs/demo", 256)


@pytest.mark.parametrize(
    ("flags_given", "message"),
    [
        ({"rules": "nnunet", "minutes": 4.0}, "--minutes=4.0 is for --rules=auto, and --rules="),
        ({"memory_gb": 4.0}, "--memory_gb=4.0 is for --rules=nnunet, and --rules=auto does not "),
        ({"chips": 4}, "--chips=4 needs --accelerator; name the chip."),
    ],
)
def test_a_flag_that_the_rules_do_not_look_at_is_refused(flags_given, message):
    with pytest.raises(InputError) as error:
        config.Plan(**flags_given)
    assert str(error.value).startswith(message)


def test_without_a_time_the_plan_says_what_it_is_for(folder):
    plan(f"--data_dir={folder}")
    text = (folder / "plan.cfg").read_text().replace("\n# ", " ")
    assert "For a CPU, as no --accelerator is named: " in text
    assert "in some minutes; --minutes chooses by what steps take on this machine. --steps" in (
        text.replace("\n", " ")
    )


def test_what_is_measured_is_what_the_plan_trains(folder, monkeypatch):
    jobs = []

    def found(job):
        jobs.append(job)
        return timed.Measured(start=9, step=0.3, evaluation=1, precision="bfloat16")

    monkeypatch.setattr(measure, "measure", found)
    plan(f"--data_dir={folder}", "--minutes=4")  # too few steps of 4, and of 2 volumes
    assert [job.data.batch_size for job in jobs] == [4, 2]
    job = flags.parse(config.Job, ["trainer.task", f"--flagfile={folder}/plan.cfg"])
    assert job.data.batch_size == 2
    assert job.device == jobs[-1].device == config.Device()
    assert 600 < job.optimization.steps < 720


def test_the_plan_names_the_precision_of_the_width_that_it_takes(folder, monkeypatch):
    jobs = []

    def found(job):
        jobs.append(job)
        precision = "bfloat16" if job.model.filters == 16 else "float32"
        step = 2.0 if job.model.filters == 16 else 0.3
        return timed.Measured(start=9, step=step, evaluation=1, precision=precision)

    monkeypatch.setattr(measure, "measure", found)
    plan(f"--data_dir={folder}", "--minutes=4")
    assert [job.model.filters for job in jobs] == [16, 16, 8]
    assert "s a step in float32" in (folder / "plan.cfg").read_text()
