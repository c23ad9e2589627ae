"""Images in an object store, copied to the local disk shortly before they are read.

Threads of this process copy ahead of the workers, as many at a time as hide the store's latency,
and each copy is removed as soon as it has been used: the disk holds AHEAD pairs, not the data.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tqdm

from trainer.data.formats import discovery
from trainer.data.prepare import worker_pool
from trainer.data.prepare.pairs import Pair
from trainer.storage import files

AHEAD = 16  # pairs; two requests each


def results(
    run: worker_pool.Run,
    task: Callable[[Pair], Any],
    pairs: Sequence[Pair],
    what: str,
) -> Iterator[Any]:
    """Yields `task(pair)` of every pair, in order; pairs in a store have local paths by then.

    If there is a terminal, a progress bar with the label `what` shows how many are done.
    """
    with tqdm.tqdm(total=len(pairs), desc=what, unit=" images", disable=None) as bar:
        for result in _results(run, task, pairs):
            bar.update()
            yield result


def _results(
    run: worker_pool.Run, task: Callable[[Pair], Any], pairs: Sequence[Pair]
) -> Iterator[Any]:
    if not any(files.is_remote(source.path) for pair in pairs for source in _sources(pair)):
        yield from run(task, pairs)
        return
    with (
        tempfile.TemporaryDirectory() as folder,
        concurrent.futures.ThreadPoolExecutor(AHEAD) as executor,
    ):
        used: collections.deque[Pair] = collections.deque()
        for result in run(task, _copies(executor, pairs, folder, used)):
            yield result
            for source in _sources(used.popleft()):
                if os.path.dirname(source.path) == folder:
                    remove = files.remove_folder if source.is_series else os.remove
                    remove(source.path)


def _copies(
    executor: concurrent.futures.Executor,
    pairs: Sequence[Pair],
    folder: str,
    used: collections.deque[Pair],
) -> Iterator[Pair]:
    """Yields pairs with local paths, and notes them in `used`."""
    pending: collections.deque[concurrent.futures.Future] = collections.deque()
    with contextlib.ExitStack() as stack:
        stack.callback(executor.shutdown, wait=True, cancel_futures=True)
        for index, pair in enumerate(pairs):
            pending.append(executor.submit(_copy, pair, folder, index))
            if len(pending) > AHEAD:
                used.append(pending.popleft().result())
                yield used[-1]
        while pending:
            used.append(pending.popleft().result())
            yield used[-1]


def _copy(pair: Pair, folder: str, index: int) -> Pair:
    return dataclasses.replace(
        pair,
        images=tuple(
            discovery.local_copy(image, os.path.join(folder, f"image-{index}-{k}"))
            for k, image in enumerate(pair.images)
        ),
        mask=discovery.local_copy(pair.mask, os.path.join(folder, f"mask-{index}")),
    )


def _sources(pair: Pair) -> tuple[discovery.Source, ...]:
    return *pair.images, pair.mask
