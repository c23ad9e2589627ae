"""Counts what an evaluation of photos of many sizes computes, in their own shapes and in a few.

    python -m benchmarks.eval_shapes [--images=200 --shortest=200 --longest=1000 --batch_size=16]

Sides are drawn evenly. Nothing is computed: the shapes are those that `trainer.evaluate` chooses.
"""

import dataclasses

import numpy as np

from benchmarks import table
from trainer import cli, config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Photos(config.Settings):
    """Draws sizes of photos and counts the shapes and pixels of their evaluation."""

    images: int = config.setting(200, "Photos.", low=1)
    shortest: int = config.setting(200, "Shortest side, in pixels.", low=1)
    longest: int = config.setting(1000, "Longest side.", low=1)
    batch_size: int = config.setting(16, "Images that are predicted at once.", low=1)
    stride: int = config.setting(16, "Stride of the network.", low=1)
    seed: int = config.setting(0, "Of the sizes.")


def main(settings: Photos) -> None:
    """Prints a row for the images' own shapes, and one for some most numbers of shapes."""
    from trainer.data.input import padded_shapes

    draw = np.random.default_rng(settings.seed).integers
    sizes = draw(settings.shortest, settings.longest, (settings.images, 2), endpoint=True)
    own = padded_shapes.own(sizes, settings.stride)
    batch = settings.batch_size

    def figures_of(most: int) -> dict[str, float]:
        shapes = padded_shapes.few(own, np.ones(len(own), int), batch, most)
        padded = padded_shapes.covering(shapes, own).numpy()
        used, counts = np.unique(padded, axis=0, return_counts=True)
        batches = -(-counts // batch)
        pixels, pixels_of_batches = padded.prod(axis=1), batches * batch * used.prod(axis=1)
        return {
            "shapes": len(used),
            "pixels": pixels.sum() / own.prod(axis=1).sum(),
            "pixels with fillers": pixels_of_batches.sum() / own.prod(axis=1).sum(),
            "batches": batches.sum(),
            "images that wait": np.minimum(counts, batch - 1).sum(),
        }

    rows = {f"{most} shapes at most": figures_of(most) for most in (4, padded_shapes.MOST, 16)}
    table.show(
        f"{settings.images} photos in batches of {batch}; pixels: of those in their own shapes",
        {"their own shapes": figures_of(0), **rows},
    )


if __name__ == "__main__":
    cli.run(Photos, main)
