"""What a job takes, measured by real steps."""

import os

import pytest

from tests import shards
from trainer.config import Data, Device, Job, Model, Run
from trainer.plan import measure


@pytest.mark.slow
def test_a_job_is_measured_without_a_run_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "SECONDS", 0.0)
    shards.write_data(tmp_path, {"train": [(16, 16)] * 4, "val": [(16, 16)] * 2})
    before = sorted(os.listdir(tmp_path))
    found = measure.measure(
        Job(
            data=Data(data_dir=str(tmp_path), crop=16, batch_size=2),
            model=Model(filters=2, depth=1),
            device=Device(strategy="one_device", precision="float32", jit_compile="false"),
            run=Run(run_dir=str(tmp_path / "run")),
        )
    )
    assert (found.precision, found.jit_compile) == ("float32", False)
    # The first step includes the compilation, as every evaluation does.
    assert found.start > found.step > 0
    assert found.evaluation > 0
    assert sorted(os.listdir(tmp_path)) == before
