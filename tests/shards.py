"""Data folders of hand-made images: discs on noise."""

import dataclasses

import numpy as np

from trainer.data.dataset import case_index, folds, schema, volume_examples
from trainer.data.dataset.volume_examples import Channel, Original, Volumes


def write_data(folder, sizes, *, num_classes=2, channels=1, num_shards=2, seed=0, bare=()):
    """Writes a data folder of discs on noise and returns its manifest.

    Args:
        folder: an existing path.
        sizes: split → list of (height, width), one per image.
        num_classes: class k is a disc whose brightness is k.
        channels: of the images.
        num_shards: of each split, at most.
        seed: of noise and discs.
        bare: splits of which no image has a disc.
    """
    rng = np.random.default_rng(seed)
    splits = {}
    for split, shapes in sizes.items():
        count = min(num_shards, len(shapes))
        names = [f"{split}{n}" for n in range(len(shapes))]
        drawn = 1 if split in bare else num_classes
        examples = [draw_discs(rng, *shape, channels, drawn) for shape in shapes]
        groups = np.array_split(np.arange(len(shapes)), count)
        shards = tuple(
            schema.write_shard(
                str(folder),
                schema.shard_name(split, k, count),
                [schema.encode(names[n], *examples[n], "png") for n in group],
            )
            for k, group in enumerate(groups)
        )
        masks = np.concatenate([mask.ravel() for _, mask in examples])
        pixels = np.concatenate([image.reshape(-1, channels) for image, _ in examples])
        splits[split] = schema.Split(
            examples=len(shapes),
            shards=shards,
            cases=tuple(names),
            sizes=tuple((*shape, shapes.count(shape)) for shape in sorted(set(shapes))),
            pixels=tuple(int((masks == k).sum()) for k in range(num_classes)),
            ignored_pixels=int((masks == schema.IGNORE).sum()),
            mean=tuple(pixels.mean(axis=0).tolist()),
            std=tuple(pixels.std(axis=0).tolist()),
        )
    manifest = schema.Manifest(
        classes=tuple(schema.Class(f"class{k}", k) for k in range(num_classes)),
        channels=channels,
        bit_depth=8,
        dtype="uint8",
        encoding="png",
        splits=splits,
    )
    schema.write_manifest(manifest, str(folder))
    return manifest


def write_folds(folder, num_folds=3, cases=4, side=40):
    """Writes a data folder of folds, each of so many images, and of a test split as large."""
    names = [f"fold{k}" for k in range(num_folds)]
    written = write_data(folder, {name: [(side, side)] * cases for name in [*names, "test"]})
    parts = tuple(schema.Fold(written.splits[name], written.splits[name]) for name in names)
    splits = {**folds.splits(parts, 0), "test": written.splits["test"]}
    manifest = dataclasses.replace(written, splits=splits, folds=parts)
    schema.write_manifest(manifest, str(folder))
    return manifest


def index_cases(folder):
    """Moves the cases of a data folder into indexes; returns the manifest, as large data have it.

    Shards are those of whole splits: the folder has no folds.
    """
    listed = schema.read_manifest(str(folder))
    splits, indexes = {}, []
    for name, split in listed.splits.items():
        rows, shards, cases = [], [], iter(split.cases)
        for shard in split.shards:
            place = schema.Rows(case_index.file_name(name), len(rows))
            shards.append(dataclasses.replace(shard, present=None, rows=place))
            for example in schema.read_shard(str(folder), shard):
                mask = schema.decode(example, listed)["mask"].numpy()
                marks = (str(int((mask == k).any())) for k in range(listed.num_classes))
                rows.append((next(cases), "".join(marks)))
        indexes.append(case_index.write(str(folder), case_index.file_name(name), rows))
        splits[name] = dataclasses.replace(split, shards=tuple(shards), cases=None)
    manifest = dataclasses.replace(listed, splits=splits, indexes=tuple(indexes))
    schema.write_manifest(manifest, str(folder))
    return manifest


def draw_discs(rng, height, width, channels, num_classes):
    """Returns an image uint8 [H, W, C] and its mask uint8 [H, W]; a corner pixel is ignored."""
    mask = np.zeros((height, width), np.uint8)
    rows, columns = np.mgrid[:height, :width]
    for k in range(1, num_classes):
        y, x = rng.integers(0, height), rng.integers(0, width)
        mask[(rows - y) ** 2 + (columns - x) ** 2 < (min(height, width) / 3) ** 2] = k
    noise = rng.integers(0, 40, (height, width, channels))
    image = (noise + 200 * mask[..., None] // max(1, num_classes - 1)).astype(np.uint8)
    mask[0, 0] = schema.IGNORE
    return image, mask


def write_balls(folder, shapes, *, num_classes=2, channels=1, num_shards=2, seed=0, margin=1):
    """Writes a data folder of balls on noise, in volumes, and returns its manifest.

    Args:
        folder: an existing path.
        shapes: split → list of (depth, height, width), one per volume, of what is stored.
        num_classes: class k is a ball whose brightness is k.
        channels: of the volumes.
        num_shards: of each split, at most.
        seed: of noise and balls.
        margin: voxels of the file around what is stored, along each axis. A file has two voxels
            along the width for each that is stored.
    """
    rng = np.random.default_rng(seed)
    splits = {}
    for split, sizes in shapes.items():
        count = min(num_shards, len(sizes))
        names = [f"{split}{n}" for n in range(len(sizes))]
        drawn = [draw_balls(rng, shape, channels, num_classes) for shape in sizes]
        examples = []
        for name, (image, mask) in zip(names, drawn, strict=True):
            file = np.pad(np.repeat(mask, 2, axis=2), margin)
            ends = [(margin, side - margin) for side in file.shape]
            original = Original(file, np.array(ends), np.array(HALF_WIDTH))
            places = np.argwhere((mask > 0) & (mask != schema.IGNORE))
            places = np.concatenate([mask[tuple(places.T)][:, None], places], axis=1)
            examples.append(volume_examples.encode(name, image, mask, places, original))
        shards = tuple(
            schema.write_shard(
                str(folder), schema.shard_name(split, k, count), [examples[n] for n in group]
            )
            for k, group in enumerate(np.array_split(np.arange(len(sizes)), count))
        )
        masks = np.concatenate([mask.ravel() for _, mask in drawn])
        voxels = np.concatenate([image.reshape(-1, channels) for image, _ in drawn])
        splits[split] = schema.Split(
            examples=len(sizes),
            shards=shards,
            cases=tuple(names),
            sizes=tuple((*shape, sizes.count(shape)) for shape in sorted(set(sizes))),
            pixels=tuple(int((masks == k).sum()) for k in range(num_classes)),
            ignored_pixels=int((masks == schema.IGNORE).sum()),
            mean=tuple(voxels.mean(axis=0).tolist()),
            std=tuple(voxels.std(axis=0).tolist()),
        )
    manifest = schema.Manifest(
        classes=tuple(schema.Class(f"class{k}", k) for k in range(num_classes)),
        channels=channels,
        bit_depth=32,
        dtype="float32",
        encoding="zlib",
        splits=splits,
        volumes=Volumes((2.0, 1.0, 1.0), tuple(Channel(str(c), "none") for c in range(channels))),
        schema=2,
    )
    schema.write_manifest(manifest, str(folder))
    return manifest


# The grid of a file whose voxels are half as wide as those that are stored; see Geometry.
HALF_WIDTH = (2.0, 1.0, 0.5, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1)


def draw_balls(rng, shape, channels, num_classes):
    """Returns a volume float32 [D, H, W, C] and its mask uint8; a corner voxel is ignored."""
    mask = np.zeros(shape, np.uint8)
    grid = np.indices(shape)
    for k in range(1, num_classes):
        centre = [rng.integers(0, side) for side in shape]
        apart = sum((axis - c) ** 2 for axis, c in zip(grid, centre, strict=True))
        mask[apart < (min(shape) / 3) ** 2] = k
    image = rng.normal(0, 0.3, (*shape, channels)) + mask[..., None]
    mask[0, 0, 0] = schema.IGNORE
    return image.astype(np.float32), mask
