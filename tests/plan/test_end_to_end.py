"""From files to a trained network, with no setting but the folders."""

import pytest

from trainer import cli, config, loop
from trainer.checkpointing import run_metadata
from trainer.config import flags
from trainer.data import synthetic
from trainer.data.prepare import preparation


@pytest.mark.slow
def test_volumes_are_prepared_planned_and_trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli.run(config.Synthetic, synthetic.main, ["synthetic", "--output=made", "--cases=8"])
    argv = ["prepare", "--images=made", "--output=data", "--workers=1", "--plan"]
    cli.run(config.Prepare, preparation.main, argv)
    short = ["--steps=2", "--eval_every=2", "--warmup_steps=1", "--filters=2", "--panels=0"]
    fixed = ["--precision=float32", "--jit_compile=false", "--strategy=one_device"]
    loop.train(flags.parse(config.Job, ["task", "--flagfile=data/plan.cfg", *short, *fixed]))
    run = run_metadata.read("runs/data")
    assert run["exit_reason"] == "finished"
    assert run["settings"]["crop"] == [28, 80, 80]  # of 7 volumes
