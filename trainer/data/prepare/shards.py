"""The second pass over images and masks: reads them again, encodes examples, fills shards."""

import collections
import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from trainer import config
from trainer.data.dataset import schema
from trainer.data.prepare import output, pixel_counts, prefetch, worker_pool
from trainer.data.prepare.kinds import Encoded, Kind
from trainer.data.prepare.pairs import Example, by_pair

MIN_SHARDS = 8  # so that as many streams, or workers, can share a split of any size


def write(
    run: worker_pool.Run,
    order: Mapping[str, Mapping[bool | None, Sequence[Example]]],
    kind: Kind,
    form: Any,
    settings: config.Prepare,
    folder: output.Output,
) -> dict[str, schema.Split]:
    """Writes all shards, one after the other, and returns what the manifest says of them.

    Args:
        run: runs tasks on the workers.
        order: the examples of each split, by what is known of their foreground; no shard has
            examples of two such groups.
        kind: of data.
        form: how they are stored.
        settings: the user's.
        folder: where the shards go.
    """
    every = itertools.chain.from_iterable(g for groups in order.values() for g in groups.values())
    pairs = list(by_pair(every))
    task = functools.partial(kind.encode, form)
    results = itertools.chain.from_iterable(
        prefetch.results(run, task, pairs, "writing", settings.downloads)
    )
    splits = {}
    for side, groups in order.items():
        total = pixel_counts.empty(len(form.rule.classes), form.channels)
        counts = [
            (foreground, count)
            for foreground, group in groups.items()
            for count in shard_counts(len(group), _raw_bytes(group, form), settings.shard_mb)
        ]
        shards: list[schema.Shard] = []
        listed: list[Example] = []
        remaining = itertools.chain.from_iterable(groups.values())
        for index, (foreground, count) in enumerate(counts):
            name = schema.shard_name(side, index, len(counts))
            mine, encoded = _mixed(
                list(itertools.islice(remaining, count)),
                itertools.islice(results, count),
                np.random.default_rng([settings.seed, *name.encode()]),
            )
            present: list[np.ndarray] = []
            shard = folder.add(name, _tallied(encoded, total, present))
            marks = tuple("".join(map(str, row)) for row in np.transpose(present).astype(int))
            shards.append(dataclasses.replace(shard, foreground=foreground, present=marks))
            listed += mine
        splits[side] = _describe(listed, shards, total)
    return splits


def _mixed(
    examples: Sequence[Example], encoded: Iterable[Encoded], rng: np.random.Generator
) -> tuple[Sequence[Example], Iterable[Encoded]]:
    """Returns the examples of a shard in the order in which they are written.

    They come image by image. Training permutes blocks of them, which would hold the tiles of one
    large image each: where images were cut, the examples are permuted here. They are in memory
    meanwhile.
    """
    if len({id(example.pair) for example in examples}) == len(examples):
        return examples, encoded
    order, known = rng.permutation(len(examples)), list(encoded)
    return [examples[k] for k in order], [known[k] for k in order]


def _tallied(
    results: Iterable[Encoded],
    total: pixel_counts.Tally,
    present: list[np.ndarray],
) -> Iterator[bytes]:
    """Yields examples; adds up their counts, and lists which classes each has, bool [K]."""
    for example, counts in results:
        total.add(counts)
        present.append(counts.pixels > 0)
        yield example


def shard_counts(num_examples: int, raw_bytes: int, shard_mb: float) -> list[int]:
    """Returns how many examples each shard of a split gets; they differ by at most one.

    Args:
        num_examples: of the split.
        raw_bytes: of its images and masks, uncompressed.
        shard_mb: most megabytes (10^6 bytes) of these in a shard of average images.
    """
    if not num_examples:
        return []
    shards = min(num_examples, max(MIN_SHARDS, math.ceil(raw_bytes / (shard_mb * 1e6))))
    small, larger = divmod(num_examples, shards)
    return [small + 1] * larger + [small] * (shards - larger)


def _raw_bytes(listed: Sequence[Example], form: Any) -> int:
    per_pixel = form.channels * schema.BIT_DEPTHS[form.dtype] // 8 + 1  # and the mask's byte
    return per_pixel * sum(math.prod(one.part.shape) for one in listed)


def _describe(
    listed: Sequence[Example], shards: Sequence[schema.Shard], total: pixel_counts.Tally
) -> schema.Split:
    sizes = collections.Counter(one.part.shape for one in listed)
    num_pixels = sum(math.prod(shape) * count for shape, count in sizes.items())
    mean, std = total.moments(num_pixels)
    return schema.Split(
        examples=len(listed),
        shards=tuple(shards),
        cases=tuple(one.part.name for one in listed),
        sizes=tuple((*size, count) for size, count in sorted(sizes.items())),
        pixels=tuple(int(count) for count in total.pixels),
        ignored_pixels=total.ignored_pixels,
        mean=mean,
        std=std,
    )
