"""The trial of XLA's step with the sums of several replicas in it."""

import dataclasses
import os
import sys

import pytest
import tensorflow as tf

from tests.devices import strategy_of
from trainer import config
from trainer.distributed import strategies
from trainer.training import xla_trial

MODEL = config.Model(filters=2, depth=1)
JOB = config.Job(model=MODEL, device=config.Device(virtual_devices=2))


def small_step(norm="group", precision="float32", job=JOB):
    return xla_trial.small_step(job, norm, precision, channels=1, num_classes=2, rank=2)


def reason(code, seconds=60.0):
    return xla_trial.reason_against(small_step(), (sys.executable, "-c", code), seconds)


@pytest.mark.slow
def test_a_step_that_xla_compiles_alike_passes():
    # Without sums in the forward pass, which XLA does not compile on the CPUs of this test.
    assert xla_trial.reason_against(small_step(), seconds=600.0) == ""


@pytest.mark.slow
def test_a_step_that_xla_does_not_compile_fails_with_its_error():
    found = xla_trial.reason_against(small_step("sync_batch"), seconds=600.0)
    assert found.startswith("its process ended with status 1: RuntimeError: ")


def test_a_step_that_hangs_is_ended(tmp_path):
    path = tmp_path / "pid"
    code = f"import os, time; open({str(path)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    assert reason(code, seconds=5.0) == "no result in 5 s"
    with pytest.raises(ProcessLookupError):
        os.kill(int(path.read_text()), 0)


def test_a_step_whose_process_dies_fails():
    assert reason("import os; os.kill(os.getpid(), 9)") == "its process ended with status 137"
    code = "import sys; sys.stderr.write('Traceback\\n'); raise ValueError('no such\\n  thing')"
    assert reason(code) == "its process ended with status 1: ValueError: no such"


@pytest.mark.parametrize("difference", ["0.3", "null"])  # null: a loss that is not finite
def test_a_step_that_differs_fails(difference):
    text = {"null": "None"}.get(difference, difference)
    assert reason(f"print('{difference}')") == (
        f"it differs from the step without XLA by {text}, more than 0.01"
    )
    assert reason("print(0.001)") == ""


@pytest.mark.slow
def test_the_statistics_of_one_replica_s_part_are_seen_to_differ(monkeypatch):
    real = xla_trial._train

    def train(step, strategy, jit_compile):
        norm = "batch" if jit_compile else "sync_batch"
        model = dataclasses.replace(step.job.model, norm=norm)
        job = dataclasses.replace(step.job, model=model)
        return real(dataclasses.replace(step, job=job), strategy, False)

    monkeypatch.setattr(xla_trial, "_train", train)
    found = xla_trial.largest_difference(small_step(), strategy_of(2))
    assert found > 2 * max(xla_trial.TOLERANCES.values())


def test_the_step_that_is_tried_is_small_and_like_the_job_s():
    job = config.Job(
        model=config.Model(encoder="efficientnetb0", filters=64, dropout=0.5),
        optimization=config.Optimization(
            loss="focal", accumulate_steps=8, ema=0.9, freeze_until=5, warmup_steps=7
        ),
        run=config.Run(run_dir="gs://somewhere"),
    )
    small = small_step("sync_batch", "bfloat16", job).job
    assert (small.model.filters, small.model.norm, small.model.dropout) == (8, "sync_batch", 0.0)
    assert (small.data.crop, small.data.batch_size) == ((32, 32), 2)
    assert (small.optimization.loss, small.optimization.ema) == ("focal", 0.9)
    assert small.device.precision == "bfloat16"
    # So that a plan, which measures many jobs of a kind, tries it once.
    other = dataclasses.replace(job, run=config.Run(run_dir="gs://elsewhere"))
    assert small_step("sync_batch", "bfloat16", other) == small_step("sync_batch", "bfloat16", job)


def test_a_verdict_holds_for_the_devices_and_the_tensorflow_that_it_is_of(monkeypatch):
    tried = []
    monkeypatch.setattr(xla_trial, "reason_against", lambda step: tried.append(step) or "it hangs")
    names = ["NVIDIA H100"] * 2
    monkeypatch.setattr(strategies, "device_names", lambda strategy: names)
    first = xla_trial.verdict(small_step(), strategy_of(2), {})
    where = {"devices": names, "tensorflow": tf.__version__}
    assert first == {"passed": False, "reason": "it hangs", **where}
    assert xla_trial.verdict(small_step(), strategy_of(2), first) == first
    assert len(tried) == 1
    for change in ({"devices": names * 2}, {"tensorflow": "2.17.0"}):
        xla_trial.verdict(small_step(), strategy_of(2), {**first, **change})
    assert len(tried) == 3
    monkeypatch.setattr(strategies, "worker_of", lambda strategy: (0, 2))
    assert not xla_trial.verdict(small_step(), strategy_of(2), {})["passed"]
    assert len(tried) == 3
