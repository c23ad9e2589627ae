"""Images in an object store, copied to the local disk shortly before they are read.

Threads of this process copy ahead of the workers, as many files at a time as hide the store's
latency, and each copy is removed as soon as it has been used: the disk holds a few pairs, not the
data.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from trainer.data.formats import discovery
from trainer.data.prepare import worker_pool
from trainer.data.prepare.pairs import Pair
from trainer.storage import files


def results(
    run: worker_pool.Run, task: Callable[[Pair], Any], pairs: Iterable[Pair], downloads: int
) -> Iterator[Any]:
    """Yields `task(pair)` of every pair, in order; pairs in a store have local paths by then.

    Args:
        run: runs tasks on the workers.
        task: what is done with each pair.
        pairs: all.
        downloads: files that are copied at the same time.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        concurrent.futures.ThreadPoolExecutor(downloads) as executor,
    ):
        used: collections.deque[Pair] = collections.deque()
        for result in run(task, _copies(executor, pairs, folder, used, downloads)):
            yield result
            for source in _sources(used.popleft()):
                if os.path.dirname(source.path) == folder:
                    remove = files.remove_folder if source.is_series else os.remove
                    remove(source.path)


def _copies(
    executor: concurrent.futures.Executor,
    pairs: Iterable[Pair],
    folder: str,
    used: collections.deque[Pair],
    downloads: int,
) -> Iterator[Pair]:
    """Yields pairs with local paths, and notes them in `used`."""
    pending: collections.deque[tuple[Pair, list[concurrent.futures.Future]]] = collections.deque()
    waiting = 0  # files of those

    def local() -> Pair:
        nonlocal waiting
        pair, copies = pending.popleft()
        waiting -= len(copies)
        if copies:
            *images, mask = [copy.result() for copy in copies]
            pair = dataclasses.replace(pair, images=tuple(images), mask=mask)
        used.append(pair)
        return pair

    with contextlib.ExitStack() as stack:
        stack.callback(executor.shutdown, wait=True, cancel_futures=True)
        for index, pair in enumerate(pairs):
            copies = [
                executor.submit(discovery.local_copy, source, os.path.join(folder, f"{index}-{k}"))
                for k, source in enumerate(_remote(pair))
            ]
            pending.append((pair, copies))
            waiting += len(copies)
            while pending and (waiting > downloads or not pending[0][1]):
                yield local()
        while pending:
            yield local()


def _remote(pair: Pair) -> tuple[discovery.Source, ...]:
    """Returns all sources of a pair if any is in a store, else none."""
    sources = _sources(pair)
    return sources if any(files.is_remote(source.path) for source in sources) else ()


def _sources(pair: Pair) -> tuple[discovery.Source, ...]:
    return *pair.images, pair.mask
