"""Tests of processes that share the work."""

import errno
import os
import signal

import pytest

from trainer.data.prepare import worker_pool
from trainer.errors import InputError


def _double(value):
    return 2 * value


def _die(value):
    os.kill(os.getpid(), signal.SIGKILL)


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


def test_a_killed_worker_is_explained():
    with worker_pool.start(2) as run, pytest.raises(InputError) as error:
        list(run(_die, [3]))
    assert str(error.value) == (
        "A worker process was killed, most likely because memory ran out; use fewer --workers."
    )
