"""Finds what is wrong with the data after an error of TensorFlow, without reading all of them.

TensorFlow's errors name neither file nor example. So what had been read when one was raised is
found by arithmetic, and only those shards are read again.
"""

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from trainer.data.dataset import integrity, schema
from trainer.data.input import pipeline


@contextlib.contextmanager
def translate_errors(
    data_dir: str, manifest: schema.Manifest, split: str, places: Callable[[], list[int]]
) -> Iterator[None]:
    """Turns TensorFlow's errors at missing or damaged data into an InputError naming the place.

    What has another cause, so that every example that had been read is found sound, is raised as it
    was.

    Args:
        data_dir: the data folder, local or gs://.
        manifest: of that folder.
        split: that is read.
        places: returns the places, among the split's shards, of those that were being read.
    """
    try:
        yield
    except (
        tf.errors.DataLossError,  # a checksum is wrong, or a record is cut short
        tf.errors.FailedPreconditionError,  # there are fewer records than the manifest says
        tf.errors.InvalidArgumentError,  # an example cannot be decoded
        tf.errors.NotFoundError,
    ):
        integrity.verify_shards(data_dir, manifest, split, places())
        raise


def training_shards(
    split: schema.Split,
    examples: range,
    *,
    seed: int,
    num_streams: int,
    shuffle_block: int,
    worker: int = 0,
    num_workers: int = 1,
) -> list[int]:
    """Returns the places of the shards that a worker reads for some examples of the run.

    Args:
        split: the training split.
        examples: their numbers in the run.
        seed: of the order.
        num_streams: see `pipeline.ordered_examples`, as the others.
        shuffle_block: examples permuted together, and so read together.
        worker: index of this worker.
        num_workers: W.
    """
    found = set()
    for stream in range(worker, num_streams, num_workers):
        places = np.arange(stream, len(split.shards), num_streams)
        counts = np.array([split.shards[place].examples for place in places])
        first, last = (end // num_streams for end in (examples[0], examples[-1]))
        size = counts.sum()
        for epoch in range(first // size, last // size + 1):
            key = pipeline.key_of_epoch(
                seed, tf.constant(stream, tf.int64), tf.constant(epoch, tf.int64)
            )
            order = pipeline.permutation(len(places), key).numpy()
            ends = np.cumsum(counts[order])
            low, high = ((end - epoch * size) // shuffle_block for end in (first, last))
            is_read = (ends > low * shuffle_block) & (
                ends - counts[order] < (high + 1) * shuffle_block
            )
            found |= set(places[order][is_read].tolist())
    return sorted(found)


def evaluation_shards(
    split: schema.Split, seen: np.ndarray, ahead: int, worker: int = 0, num_workers: int = 1
) -> list[int]:
    """Returns the places of the shards that a worker has read for an evaluation, in part at least.

    Args:
        split: that is evaluated.
        seen: bool [N], which of its cases have been evaluated; their shards are sound.
        ahead: examples that may have been read after the last of these.
        worker: index of this worker.
        num_workers: number of workers.
    """
    ends = np.cumsum([shard.examples for shard in split.shards])
    places = range(worker, len(split.shards), num_workers)
    cases = [np.arange(ends[place] - split.shards[place].examples, ends[place]) for place in places]
    in_order = np.concatenate([*cases, np.zeros(0, np.int64)]).astype(np.int64)
    reached = in_order[: np.flatnonzero(seen[in_order]).max(initial=-1) + 1 + ahead]
    return [
        place
        for place, mine in zip(places, cases, strict=True)
        if not seen[mine].all() and np.isin(mine, reached).any()
    ]
