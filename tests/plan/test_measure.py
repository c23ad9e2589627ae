"""What a job takes, measured by real steps."""

import os

import pytest

from tests import shards
from trainer.config import Data, Device, Job, Model, Run
from trainer.plan import measure


def test_the_first_batch_which_compiles_does_not_count_for_the_others():
    # 20 s for the first 8 cases, then 5 s for each 8 more; of 132 there are 124 more.
    marks = [(120.0, 8), (125.0, 16), (130.0, 24)]
    assert measure.extrapolated(100.0, marks, 132) == 20 + 124 * 5 / 8


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
    assert found.precision == "float32"
    # The first step includes the compilation, as every evaluation does.
    assert found.start > found.step > 0
    assert found.evaluation > 0
    assert sorted(os.listdir(tmp_path)) == before
