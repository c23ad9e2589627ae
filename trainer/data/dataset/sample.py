"""A part of a split that stands for all of it while a run is trained."""

import dataclasses

from trainer.data.dataset import schema


def of_validation(manifest: schema.Manifest, most: int) -> schema.Manifest:
    """Returns the manifest with a val split of so many cases at most, the same at each call.

    `trainer.data.prepare` writes the cases of a split in a random order. So the first ones of each
    shard, in proportion to its size, are a random sample. Sizes, pixels and moments stay those of
    the whole split.

    Args:
        manifest: of the data.
        most: cases; 0: all.
    """
    val = manifest.splits["val"]
    if not most or val.examples <= most:
        return manifest
    shards: list[schema.Shard] = []
    kept: list[int] = []  # places of cases
    end = taken = 0
    for shard in val.shards:
        start, end = end, end + shard.examples
        count = end * most // val.examples - taken
        taken += count
        if count:
            shards.append(dataclasses.replace(shard, examples=count, present=None))
            kept += range(start, start + count)
    cases = None if val.cases is None else tuple(val.cases[place] for place in kept)
    sample = dataclasses.replace(val, examples=most, shards=tuple(shards), cases=cases)
    return dataclasses.replace(manifest, splits={**manifest.splits, "val": sample})
