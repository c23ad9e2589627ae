"""Folds of a data folder: which examples train, and which cases validate, for each of them.

A fold has its cases twice: as examples to train on, which may be parts of them, and whole, to be
evaluated. Where nothing is cut, both are the same shards.
"""

import collections
import dataclasses
import itertools
import math
from collections.abc import Sequence

from trainer.data.dataset import schema
from trainer.errors import InputError


def choose(manifest: schema.Manifest, fold: int | None, data_dir: str) -> schema.Manifest:
    """Returns the manifest by which a run trains and validates.

    Args:
        manifest: of the data folder.
        fold: that validates, while the others train; None: the splits as they are.
        data_dir: the folder, for messages.

    Raises:
        InputError: the folder has no such fold.
    """
    if fold is None:
        return manifest
    if manifest.folds is None:
        raise InputError(
            f"--fold={fold}: --data_dir={data_dir} has no folds; prepare the data again with "
            "--folds=5, or drop --fold."
        )
    if fold >= len(manifest.folds):
        raise InputError(
            f"--fold={fold} is not one of the {len(manifest.folds)} folds of --data_dir="
            f"{data_dir}, which begin at 0; name another."
        )
    return dataclasses.replace(manifest, splits={**manifest.splits, **splits(manifest.folds, fold)})


def splits(folds: Sequence[schema.Fold], fold: int) -> dict[str, schema.Split]:
    """Returns the train and the val split where one fold validates and the others train."""
    others = [entry.train for k, entry in enumerate(folds) if k != fold]
    return {"train": merge(others), "val": folds[fold].val}


def merge(parts: Sequence[schema.Split]) -> schema.Split:
    """Returns one split of several; its mean and deviation are those of all pixels together.

    Shards without a foreground come last, as in a split that was written as one, and small ones
    after large ones: so the input streams, among which shards are dealt, have as many examples.
    """
    shards = [pair for part in parts for pair in _with_cases(part)]
    shards.sort(key=lambda pair: (pair[0].foreground is False, -pair[0].examples))
    is_listed = all(part.cases is not None for part in parts)
    names = tuple(itertools.chain.from_iterable(cases for _, cases in shards))
    sizes = collections.Counter[tuple[int, ...]]()
    for part in parts:
        sizes.update({tuple(size): count for *size, count in part.sizes})
    weights = [sum(part.pixels) + part.ignored_pixels for part in parts]
    means, deviations = [], []
    for channel in range(len(parts[0].mean)):
        of_parts = [(part.mean[channel], part.std[channel]) for part in parts]
        mean, deviation = _pooled(of_parts, weights)
        means.append(mean)
        deviations.append(deviation)
    return schema.Split(
        examples=sum(part.examples for part in parts),
        shards=tuple(shard for shard, _ in shards),
        cases=names if is_listed else None,
        sizes=tuple((*size, count) for size, count in sorted(sizes.items())),
        pixels=tuple(map(sum, zip(*(part.pixels for part in parts), strict=True))),
        ignored_pixels=sum(part.ignored_pixels for part in parts),
        mean=tuple(means),
        std=tuple(deviations),
    )


def _with_cases(split: schema.Split) -> list[tuple[schema.Shard, tuple[str, ...]]]:
    """Returns each shard of a split with the names of its examples, where they are listed."""
    names = iter(split.cases or ())
    return [(shard, tuple(itertools.islice(names, shard.examples))) for shard in split.shards]


def _pooled(figures: Sequence[tuple[float, float]], weights: Sequence[int]) -> tuple[float, float]:
    """Returns mean and deviation of all values, from those of parts with so many values each."""
    total = sum(weights)
    pairs = list(zip(figures, weights, strict=True))
    mean = math.fsum(weight * mean for (mean, _), weight in pairs) / total
    spread = math.fsum(
        weight * (deviation**2 + (own - mean) ** 2) for (own, deviation), weight in pairs
    )
    return mean, math.sqrt(spread / total)
