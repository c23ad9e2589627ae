"""Requests to a store, many at the same time."""

import collections
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def each(function: Callable[[A], B], items: Iterable[A], at_a_time: int) -> Iterator[B]:
    """Yields `function(item)` of every item, in order.

    Args:
        function: what threads do.
        items: taken as results are, so that few wait.
        at_a_time: number of threads.
    """
    with concurrent.futures.ThreadPoolExecutor(at_a_time) as pool:
        pending: collections.deque[concurrent.futures.Future[B]] = collections.deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > at_a_time:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
