"""From shards to batches: a function of (seed, step), the same for any number of workers.

The training split is V logical streams, V a power of two; shard k belongs to stream k mod V. Each
pass (epoch) of a stream over its examples takes its shards in an order drawn from (seed, stream,
epoch), cuts the records, laid end to end, into blocks of `shuffle_block`, and permutes each block
by (seed, stream, epoch, block). Example i of the run, i = 0, 1, …, is the next one of stream
i mod V, goes to worker i mod W, and is augmented by (seed, i); step s trains on the examples
s·B … (s + 1)·B - 1. With a share of foreground, a stream may be two such sequences, see
`foreground`.

So each W that divides V and B gives the same global batches, and a worker reads only the shards of
its own streams. Only the step needs to be saved: the position of a stream at step s is
arithmetic, and opening it there skips records of one shard and of one block per stream at most. A
fresh run is the case s = 0.
"""

import collections
import ctypes
import functools
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from trainer.data.dataset import schema, shard_cache, volume_examples
from trainer.data.input import augment as augmentation
from trainer.data.input import balancing, foreground, normalization, padded_shapes, volume_augment
from trainer.errors import InputError

MAX_STREAMS = 16
READERS = 4  # streams read at the same time
DECODERS = os.cpu_count() or 1  # examples decoded and augmented at the same time
SHUFFLED_BYTES = 2**30  # of encoded volumes in the blocks of all streams
HELD_BYTES = 2**28  # of encoded examples that wait for others of their shape


# Training -----------------------------------------------------------------------------------------


def num_streams(
    split: schema.Split,
    num_workers: int,
    streams: int = 0,
    share: float = 0.0,
    balance: float = 0.0,
) -> int:
    """Returns V, the number of logical streams of a training split.

    A stream with fewer examples than another shows each of them more often, so V is the largest
    power of two up to MAX_STREAMS, or to the number of workers if they are more, for which the
    streams' sizes differ by a tenth at most, and so do those of their examples with a foreground,
    where these are taken apart.

    Args:
        split: the training split.
        num_workers: must divide V.
        streams: V, if it is given; 0: automatic.
        share: of examples that must have a foreground.
        balance: of how often examples are seen, see `balancing`.

    Raises:
        InputError: if `streams` is not possible or the workers do not divide V.
    """
    shards = len(split.shards)
    powers = [2**k for k in range(shards.bit_length()) if 2**k <= shards]
    if foreground.divides(split.shards, share):
        able = [v for v in powers if min(_sizes(split, v, balance, with_foreground=True))]
        if streams in set(powers) - set(able):
            raise InputError(
                f"--streams={streams} leaves a stream without examples that have a foreground, for "
                f"--foreground={share}; use {', '.join(map(str, able))}, or 0 to let it be chosen."
            )
        powers = able
    if streams and streams not in powers:
        raise InputError(
            f"--streams={streams} is not a power of two up to {shards}, the number of training "
            f"shards; use {', '.join(map(str, powers))}, or 0 to let it be chosen."
        )
    most = max(MAX_STREAMS, num_workers)
    chosen = streams or max(v for v in powers if v <= most and _balanced(split, v, share, balance))
    if chosen % num_workers:
        raise InputError(
            f"{num_workers} workers do not divide the {chosen} input streams of {shards} training "
            f"shards; use {', '.join(str(v) for v in powers if v <= chosen)} workers, or prepare "
            "the data in more shards, their number a power of two."
        )
    return chosen


def _balanced(split: schema.Split, streams: int, share: float, balance: float) -> bool:
    kinds = [False, True] if foreground.divides(split.shards, share) else [False]
    sizes = [_sizes(split, streams, balance, with_foreground) for with_foreground in kinds]
    return all(10 * max(of_kind) <= 11 * min(of_kind) for of_kind in sizes)


def _sizes(split: schema.Split, streams: int, balance: float, with_foreground: bool) -> list[int]:
    """Returns how many examples a pass of each stream has, or of shards with a foreground."""
    sizes = [0] * streams
    for one in balancing.readings(split.shards, balance):
        if split.shards[one.shard].foreground or not with_foreground:
            sizes[one.shard % streams] += one.examples
    return sizes


def examples_per_block(
    manifest: schema.Manifest, num_streams: int, shuffle_block: int, share: float
) -> int:
    """Returns how many examples are permuted together: of volumes as many as memory can hold.

    Args:
        manifest: of the data.
        num_streams: V.
        shuffle_block: that is asked for.
        share: of examples that must have a foreground.
    """
    if manifest.volumes is None:
        return shuffle_block
    split = manifest.splits["train"]
    blocks = num_streams * (2 if foreground.divides(split.shards, share) else 1)
    bytes_of_one = sum(shard.bytes for shard in split.shards) // split.examples + 1
    return min(shuffle_block, max(1, SHUFFLED_BYTES // (blocks * bytes_of_one)))


@tf.autograph.experimental.do_not_convert
def training_stream(
    data_dir: str,
    manifest: schema.Manifest,
    *,
    batch_size: int,
    crop: Sequence[int],
    seed: int,
    num_streams: int,
    augment: str = "standard",
    normalize: str = "image",
    share: float = 0.0,
    balance: float = 0.0,
    start_step: int = 0,
    shuffle_block: int = 64,
    worker: int = 0,
    num_workers: int = 1,
    num_replicas: int = 1,
    cache: shard_cache.ShardCache | None = None,
) -> tf.data.Dataset:
    """Returns this worker's endless stream of training batches, one element per replica and step.

    Args:
        data_dir: the data folder, local or gs://.
        manifest: of that folder.
        batch_size: examples of a step, over all replicas of all workers.
        crop: *S, sides of the crops along each spatial axis.
        seed: of order and augmentation.
        num_streams: V, see `num_streams`.
        augment: a key of `augment.AUGMENTATIONS`, for volumes of `volume_augment.AUGMENTATIONS`.
        normalize: a key of `normalization.NORMALIZATIONS`, for images.
        share: of examples that are cropped about a place of a drawn class, see `foreground`.
        balance: of how often examples are seen, see `balancing`.
        start_step: first step of the stream.
        shuffle_block: examples permuted together; V blocks of serialized examples are in memory.
        worker: index of this worker.
        num_workers: W.
        num_replicas: R of this worker; its elements s·R … s·R + R - 1 make step s. Replica r takes
            the worker's examples i with i mod R = r, as worker w takes those of the run: so the
            n-th part of every replica's batch is the n-th part of the whole, which is what
            normalisation sees with --accumulate_steps.
        cache: of the shards, on this machine.

    Returns:
        Batches of b = batch_size / (W·R) examples: images float32 [b, *S, C], labels int32
        [b, *S], 0 where they are unknown, and valid float32 [b, *S], 0 there.

    Raises:
        InputError: if all replicas do not divide the batch.
    """
    replicas = num_workers * num_replicas
    if batch_size % replicas:
        raise InputError(
            f"--batch_size={batch_size} is not a multiple of the {replicas} replicas; use "
            f"{max(batch_size // replicas, 1) * replicas}."
        )
    data = ordered_examples(
        data_dir,
        manifest.splits["train"],
        seed=seed,
        num_streams=num_streams,
        shuffle_block=shuffle_block,
        share=share,
        balance=balance,
        start=start_step * batch_size,
        worker=worker,
        num_workers=num_workers,
        cache=cache,
    )
    if num_replicas > 1:
        data = _dealt(data, batch_size // num_workers, num_replicas)
    example = functools.partial(
        _training_example,
        manifest=manifest,
        seed=seed,
        crop=crop,
        row=augmentation.row_of(augment, crop)
        if manifest.volumes is None
        else volume_augment.row_of(augment, crop, manifest.volumes.spacing),
        normalize=normalize,
        num_streams=num_streams,
        share=share,
    )
    data = data.map(example, DECODERS, deterministic=True)
    data = data.batch(batch_size // replicas, drop_remainder=True)
    # That it is endless cannot be seen from its parts; without it, several workers would take each
    # batch for one that may be missing, of unknown size.
    data = data.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    return data.prefetch(2 * num_replicas).with_options(_options())


def _dealt(data: tf.data.Dataset, batch_size: int, num_replicas: int) -> tf.data.Dataset:
    """Reorders each batch so that its n-th example goes to replica n mod `num_replicas`."""
    turns = tf.reshape(tf.range(batch_size), (-1, num_replicas))
    places = tf.reshape(tf.transpose(turns), [-1])
    batches = data.batch(batch_size)  # still serialized, so small
    return batches.map(lambda *batch: tuple(tf.gather(part, places) for part in batch)).unbatch()


def _training_example(
    number: tf.Tensor,
    serialized: tf.Tensor,
    *,
    manifest: schema.Manifest,
    seed: int,
    crop: Sequence[int],
    row: augmentation.Augmentation,
    normalize: str,
    num_streams: int,
    share: float,
) -> dict[str, tf.Tensor]:
    """Returns example `number` of the run as it is trained on: cropped, normalised, augmented."""
    decoded = schema.decode(serialized, manifest)
    key, place = _key(seed, 2 * number), None
    if share:
        place = tf.cond(
            foreground.is_forced(number, num_streams, share),
            lambda: foreground.draw_place(
                decoded, manifest.num_classes, tf.random.fold_in(key, 0, "philox")
            ),
            lambda: tf.fill([manifest.rank], -1),
        )
    image, mask = augmentation.crop_randomly(
        decoded["image"], decoded["mask"], key, crop, row, place
    )
    if manifest.volumes is None:  # volumes were normalised when they were prepared
        # By the whole image's figures, and before the operations that change its intensities.
        split = manifest.splits["train"]
        figures = normalization.NORMALIZATIONS[normalize](decoded["image"], split.mean, split.std)
        image = normalization.rescale(image, *figures)
    image, mask = augmentation.adjust(image, mask, _key(seed, 2 * number + 1), row)
    return {"images": image, **_targets(mask)}


def ordered_examples(
    data_dir: str,
    split: schema.Split,
    *,
    seed: int,
    num_streams: int,
    shuffle_block: int,
    share: float = 0.0,
    balance: float = 0.0,
    start: int = 0,
    worker: int = 0,
    num_workers: int = 1,
    cache: shard_cache.ShardCache | None = None,
) -> tf.data.Dataset:
    """Returns this worker's examples of the run, from example `start` of the run on.

    Args:
        data_dir: the data folder, local or gs://.
        split: the training split.
        seed: of the order.
        num_streams: V.
        shuffle_block: examples permuted together.
        share: of examples that must have a foreground.
        balance: of how often examples are seen, see `balancing`.
        start: a multiple of `num_workers`.
        worker: index of this worker.
        num_workers: W, which divides V.
        cache: of the shards, on this machine.

    Returns:
        Endless (number of the example in the run, int64 []; serialized example, string []).
    """
    assert num_streams % num_workers == 0
    assert start % num_workers == 0

    def stream_of(number: tf.Tensor) -> tf.data.Dataset:
        place = number % num_streams, num_streams, number // num_streams
        return _stream(data_dir, split, *place, seed, shuffle_block, share, balance, cache)

    numbers = tf.data.Dataset.counter(start + worker, num_workers)
    # The worker's streams, each from its first example on, in the order of their first examples.
    streams = num_streams // num_workers
    data = numbers.take(streams).interleave(
        stream_of,
        cycle_length=streams,
        block_length=1,
        num_parallel_calls=min(streams, READERS),
        deterministic=True,
    )
    return tf.data.Dataset.zip((numbers, data))


def _stream(
    data_dir: str,
    split: schema.Split,
    stream: tf.Tensor,
    num_streams: int,
    position: tf.Tensor,
    seed: int,
    shuffle_block: int,
    share: float,
    balance: float,
    cache: shard_cache.ShardCache | None,
) -> tf.data.Dataset:
    """Returns one stream's serialized examples, from its example number `position` on."""
    readings = balancing.readings(split.shards, balance)
    counts = tf.constant([one.examples for one in readings], tf.int64)
    shard_of = tf.constant([one.shard for one in readings], tf.int64)
    read = _reader(data_dir, split.shards, readings, balance, cache)
    mine = tf.where(shard_of % num_streams == stream)[:, 0]

    def sequence(places: tf.Tensor, position: tf.Tensor, number: tf.Tensor) -> tf.data.Dataset:
        key_of = functools.partial(key_of_epoch, seed, number)
        return _sequence(places, tf.gather(counts, places), position, key_of, shuffle_block, read)

    if not foreground.divides(split.shards, share):
        return sequence(mine, position, stream)
    phase = tf.gather(tf.constant(foreground.phases(num_streams)), stream)
    forced = foreground.forced_before(position, phase, share)
    has_foreground = tf.constant([bool(split.shards[one.shard].foreground) for one in readings])
    theirs = tf.boolean_mask(mine, tf.gather(has_foreground, mine))
    numbers = tf.data.Dataset.counter(position * num_streams + stream, num_streams)
    return tf.data.Dataset.choose_from_datasets(
        [
            sequence(mine, position - forced, stream),
            sequence(theirs, forced, stream + num_streams),  # in an order of its own
        ],
        numbers.map(lambda n: tf.cast(foreground.is_forced(n, num_streams, share), tf.int64)),
    )


def _reader(
    data_dir: str,
    shards: tuple[schema.Shard, ...],
    readings: Sequence[balancing.Reading],
    balance: float,
    cache: shard_cache.ShardCache | None,
) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    """Returns what makes serialized examples of (place of a reading among all, how many to skip).

    The examples are those that the readings keep, one reading after the other.
    """
    paths, counts = _shards(data_dir, shards)
    repeats = tf.constant(balancing.repeats(shards, balance) if balance else [])
    ends = tf.cumsum(counts)
    shard_of = tf.constant([one.shard for one in readings])
    number_of = tf.constant([one.number for one in readings])

    def read(path: tf.Tensor, place: tf.Tensor, skip: tf.Tensor) -> tf.data.Dataset:
        shard = shard_of[place]
        data = _read(path, counts[shard])
        if balance:  # else there is one reading of each shard
            times = repeats[ends[shard] - counts[shard] : ends[shard]]
            data = tf.data.Dataset.zip((data, tf.data.Dataset.from_tensor_slices(times)))
            data = data.filter(lambda serialized, times: times > number_of[place])
            data = data.map(lambda serialized, times: serialized)
        return data.skip(skip)

    def read_all(data: tf.data.Dataset) -> tf.data.Dataset:
        data = data.map(lambda place, skip: (paths[shard_of[place]], place, skip))
        return _copied(data, cache).flat_map(read)

    return read_all


def _sequence(
    places: tf.Tensor,
    counts: tf.Tensor,
    position: tf.Tensor,
    key_of: Callable[[tf.Tensor], tf.Tensor],
    shuffle_block: int,
    read: Callable[[tf.data.Dataset], tf.data.Dataset],
) -> tf.data.Dataset:
    """Returns endless passes over some readings, from example number `position` of all on."""
    size = tf.reduce_sum(counts)
    first_epoch = position // size

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        start = tf.where(epoch == first_epoch, position % size, 0)
        return _epoch(places, counts, start, key_of(epoch), shuffle_block, read)

    return tf.data.Dataset.counter(first_epoch).flat_map(one_epoch)


def _epoch(
    places: tf.Tensor,
    counts: tf.Tensor,
    start: tf.Tensor,
    key: tf.Tensor,
    shuffle_block: int,
    read: Callable[[tf.data.Dataset], tf.data.Dataset],
) -> tf.data.Dataset:
    """Returns the examples of one pass over some readings, from its example number `start` on."""
    order = permutation(tf.size(places), key)
    places, counts = tf.gather(places, order), tf.gather(counts, order)
    first_block = start // shuffle_block
    unread = first_block * shuffle_block - tf.cumsum(counts, exclusive=True)

    data = tf.data.Dataset.from_tensor_slices((places, counts, tf.maximum(unread, 0)))
    data = data.filter(lambda place, count, skip: skip < count)
    data = read(data.map(lambda place, count, skip: (place, skip)))
    blocks = data.batch(shuffle_block).prefetch(1)  # read while the one before is used
    data = tf.data.Dataset.zip((tf.data.Dataset.counter(first_block), blocks))

    def permute(number: tf.Tensor, block: tf.Tensor) -> tf.Tensor:
        return tf.gather(
            block, permutation(tf.size(block), tf.random.fold_in(key, number, "philox"))
        )

    return data.map(permute).unbatch().skip(start % shuffle_block)


def permutation(size: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
    """Returns the numbers below `size` in the order of a key, int32 [size]."""
    return tf.random.experimental.stateless_shuffle(tf.range(size), key, "philox")


def key_of_epoch(seed: int, stream: tf.Tensor, epoch: tf.Tensor) -> tf.Tensor:
    """Returns the key of a sequence's pass: the first use of it is the order of its shards.

    A stream's sequence has the stream's number; that of its foreground follows those of all.
    """
    # Examples' keys have numbers from 0 on; negative ones are free.
    return tf.random.fold_in(_key(seed, -1 - stream), epoch, "philox")


def _key(seed: int, number: tf.Tensor) -> tf.Tensor:
    """Returns a key of the run's, int64 [2]; Philox makes unrelated numbers of adjacent keys."""
    return tf.stack([tf.constant(seed, tf.int64), number])


def keep_alive(iterator: Iterator) -> Iterator:
    """Returns an iterator over training batches after seeing to it that it is never let go.

    TensorFlow's tuner of input looks whether its iterator has ended once in a period that doubles
    up to a minute, and letting go waits for it: a job that was asked to stop would outlive its
    machine's patience. Our streams are not tuned (`_options`), but those by which a strategy brings
    batches to its devices are. What it holds, some batches and threads, ends with the process.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(iterator))
    return iterator


# Evaluation ---------------------------------------------------------------------------------------


@tf.autograph.experimental.do_not_convert
def evaluation_batches(
    data_dir: str,
    manifest: schema.Manifest,
    split: str,
    *,
    stride: int,
    batch_size: int,
    normalize: str,
    tile: int,
    shapes: Sequence[padded_shapes.Shape] = (),
    worker: int = 0,
    num_workers: int = 1,
    cache: shard_cache.ShardCache | None = None,
) -> tf.data.Dataset:
    """Returns a split's whole images, each once, in batches of one padded shape.

    Images are mirrored at the bottom and the right to sides that are multiples of `stride` and of
    PADDED_SIDE, and beyond that padded with zeros to the smallest of some `shapes`. They wait,
    encoded, until a batch of their shape is full. Where HELD_BYTES are too few for as many as may
    wait, the split is read in parts. A shape's last batch, of the split or the part, is filled up
    with examples that count for nothing.

    Args:
        data_dir: the data folder, local or gs://.
        manifest: of that folder.
        split: a key of `manifest.splits`.
        stride: a multiple of that of the model's deepest level along each axis.
        batch_size: b.
        normalize: a key of `normalization.NORMALIZATIONS`; figures are the training split's.
        tile: images with a longer padded side come alone (b = 1), to be cut into tiles.
        shapes: H and W of each that images are padded to where one covers them.
        worker: index of this worker, which reads the shards k with k mod num_workers = worker.
        num_workers: number of workers.
        cache: of the shards, on this machine.

    Returns:
        Batches of images float32 [b, H, W, C], labels int32 [b, H, W], valid float32 [b, H, W],
        case int64 [b], the place in `cases` of the split or -1 for a filler, size int32 [b, 2],
        the true height and width, and offset and scale float32 [b, C], by which the image was
        normalised.
    """
    example = functools.partial(
        _whole_example, manifest=manifest, normalize=normalize, stride=stride, shapes=shapes
    )
    by_shape = functools.partial(
        _by_shape, example=example, stride=stride, batch_size=batch_size, tile=tile, shapes=shapes
    )
    data = _numbered_cases(data_dir, manifest, split, worker, num_workers, cache)
    part = examples_in_part(manifest.splits[split], stride, batch_size, tile, shapes)
    if part == manifest.splits[split].examples:
        data = by_shape(data)
    else:
        data = data.window(part).flat_map(lambda *parts: by_shape(tf.data.Dataset.zip(parts)))
    return data.prefetch(1).with_options(_options())


VOLUMES_READ_AHEAD = 3  # one is prefetched, one is being read, one was not evaluated to its end


@tf.autograph.experimental.do_not_convert
def evaluation_volumes(
    data_dir: str,
    manifest: schema.Manifest,
    split: str,
    *,
    worker: int = 0,
    num_workers: int = 1,
    cache: shard_cache.ShardCache | None = None,
) -> tf.data.Dataset:
    """Returns a split's volumes, each once and by itself.

    Args:
        data_dir: the data folder, local or gs://.
        manifest: of that folder.
        split: a key of `manifest.splits`.
        worker: index of this worker, which reads the shards k with k mod num_workers = worker.
        num_workers: number of workers.
        cache: of the shards, on this machine.

    Returns:
        Volumes: image float32 [D, H, W, C], as networks take it; case int64 [], the place in
        `cases` of the split; original_mask uint8 [D0, H0, W0], box int64 [3, 2] and geometry
        float64 [15], see `volume_examples.Original`.
    """

    def volume(case: tf.Tensor, serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        image = schema.decode(serialized, manifest)["image"]
        return {"image": image, "case": case, **volume_examples.decode_original(serialized)}

    data = _numbered_cases(data_dir, manifest, split, worker, num_workers, cache)
    return data.map(volume, 1, deterministic=True).prefetch(1).with_options(_options())


def _numbered_cases(
    data_dir: str,
    manifest: schema.Manifest,
    split: str,
    worker: int,
    num_workers: int,
    cache: shard_cache.ShardCache | None,
) -> tf.data.Dataset:
    """Returns (place in `cases` of the split, serialized example) of a worker's readable ones."""
    entry = manifest.splits[split]
    paths, counts = _shards(data_dir, entry.shards)
    first_cases = tf.cumsum(counts, exclusive=True)
    blank = schema.blank_example(manifest)

    def numbered(path: tf.Tensor, count: tf.Tensor, first_case: tf.Tensor) -> tf.data.Dataset:
        records = _read(path, count, entry.is_sample)
        return tf.data.Dataset.zip((tf.data.Dataset.counter(first_case), records))

    data = tf.data.Dataset.from_tensor_slices((paths, counts, first_cases))
    data = _copied(data.shard(num_workers, worker), cache).flat_map(numbered)
    return data.filter(lambda case, serialized: serialized != blank)


def _whole_example(
    case: tf.Tensor,
    serialized: tf.Tensor,
    *,
    manifest: schema.Manifest,
    normalize: str,
    stride: int,
    shapes: Sequence[padded_shapes.Shape],
) -> dict[str, tf.Tensor]:
    """Returns an example of an evaluation, whole and padded; see `evaluation_batches`."""
    train = manifest.splits["train"]
    decoded = schema.decode(serialized, manifest)
    image = tf.cast(decoded["image"], tf.float32)
    figures = normalization.NORMALIZATIONS[normalize](decoded["image"], train.mean, train.std)
    image = normalization.rescale(image, *figures)
    image = padded_shapes.mirrored(image, padded_shapes.padded_to(stride))
    shape = padded_shapes.covering(shapes, tf.shape(image)[:2])
    image = _pad(image, tf.concat([shape, [manifest.channels]], axis=0))
    size = tf.shape(decoded["mask"])
    mask = _pad(decoded["mask"], shape, schema.IGNORE)
    offset, scale = (tf.reshape(figure, [manifest.channels]) for figure in figures)
    return {
        "images": image,
        **_targets(mask),
        "case": case,
        "size": size,
        "offset": offset,
        "scale": scale,
    }


def _by_shape(
    data: tf.data.Dataset,
    example: Callable[..., dict[str, tf.Tensor]],
    stride: int,
    batch_size: int,
    tile: int,
    shapes: Sequence[padded_shapes.Shape],
) -> tf.data.Dataset:
    """Returns (case, serialized example) in filled-up batches of one padded shape."""

    def padded_shape(case: tf.Tensor, serialized: tf.Tensor) -> tf.Tensor:
        own = padded_shapes.own(tf.stack(schema.decode_size(serialized)), stride)
        height, width = tf.unstack(tf.cast(padded_shapes.covering(shapes, own), tf.int64))
        return height * _SHAPE_BASE + width

    def size_of_batch(shape: tf.Tensor) -> tf.Tensor:
        longest = tf.maximum(shape // _SHAPE_BASE, shape % _SHAPE_BASE)
        return tf.cast(tf.where(longest > tile, 1, batch_size), tf.int64)

    def full_batch(shape: tf.Tensor, examples: tf.data.Dataset) -> tf.data.Dataset:
        size = size_of_batch(shape)
        examples = examples.map(example, min(READERS, DECODERS), deterministic=True)
        return examples.batch(size).map(lambda batch: _fill(batch, size))

    return data.group_by_window(padded_shape, full_batch, window_size_func=size_of_batch)


def examples_waiting(
    split: schema.Split,
    stride: int,
    batch_size: int,
    tile: int,
    shapes: Sequence[padded_shapes.Shape] = (),
) -> int:
    """Returns how many examples of a split may wait at once until a batch of their shape is full.

    Args:
        split: of the manifest.
        stride: see `evaluation_batches`, as the others.
        batch_size: b.
        tile: side from which on images come alone.
        shapes: that images are padded to.
    """
    sizes = np.array(split.sizes)
    padded = padded_shapes.covering(shapes, padded_shapes.own(sizes[:, :-1], stride)).numpy()
    counts: collections.Counter[padded_shapes.Shape] = collections.Counter()
    for shape, count in zip(map(tuple, padded.tolist()), sizes[:, -1].tolist(), strict=True):
        counts[shape] += count
    return sum(min(n, batch_size - 1) for shape, n in counts.items() if max(shape) <= tile)


def examples_in_part(
    split: schema.Split,
    stride: int,
    batch_size: int,
    tile: int,
    shapes: Sequence[padded_shapes.Shape] = (),
) -> int:
    """Returns in parts of how many examples a split is evaluated; all, where the waiting ones fit.

    Arguments are those of `examples_waiting`.
    """
    bytes_of_one = sum(shard.bytes for shard in split.shards) // split.examples + 1
    most = max(batch_size, HELD_BYTES // bytes_of_one)
    waiting = examples_waiting(split, stride, batch_size, tile, shapes)
    return split.examples if waiting <= most else most


def examples_read_ahead(
    split: schema.Split,
    stride: int,
    batch_size: int,
    tile: int,
    shapes: Sequence[padded_shapes.Shape] = (),
) -> int:
    """Returns how many examples may have been read after the last one that has been evaluated.

    Arguments are those of `examples_waiting`.
    """
    part = examples_in_part(split, stride, batch_size, tile, shapes)
    waiting = examples_waiting(split, stride, batch_size, tile, shapes)
    # One batch is prefetched, one is being made, and one was not evaluated to its end.
    return 3 * batch_size + (waiting if part == split.examples else part)


def _pad(values: tf.Tensor, shape: tf.Tensor, value: int = 0) -> tf.Tensor:
    """Pads the end of each axis, up to a shape."""
    missing = shape - tf.shape(values)
    return tf.pad(
        values, tf.stack([tf.zeros_like(missing), missing], axis=1), constant_values=value
    )


_SHAPE_BASE = 2**31  # a shape as one number: H · _SHAPE_BASE + W


def _fill(batch: dict[str, tf.Tensor], size: tf.Tensor) -> dict[str, tf.Tensor]:
    """Fills a batch up to `size` with examples of zeros and case -1."""
    missing = tf.cast(size, tf.int32) - tf.shape(batch["case"])[0]

    def filled(key: str, value: tf.Tensor) -> tf.Tensor:
        paddings = [[0, missing]] + [[0, 0]] * (value.shape.rank - 1)
        return tf.pad(
            value, paddings, constant_values=tf.cast(-1 if key == "case" else 0, value.dtype)
        )

    return {key: filled(key, value) for key, value in batch.items()}


# Both ---------------------------------------------------------------------------------------------


def _shards(data_dir: str, shards: tuple[schema.Shard, ...]) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns paths, string [N], and numbers of examples, int64 [N]."""
    paths = tf.constant([schema.shard_path(data_dir, shard) for shard in shards])
    return paths, tf.constant([shard.examples for shard in shards], tf.int64)


def _copied(data: tf.data.Dataset, cache: shard_cache.ShardCache | None) -> tf.data.Dataset:
    """Puts the paths of local copies in place of those of shards, the first part of each element.

    A copy is made, or checked, while the shard before it is read.
    """
    if cache is None:
        return data

    def path_of(path: bytes) -> bytes:
        return cache.path_of(path.decode()).encode()

    def copied(path: tf.Tensor, *rest: tf.Tensor) -> tuple[tf.Tensor, ...]:
        # Stateful, it would keep --deterministic from reading several streams at the same time.
        copy = tf.numpy_function(path_of, [path], tf.string, stateful=False)
        return tf.ensure_shape(copy, []), *rest

    return data.map(copied).prefetch(1)


def _read(path: tf.Tensor, count: tf.Tensor, is_sample: bool = False) -> tf.data.Dataset:
    """Returns a shard's records, or the first ones; fails if they are fewer, or others follow."""
    records = tf.data.TFRecordDataset(path)
    if is_sample:
        records = records.take(count)
    return records.apply(tf.data.experimental.assert_cardinality(count))


def _targets(mask: tf.Tensor) -> dict[str, tf.Tensor]:
    known = mask != schema.IGNORE
    return {
        "labels": tf.where(known, tf.cast(mask, tf.int32), 0),
        "valid": tf.cast(known, tf.float32),
    }


def _options() -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False  # see `keep_alive`
    # Workers take their own examples; TensorFlow must not divide them again.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return options
