"""Draws what each augmentation does to an example: docs/images/augment_*.png.

    python docs/draw_augmentations.py --data_dir=DATA --case=NAME

Each picture is the example and four draws, of a volume the middle slice across its depth. Classes
are outlined as the mask says; pixels which do not count, because they lie outside the image, are
pale.
"""

import argparse
import functools
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from trainer.data.dataset import schema
from trainer.data.input import augment, normalization, volume_augment
from trainer.drawing import overlays

FOLDER = Path(__file__).parent / "images"
SIDE, PANEL, GAP = 256, 132, 4  # pixels: of the crop, of a panel, between panels
DRAWS = 4
SEED = 49  # one whose four draws show every flip and every turn


def only(kind, apply):
    """Returns a row that always does one thing, and nothing else."""
    return augment.Augmentation(**{kind: (augment.Op(apply),)})


PICTURES = {
    "flip": only("matrices", augment.flip),
    "turn": only("matrices", augment.turn),
    "rotate_and_scale": only(
        "matrices", functools.partial(augment.rotate_and_scale, degrees=45, scale=1.4)
    ),
    "elastic": only("displacements", augment.elastic),
    "brightness": only("intensities", augment.brightness),
    "contrast": only("intensities", augment.contrast),
    "gamma": only("intensities", augment.gamma),
    "noise": only("intensities", augment.noise),
    "blur": only("intensities", augment.blur),
    "row_standard": augment.AUGMENTATIONS["standard"],
    "row_strong": augment.AUGMENTATIONS["strong"],
}


def main():
    """Draws every picture."""
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--data_dir", required=True, help="folder of trainer.data.prepare")
    flags.add_argument("--case", required=True, help="of its train split; an image from 256×256")
    chosen = flags.parse_args()
    manifest = schema.read_manifest(chosen.data_dir)
    image, mask = read_case(chosen.data_dir, manifest, chosen.case)
    if manifest.volumes is None:
        image, mask, drawn, one = image[:SIDE, :SIDE], mask[:SIDE, :SIDE], PICTURES, draw
    else:
        spacing, one = manifest.volumes.spacing, draw_slice
        drawn = {
            f"volume_{name}": volume_augment.row_of(name, box_of(mask), spacing)
            for name in ("standard", "strong")
        }
    for name, row in drawn.items():
        rows = [augment.Augmentation()] + [row] * DRAWS
        pictures = [
            one(image, mask, tf.constant([SEED, n], tf.int64), r) for n, r in enumerate(rows)
        ]
        save(FOLDER / f"augment_{name}.png", pictures)


def read_case(data_dir, manifest, case):
    """Returns a training image, and its mask."""
    for shard in manifest.splits["train"].shards:
        for serialized in schema.read_shard(data_dir, shard):
            example = schema.decode(serialized, manifest)
            if example["name"].numpy().decode() == case:
                return example["image"], example["mask"]
    raise SystemExit(f"--case={case} is not in the train split of {data_dir}.")


def draw(image, mask, key, row):
    """Returns one draw as a picture, uint8 [PANEL, PANEL, 3], by way of the model's units."""
    offset, scale = normalization.NORMALIZATIONS["image"](image, (), ())
    crop, mask = augment.crop_randomly(image, mask, key, (SIDE, SIDE), row)
    crop, mask = augment.adjust(normalization.rescale(crop, offset, scale), mask, key, row)
    return panel(crop * scale + offset, mask)


def draw_slice(image, mask, key, row):
    """Returns one draw of a volume as a picture of its middle slice, from black to white."""
    crop, mask = augment.crop_randomly(image, mask, key, box_of(mask), row)
    crop, mask = augment.adjust(crop, mask, key, row)
    low, high = np.percentile(image, (1, 99))
    middle = len(mask) // 2
    return panel((crop[middle, ..., :1] - low) / (high - low) * 255, mask[middle])


def box_of(mask):
    """Returns the sides of a volume's crop: its depth, and a square of what is shorter."""
    depth, *sides = mask.shape
    return depth, min(sides), min(sides)


def panel(image, mask):
    """Returns an image with outlines, of one channel or three, uint8 [PANEL, PANEL, 3]."""
    picture = np.array(tf.image.resize(image, [PANEL, PANEL], antialias=True))
    picture = np.broadcast_to(picture, [PANEL, PANEL, 3]).copy()
    mask = tf.image.resize(mask[..., tf.newaxis], [PANEL, PANEL], "nearest").numpy()[..., 0]
    inside = (mask > 0) & (mask != schema.IGNORE)
    picture[overlays.outline(inside)] = (255, 220, 0)
    picture = np.where((mask == schema.IGNORE)[..., None], 0.35 * picture + 0.65 * 255, picture)
    return np.clip(picture, 0, 255).astype(np.uint8)


def save(path, pictures):
    """Writes pictures side by side, with few colours so that the file stays small."""
    sheet = Image.new("RGB", (len(pictures) * (PANEL + GAP) - GAP, PANEL), "white")
    for n, picture in enumerate(pictures):
        sheet.paste(Image.fromarray(picture), (n * (PANEL + GAP), 0))
    sheet.quantize(64).save(path, optimize=True)


if __name__ == "__main__":
    main()
