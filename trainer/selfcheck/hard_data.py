"""Data that are hard on means, of images and of volumes.

Most pixels do not count, so that some replicas get batches of nothing; no batch of the evaluation
is full.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from trainer.data.dataset import schema, volume_examples
from trainer.data.dataset.volume_examples import Channel, Original, Volumes

IMAGES, VOLUMES = "images", "volumes"  # their folders
# 16 are trained on, the first 8 of them in every other step. Five of two sizes validate, in batches
# of at least four.
SIZES: Mapping[str, Mapping[str, Sequence[tuple[int, ...]]]] = {
    IMAGES: {"train": [(20, 20)] * 16, "val": [(40, 40)] * 3 + [(70, 40)] * 2},
    VOLUMES: {"train": [(6, 12, 12)] * 16, "val": [(6, 12, 12)] * 3 + [(9, 12, 10)] * 2},
}
NUM_CLASSES = 3
# Training images without a pixel that counts, so that each second replica has nothing in every
# other step; and those with a row, or a plane, of such pixels.
EMPTY, NEARLY_EMPTY = (1, 3, 5, 7, 9, 12), (2, 11, 14)
GEOMETRY = (2.0, 1.0, 1.0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1)  # see Geometry.to_array


@contextlib.contextmanager
def data_folder() -> Iterator[str]:
    """Yields a folder of two data folders, IMAGES and VOLUMES; removed at the end."""
    with tempfile.TemporaryDirectory(prefix="selfcheck-") as folder:
        for kind in SIZES:
            os.mkdir(os.path.join(folder, kind))
            _write(os.path.join(folder, kind), kind)
        yield folder


def _write(folder: str, kind: str) -> None:
    """Writes a data folder of three classes."""
    rng, is_images = np.random.default_rng(0), kind == IMAGES
    splits = {
        split: _write_split(rng, folder, split, sizes) for split, sizes in SIZES[kind].items()
    }
    manifest = schema.Manifest(
        classes=tuple(schema.Class(f"class{k}", k) for k in range(NUM_CLASSES)),
        channels=1,
        bit_depth=8 if is_images else 32,
        dtype="uint8" if is_images else "float32",
        encoding="png" if is_images else "zlib",
        splits=splits,
        volumes=None if is_images else Volumes((2.0, 1.0, 1.0), (Channel("0", "none"),)),
        schema=1 if is_images else 2,
    )
    schema.write_manifest(manifest, folder)


def _write_split(
    rng: np.random.Generator, folder: str, split: str, sizes: Sequence[tuple[int, ...]]
) -> schema.Split:
    """Writes one shard per case: three bands, one per class, of noise of three brightnesses."""
    shards, masks, cases = [], [], [f"{split}{n}" for n in range(len(sizes))]
    for n, size in enumerate(sizes):
        bands = np.arange(size[0]) * NUM_CLASSES // size[0]
        mask = np.repeat(bands, np.prod(size[1:])).reshape(size)
        image = (rng.integers(0, 80, size) + 60 * mask).astype(np.uint8)
        mask = mask.astype(np.uint8)
        mask[(0,) * (mask.ndim - 1)][: n + 1] = schema.IGNORE
        if split == "train" and n in (*EMPTY, *NEARLY_EMPTY):
            kept = mask[size[0] // 2].copy()
            mask[:] = schema.IGNORE
            if n in NEARLY_EMPTY:
                mask[size[0] // 2] = kept
        masks.append(mask.ravel())
        name = schema.shard_name(split, n, len(sizes))
        encode = _encode_image if len(size) == 2 else _encode_volume
        shards.append(schema.write_shard(folder, name, [encode(cases[n], image, mask)]))
    pixels = np.concatenate(masks)
    return schema.Split(
        examples=len(sizes),
        shards=tuple(shards),
        cases=tuple(cases),
        sizes=tuple((*size, sizes.count(size)) for size in sorted(set(sizes))),
        pixels=tuple(int((pixels == k).sum()) for k in range(NUM_CLASSES)),
        ignored_pixels=int((pixels == schema.IGNORE).sum()),
        mean=(100.0,),
        std=(50.0,),
    )


def _encode_image(name: str, image: np.ndarray, mask: np.ndarray) -> bytes:
    return schema.encode(name, image[..., np.newaxis], mask, "png")


def _encode_volume(name: str, image: np.ndarray, mask: np.ndarray) -> bytes:
    """Returns an example that is the whole of its file."""
    values = ((image.astype(np.float32) - 100) / 50)[..., np.newaxis]
    places = np.argwhere((mask > 0) & (mask != schema.IGNORE))
    places = np.concatenate([mask[tuple(places.T)][:, np.newaxis], places], axis=1)
    box = np.array([(0, side) for side in mask.shape])
    original = Original(mask, box, np.array(GEOMETRY))
    return volume_examples.encode(name, values, mask, places, original)
