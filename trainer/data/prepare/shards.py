"""Which examples each shard gets, how it is filled with them, and what is said of a split."""

import collections
import dataclasses
import itertools
import math
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from trainer.data.dataset import case_index, schema
from trainer.data.packed import Packed
from trainer.data.prepare import pixel_counts
from trainer.data.prepare.kinds import Encoded
from trainer.data.prepare.pairs import Example

T = typing.TypeVar("T")

MIN_SHARDS = 8  # so that as many streams, or workers, can share a split of any size


@dataclasses.dataclass(frozen=True)
class ShardPlan:
    """A shard that is to be written.

    Attributes:
        name: of its file.
        side: the split, or role of a fold.
        foreground: what is known of its examples' foreground; those of a shard are alike in it.
        examples: image by image, as they are read.
        seed: of their order in the shard.
    """

    name: str
    side: str
    foreground: bool | None
    examples: Sequence[Example]
    seed: int

    def by_itself(self) -> "ShardPlan":
        """Returns the plan with examples that refer to no other shard's, for another process."""
        return dataclasses.replace(self, examples=list(self.examples))

    def ordered(self, of_examples: Iterable[T]) -> Iterable[T]:
        """Returns one thing of each example in the order in which they are written.

        Examples come image by image. Training permutes blocks of them, which would hold the tiles
        of one large image each: where images were cut, examples are permuted here, and are in
        memory meanwhile.
        """
        if len({example.pair.name for example in self.examples}) == len(self.examples):
            return of_examples
        order = np.random.default_rng([self.seed, *self.name.encode()])
        known = list(of_examples)
        return [known[k] for k in order.permutation(len(known))]


@dataclasses.dataclass(frozen=True)
class Written:
    """A shard that has been written, and the counts and sums of its pixels."""

    shard: schema.Shard
    tally: pixel_counts.Tally


def plan(
    order: Mapping[str, Mapping[bool | None, Sequence[Example]]],
    form: Any,
    shard_mb: float,
    seed: int,
) -> list[ShardPlan]:
    """Returns all shards, in the order in which their examples are read.

    Args:
        order: the examples of each split, by what is known of their foreground.
        form: how they are stored.
        shard_mb: see `shard_counts`.
        seed: of the order in each shard.
    """
    plans = []
    for side, groups in order.items():
        parts = []
        for foreground, group in groups.items():
            counts = shard_counts(len(group), _raw_bytes(group, form), shard_mb)
            for count, end in zip(counts, itertools.accumulate(counts), strict=True):
                parts.append((foreground, group[end - count : end]))
        for index, (foreground, examples) in enumerate(parts):
            name = schema.shard_name(side, index, len(parts))
            plans.append(ShardPlan(name, side, foreground, examples, seed))
    return plans


def fill(
    plan: ShardPlan,
    encoded: Iterable[Encoded],
    form: Any,
    add: Callable[[str, Iterable[bytes]], schema.Shard],
) -> Written:
    """Writes a shard.

    Args:
        plan: of the shard.
        encoded: its examples, as they are read.
        form: how they are stored.
        add: (name, examples) → the file of a shard with these.
    """
    total = pixel_counts.empty(len(form.rule.classes), form.channels)
    present: list[np.ndarray] = []
    shard = add(plan.name, _tallied(plan.ordered(encoded), total, present))
    marks = tuple("".join(map(str, row)) for row in np.transpose(present).astype(int))
    return Written(dataclasses.replace(shard, foreground=plan.foreground, present=marks), total)


def describe(
    plans: Sequence[ShardPlan],
    written: Iterable[Written],
    form: Any,
    add_index: Callable[[str, Iterable[tuple[str, str]]], schema.Index],
) -> tuple[dict[str, schema.Split], tuple[schema.Index, ...] | None]:
    """Returns what the manifest says of the splits, of which all shards have been written.

    Args:
        plans: of all shards.
        written: the shards.
        form: how examples are stored.
        add_index: (name, rows) → an index of these, see `case_index.write`.

    Returns:
        The splits, and the indexes of their cases; None where the splits themselves list them.
    """
    splits, indexes = {}, []
    is_small = sum(len(one.examples) for one in plans) <= case_index.MOST_LISTED
    pairs = zip(plans, written, strict=True)
    for side, of_side in itertools.groupby(pairs, key=lambda one: one[0].side):
        total = pixel_counts.empty(len(form.rule.classes), form.channels)
        shards, cases = [], Packed[str]()
        sizes = collections.Counter[tuple[int, ...]]()
        for shard_plan, one in of_side:
            total.add(one.tally)
            shards.append(one.shard)
            for example in shard_plan.ordered(shard_plan.examples):
                cases.append(example.part.name)
                sizes[example.part.shape] += 1
        split = _describe(cases, sizes, shards, total)
        if not is_small:
            indexes.append(add_index(case_index.file_name(side), _rows(split)))
            split = _without_cases(split, indexes[-1].name)
        else:
            split = dataclasses.replace(split, cases=tuple(cases))
        splits[side] = split
    return splits, None if is_small else tuple(indexes)


def _rows(split: schema.Split) -> Iterator[tuple[str, str]]:
    """Yields each case's name, and its marks."""
    marks = itertools.chain.from_iterable(
        map("".join, zip(*shard.present or (), strict=True)) for shard in split.shards
    )
    return zip(split.names, marks, strict=True)


def _without_cases(split: schema.Split, index: str) -> schema.Split:
    """Returns a split that has its cases in an index of this name."""
    shards, end = [], 0
    for shard in split.shards:
        rows = schema.Rows(index, end)
        shards.append(dataclasses.replace(shard, present=None, rows=rows))
        end += shard.examples
    return dataclasses.replace(split, shards=tuple(shards), cases=None)


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


def _raw_bytes(listed: Iterable[Example], form: Any) -> int:
    per_pixel = form.channels * schema.BIT_DEPTHS[form.dtype] // 8 + 1  # and the mask's byte
    return per_pixel * sum(math.prod(one.part.shape) for one in listed)


def _describe(
    cases: Sequence[str],
    sizes: Mapping[tuple[int, ...], int],
    shards: Sequence[schema.Shard],
    total: pixel_counts.Tally,
) -> schema.Split:
    num_pixels = sum(math.prod(shape) * count for shape, count in sizes.items())
    mean, std = total.moments(num_pixels)
    return schema.Split(
        examples=len(cases),
        shards=tuple(shards),
        cases=cases,
        sizes=tuple((*size, count) for size, count in sorted(sizes.items())),
        pixels=tuple(int(count) for count in total.pixels),
        ignored_pixels=total.ignored_pixels,
        mean=mean,
        std=std,
    )
