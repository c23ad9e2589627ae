"""`python -m trainer.plan`."""

import dataclasses

import pytest

from tests import shards
from trainer import cli, config
from trainer.config import flags
from trainer.data.dataset import schema
from trainer.data.dataset.schema import Grid
from trainer.plan import __main__ as command


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


def test_a_plan_is_in_the_data_folder_unless_that_is_remote():
    assert command.default_path("data") == "data/plan.cfg"
    assert command.default_path("gs://bucket/data") == command.default_path("") == "plan.cfg"
