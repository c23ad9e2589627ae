"""Tests of processes that share the work."""

import errno
import functools
import os
import signal

import pytest

from trainer.data.prepare import worker_pool
from trainer.errors import InputError, RetryableError


def _double(value):
    return 2 * value


def _die_once(folder, when, value):
    mark = folder / "died"
    if value == when and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * value


def _die_at_20(value):
    if value == 20:
        os.kill(os.getpid(), signal.SIGKILL)
    return value


def _refuse(value):
    raise InputError(f"{value} is refused.")


@pytest.mark.parametrize("count", [1, 2])
def test_results_come_in_order_and_only_as_they_are_asked_for(count):
    asked = []

    def items():
        for k in range(50):
            asked.append(k)
            yield k

    with worker_pool.start(count) as run:
        results = run(_double, items())
        assert next(results) == 0
        assert len(asked) <= 2 * count + 1
        assert list(results) == list(range(2, 100, 2))


def test_one_process_works_where_the_system_has_no_locks(monkeypatch, caplog):
    def refuse(*arguments):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr("_multiprocessing.SemLock", refuse)  # as without /dev/shm
    with worker_pool.start(2) as run:
        assert list(run(_double, [1, 2, 3])) == [2, 4, 6]
    assert [record.getMessage() for record in caplog.records] == [
        "Warning: one process does all the work, because this system has no locks for several "
        "([Errno 2] No such file or directory); give it a /dev/shm that can be written, or "
        "--workers=1."
    ]


def test_an_error_in_a_worker_reaches_the_caller():
    with worker_pool.start(2) as run, pytest.raises(InputError, match=r"^3 is refused\.$"):
        list(run(_refuse, [3]))


def test_what_a_killed_worker_did_is_tried_again(tmp_path, caplog):
    task = functools.partial(_die_once, tmp_path, 20)
    with worker_pool.start(2) as run:
        assert list(run(task, range(40))) == list(range(0, 80, 2))
    assert [record.getMessage() for record in caplog.records] == [
        "Warning: a worker process was killed, most likely because memory ran out; what it did is "
        "tried again."
    ]


def test_what_kills_its_worker_twice_is_named():
    with worker_pool.start(2, "image {}".format) as run:
        results = run(_die_at_20, range(40))
        assert [next(results) for _ in range(16)] == list(range(16))
        with pytest.raises(RetryableError) as error:
            list(results)
    assert str(error.value) == (
        "A worker process was killed twice by image 20, most likely because memory ran out; use "
        "fewer --workers, or leave that out. What is finished is kept."
    )
