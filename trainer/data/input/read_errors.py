"""Finds what is wrong with the data after an error of TensorFlow, without reading all of them.

TensorFlow's errors name neither file nor example. So what had been read when one was raised is
found by arithmetic, and only those shards are read again.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from trainer.data.dataset import integrity, schema
from trainer.data.input import balancing, foreground, pipeline


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
    share: float = 0.0,
    balance: float = 0.0,
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
        share: of examples that must have a foreground.
        balance: of how often examples are seen.
        worker: index of this worker.
        num_workers: W.
    """
    found: set[int] = set()
    readings = balancing.readings(split.shards, balance)
    shard_of = np.array([one.shard for one in readings])
    for stream in range(worker, num_streams, num_workers):
        places = np.flatnonzero(shard_of % num_streams == stream)
        first, stop = examples[0] // num_streams, examples[-1] // num_streams + 1
        if not foreground.divides(split.shards, share):
            found |= _read(readings, places, stream, range(first, stop), seed, shuffle_block)
            continue
        phase = int(foreground.phases(num_streams)[stream])
        forced = [foreground.forced_before(end, phase, share) for end in (first, stop)]
        others = range(first - forced[0], stop - forced[1])
        theirs = places[[bool(split.shards[place].foreground) for place in shard_of[places]]]
        found |= _read(readings, places, stream, others, seed, shuffle_block)
        number = stream + num_streams
        found |= _read(readings, theirs, number, range(*forced), seed, shuffle_block)
    return sorted(found)


def _read(
    readings: Sequence[balancing.Reading],
    places: np.ndarray,
    number: int,
    examples: range,
    seed: int,
    shuffle_block: int,
) -> set[int]:
    """Returns the places of the shards that are read for some examples of a sequence.

    Args:
        readings: of all shards in a pass.
        places: int [N], those of the sequence's readings among them.
        number: of the sequence, see `pipeline.key_of_epoch`.
        examples: their numbers in the sequence.
        seed: of the order.
        shuffle_block: examples read together.
    """
    found: set[int] = set()
    if not examples:
        return found
    counts = np.array([readings[place].examples for place in places])
    first, last, size = examples[0], examples[-1], counts.sum()
    for epoch in range(first // size, last // size + 1):
        key = pipeline.key_of_epoch(
            seed, tf.constant(number, tf.int64), tf.constant(epoch, tf.int64)
        )
        order = pipeline.permutation(len(places), key).numpy()
        ends = np.cumsum(counts[order])
        low, high = ((end - epoch * size) // shuffle_block for end in (first, last))
        is_read = (ends > low * shuffle_block) & (ends - counts[order] < (high + 1) * shuffle_block)
        found |= {readings[place].shard for place in places[order][is_read]}
    return found


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
