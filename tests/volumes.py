"""Data folders of hand-made volumes."""

import dataclasses

import numpy as np

from trainer.data.dataset import schema, volume_examples
from trainer.data.dataset.volume_examples import Channel, Volumes


def write_volumes(folder, shards, *, splits=("train",), num_classes=2, spacing=None, says=False):
    """Writes a data folder of volumes, equal in each split, and returns its manifest.

    Args:
        folder: an existing path.
        shards: for each the masks of its volumes, uint8 [D, H, W]; the image of a volume is its
            mask, and half the number of the volume among all, as float32.
        splits: names.
        num_classes: in the manifest.
        spacing: of all, in mm.
        says: whether shards say that all of their volumes have a foreground, or none.
    """
    found = {}
    for split in splits:
        written, sizes, number = [], [], 0
        for k, masks in enumerate(shards):
            examples = []
            for mask in masks:
                image = np.stack([mask, np.full_like(mask, number)], -1) / np.float32([1, 2])
                voxels = np.argwhere(np.logical_and(mask > 0, mask != schema.IGNORE))
                places = np.concatenate([mask[tuple(voxels.T)][:, None], voxels], 1)
                examples.append(volume_examples.encode(f"{split}{number}", image, mask, places))
                sizes.append(mask.shape)
                number += 1
            name = schema.shard_name(split, k, len(shards))
            shard = schema.write_shard(str(folder), name, examples)
            foreground = bool(masks[0].any()) if says else None
            written.append(dataclasses.replace(shard, foreground=foreground))
        found[split] = schema.Split(
            examples=number,
            shards=tuple(written),
            cases=tuple(f"{split}{n}" for n in range(number)),
            sizes=tuple((*size, sizes.count(size)) for size in sorted(set(sizes))),
            pixels=tuple(
                int(sum((mask == k).sum() for masks in shards for mask in masks))
                for k in range(num_classes)
            ),
            ignored_pixels=0,
            mean=(0.0, 0.0),
            std=(1.0, 1.0),
        )
    manifest = schema.Manifest(
        classes=tuple(schema.Class(f"class{k}", k) for k in range(num_classes)),
        channels=2,
        bit_depth=32,
        dtype="float32",
        encoding="zlib",
        splits=found,
        volumes=Volumes(spacing, (Channel("mask", "none"), Channel("number", "none"))),
        schema=2,
    )
    schema.write_manifest(manifest, str(folder))
    return manifest
