"""Processes that share the work on many images, in order and with bounded memory."""

import collections
import concurrent.futures
import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import Any

from absl import logging

from trainer.distributed import preemption
from trainer.errors import RetryableError

Run = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]


@contextlib.contextmanager
def start(count: int, title: Callable[[Any], str] = str) -> Iterator[Run]:
    """Starts `count` worker processes and yields what runs tasks on them, a lazy `map`.

    `run(task, items)` yields `task(item)` in the order of the items, whatever `count` is. Results
    that wait for their turn are at most two a worker. With one worker this process does the work,
    as it does where the system has no locks for several.

    Args:
        count: of the processes.
        title: how messages call an item.
    """
    pool = _pool(count) if count > 1 else None
    if pool is None:
        yield map
        return
    workers = _Workers(pool, count, title)
    try:
        yield workers.run
    finally:
        workers.end()


class _Workers:
    """Processes, and others in their place where one is killed."""

    def __init__(
        self, pool: concurrent.futures.ProcessPoolExecutor, count: int, title: Callable[[Any], str]
    ) -> None:
        self._pool, self._count, self._title = pool, count, title

    def end(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def run(self, task: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """See `start`.

        Raises:
            RetryableError: an item has killed its process twice.
        """
        pending: collections.deque[tuple[Any, concurrent.futures.Future]] = collections.deque()
        for item in items:
            pending.append((item, self._submit(task, item)))
            if len(pending) > 2 * self._count:
                yield self._first(pending, task)
        while pending:
            yield self._first(pending, task)

    def _submit(self, task: Callable[[Any], Any], item: Any) -> concurrent.futures.Future:
        try:
            with preemption.starting_processes():
                return self._pool.submit(task, item)
        except BrokenProcessPool as error:
            broken: concurrent.futures.Future = concurrent.futures.Future()
            broken.set_exception(error)
            return broken

    def _first(self, pending: collections.deque, task: Callable[[Any], Any]) -> Any:
        try:
            return pending[0][1].result()
        except BrokenProcessPool:
            self._try_again(pending, task)
            return pending[0][1].result()
        finally:
            pending.popleft()

    def _try_again(self, pending: collections.deque, task: Callable[[Any], Any]) -> None:
        """Does what was being done one by one, which needs less memory, and finds the cause."""
        logging.warning(
            "Warning: a worker process was killed, most likely because memory ran out; what it did "
            "is tried again."
        )
        self.end()
        pool = _pool(self._count)
        assert pool is not None
        self._pool = pool
        for place, (item, future) in enumerate(pending):
            if isinstance(future.exception(), BrokenProcessPool):
                with preemption.starting_processes():
                    again = self._pool.submit(task, item)
                if isinstance(again.exception(), BrokenProcessPool):
                    raise RetryableError(
                        f"A worker process was killed twice by {self._title(item)}, most likely "
                        "because memory ran out; use fewer --workers, or leave that out. What is "
                        "finished is kept."
                    ) from None
                pending[place] = (item, again)


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


def _begin() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this worker when its parent is gone; the pool's own pipe would keep it waiting."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
