"""Traces of single steps."""

import pytest
import tensorflow as tf

from trainer import config
from trainer.errors import InputError
from trainer.watch import journal
from trainer.watch.trace import Trace


def train(trace, total, every):
    """Returns the calls of a loop of `every` steps at most, as (first, last)."""
    step, calls = 0, []
    while step < total:
        stop = trace.begin(step, min(step + every, total))
        tf.linalg.matmul(tf.ones((8, 8)), tf.ones((8, 8)))
        calls.append((step + 1, stop))
        step = stop
        trace.end(step)
    return calls


def test_calls_end_where_the_trace_begins_and_ends(tmp_path):
    with journal.Journal(str(tmp_path), True, 0, 20) as reporter, Trace((7, 9), reporter) as trace:
        calls = train(trace, 20, 5)
    assert calls == [(1, 5), (6, 6), (7, 9), (10, 14), (15, 19), (20, 20)]
    (plane,) = tmp_path.glob("tensorboard/plugins/profile/*/*.xplane.pb")
    assert b"MatMul" in plane.read_bytes()


def test_steps_that_are_not_reached_leave_no_trace(tmp_path):
    with journal.Journal(str(tmp_path), True, 0, 20) as reporter, Trace((7, 90), reporter) as trace:
        assert train(trace, 10, 5) == [(1, 5), (6, 6), (7, 10)]
    assert not (tmp_path / "tensorboard" / "plugins").exists()
    with journal.Journal(str(tmp_path), True, 0, 20) as reporter, Trace((7, 8), reporter) as trace:
        train(trace, 10, 5)  # and the profiler is free again


def test_a_trace_reaches_an_object_store_with_the_next_checkpoint(gcs, bucket):
    def planes():
        return [name for name in gcs.names(f"{bucket}/tensorboard/") if "xplane" in name]

    with journal.Journal(bucket, True, 0, 20) as reporter, Trace((2, 3), reporter) as trace:
        train(trace, 5, 5)
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
