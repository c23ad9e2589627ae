"""Traces of single steps."""

import contextlib

import pytest
import tensorflow as tf

from trainer import config
from trainer.errors import InputError
from trainer.monitoring import metrics_log
from trainer.monitoring.profiler import Profiler
from trainer.training.schedule import StepSchedule


@contextlib.contextmanager
def open_trace(folder, steps):
    with (
        metrics_log.MetricsLog(str(folder), True, 0, 20) as reporter,
        Profiler(steps, reporter, True) as it,
    ):
        yield it


def train(trace, traced, total):
    """Takes steps, at most five in a call of the loop."""
    schedule = StepSchedule(
        total_steps=total, eval_every=total, checkpoint_every=total, report_every=5, traced=traced
    )
    step = 0
    while step < total:
        stop = schedule.next_stop(step, seconds_per_step=0.1)
        trace.begin(step)
        with trace.marked(stop):
            tf.linalg.matmul(tf.ones((8, 8)), tf.ones((8, 8)))
        step = stop
        trace.end(step)


@pytest.mark.parametrize("chief", [True, False])
def test_only_the_chief_traces(tmp_path, chief):
    with (
        metrics_log.MetricsLog(str(tmp_path), chief, 0, 20) as reporter,
        Profiler((7, 9), reporter, chief) as trace,
    ):
        train(trace, (7, 9), 20)
    planes = list(tmp_path.glob("tensorboard/plugins/profile/*/*.xplane.pb"))
    assert len(planes) == chief
    for plane in planes:
        content = plane.read_bytes()
        assert b"MatMul" in content
        assert b"step_num" in content  # by which the profile tab finds steps


def test_steps_that_are_not_reached_leave_no_trace(tmp_path):
    with open_trace(tmp_path, (7, 90)) as trace:
        train(trace, (7, 90), 10)
    assert not (tmp_path / "tensorboard" / "plugins").exists()
    with open_trace(tmp_path, (7, 8)) as trace:
        train(trace, (7, 8), 10)  # and the profiler is free again


def test_a_trace_reaches_an_object_store_with_the_next_checkpoint(gcs, bucket):
    def planes():
        return [name for name in gcs.names(f"{bucket}/tensorboard/") if "xplane" in name]

    with (
        metrics_log.MetricsLog(bucket, True, 0, 20) as reporter,
        Profiler((2, 3), reporter, True) as trace,
    ):
        train(trace, (2, 3), 5)
        assert planes() == []
        reporter.flush()
        (name,) = planes()
        assert name.startswith("plugins/profile/")


@pytest.mark.parametrize("value", ["10", "0,5", "9,3", "a,b", "1,2,3"])
def test_other_than_two_steps_is_refused(value):
    with pytest.raises(InputError) as error:
        config.Run(profile=value)
    assert str(error.value) == (
        f"--profile={value} is not a first and a last step, counted from 1; write for example "
        "--profile=10,20."
    )
