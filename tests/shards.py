"""Data folders of hand-made images: discs on noise."""

import numpy as np

from trainer.data.dataset import schema


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
