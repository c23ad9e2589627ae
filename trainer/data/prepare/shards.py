"""The second pass over pictures and masks: reads them again, encodes examples, fills shards."""

import collections
import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from trainer import config
from trainer.data.dataset import schema
from trainer.data.formats import images
from trainer.data.prepare import (
    labels,
    output,
    pixel_counts,
    prefetch,
    statistics,
    tiling,
    worker_pool,
)

MIN_SHARDS = 8  # so that as many streams, or workers, can share a split of any size


def write(
    run: worker_pool.Run,
    order: dict[str, list[tiling.Tile]],
    form: statistics.Format,
    settings: config.Prepare,
    folder: output.Output,
) -> dict[str, schema.Split]:
    """Writes all shards, one after the other, and returns what the manifest says of them.

    Args:
        run: runs tasks on the workers.
        order: the examples of each split.
        form: how they are stored.
        settings: the user's.
        folder: where the shards go.
    """
    task = functools.partial(_encode, form, settings.max_pixels)
    pairs = list(tiling.by_pair(tile for listed in order.values() for tile in listed))
    results = itertools.chain.from_iterable(prefetch.results(run, task, pairs, "writing"))
    splits = {}
    for side, listed in order.items():
        total = pixel_counts.empty(len(form.rule.classes), form.channels)
        shards = []
        counts = shard_counts(len(listed), _raw_bytes(listed, form), settings.shard_mb)
        for index, count in enumerate(counts):
            name = schema.shard_name(side, index, len(counts))
            examples = _tallied(itertools.islice(results, count), total)
            shards.append(folder.add(name, examples))
        splits[side] = _describe(listed, shards, total)
    return splits


def _tallied(
    results: Iterable[tuple[bytes, pixel_counts.Tally]], total: pixel_counts.Tally
) -> Iterator[bytes]:
    for example, counts in results:
        total.add(counts)
        yield example


def shard_counts(num_examples: int, raw_bytes: int, shard_mb: float) -> list[int]:
    """Returns how many examples each shard of a split gets; they differ by at most one.

    Args:
        num_examples: of the split.
        raw_bytes: of its images and masks, uncompressed.
        shard_mb: most megabytes (10^6 bytes) of these in a shard of average images.
    """
    shards = min(num_examples, max(MIN_SHARDS, math.ceil(raw_bytes / (shard_mb * 1e6))))
    small, larger = divmod(num_examples, shards)
    return [small + 1] * larger + [small] * (shards - larger)


def _raw_bytes(listed: Sequence[tiling.Tile], form: statistics.Format) -> int:
    per_pixel = form.channels * schema.BIT_DEPTHS[form.dtype] // 8 + 1  # and the mask's byte
    return per_pixel * sum(one.height * one.width for one in listed)


def _encode(
    form: statistics.Format, max_pixels: int, pair: statistics.Pair
) -> list[tuple[bytes, pixel_counts.Tally]]:
    """Returns the examples of a pair, one for each of its boxes."""
    pixels, given_mask = statistics.read(pair, max_pixels)
    image = images.convert(pixels, form.channels, form.dtype, pair.image.label)
    mask = labels.class_ids(given_mask, form.rule, pair.mask.label)
    examples = []
    for name, top, left, height, width in pair.boxes:
        part = np.s_[top : top + height, left : left + width]
        example = schema.encode(name, image[part], mask[part], form.encoding)
        counts = pixel_counts.of_example(image[part], mask[part], len(form.rule.classes))
        examples.append((example, counts))
    return examples


def _describe(
    listed: Sequence[tiling.Tile], shards: Sequence[schema.Shard], total: pixel_counts.Tally
) -> schema.Split:
    sizes = collections.Counter((one.height, one.width) for one in listed)
    num_pixels = sum(one.height * one.width for one in listed)
    mean, std = total.moments(num_pixels)
    return schema.Split(
        examples=len(listed),
        shards=tuple(shards),
        cases=tuple(one.name for one in listed),
        sizes=tuple((*size, count) for size, count in sorted(sizes.items())),
        pixels=tuple(int(count) for count in total.pixels),
        ignored_pixels=total.ignored_pixels,
        mean=mean,
        std=std,
    )
