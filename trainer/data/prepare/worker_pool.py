"""Processes that share the work on many images, in order and with bounded memory."""

import collections
import concurrent.futures
import contextlib
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import Any

from absl import logging

from trainer.errors import InputError

Run = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]


@contextlib.contextmanager
def start(count: int) -> Iterator[Run]:
    """Starts `count` worker processes and yields what runs tasks on them, a lazy `map`.

    `run(task, items)` yields `task(item)` in the order of the items, whatever `count` is. Results
    that wait for their turn are at most two a worker. With one worker this process does the work,
    as it does where the system has no locks for several.
    """
    pool = _pool(count) if count > 1 else None
    if pool is None:
        yield map
        return
    try:
        yield functools.partial(_in_order, pool, 2 * count)
    finally:
        pool.shutdown(cancel_futures=True)


def _pool(count: int) -> concurrent.futures.ProcessPoolExecutor | None:
    """Returns worker processes, None where they cannot have locks, such as without /dev/shm."""
    try:
        return concurrent.futures.ProcessPoolExecutor(
            count, multiprocessing.get_context("spawn"), initializer=_begin
        )
    except (OSError, ImportError, NotImplementedError) as error:
        logging.warning(
            "Warning: one process does all the work, because this system has no locks for several "
            "(%s); give it a /dev/shm that can be written, or --workers=1.",
            " ".join(str(error).split()),
        )
        return None


def _in_order(
    pool: concurrent.futures.Executor,
    window: int,
    task: Callable[[Any], Any],
    items: Iterable[Any],
) -> Iterator[Any]:
    pending: collections.deque[concurrent.futures.Future] = collections.deque()
    try:
        for item in items:
            pending.append(pool.submit(task, item))
            if len(pending) > window:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool:
        raise InputError(
            "A worker process was killed, most likely because memory ran out; use fewer --workers."
        ) from None


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this worker when its parent is gone; the pool's own pipe would keep it waiting."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
