"""What a plan looks at: the fingerprint of a data set, from the manifest of its folder."""

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np

from trainer.data import preprocessing
from trainer.data.dataset import schema
from trainer.errors import InputError

# An image is a volume of one slice, far from the next, as nnU-Net has it.
SLICE = 999.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What there is in the training split.

    Attributes:
        rank: number of axes: 2 of images, 3 of volumes.
        shapes: depth, height and width of each case in voxels, cropped to what is not zero.
        spacings: in mm along the same axes.
        channels: of each case.
        num_classes: the background included.
        shares: of each class among the pixels that count.
        num_cases: that batches are drawn from.
        pixels: of all training examples, as they were prepared.
        target: mm along the axes of the volumes that were prepared; None: by the rule.
    """

    rank: int
    shapes: tuple[tuple[int, ...], ...]
    spacings: tuple[tuple[float, ...], ...]
    channels: int
    num_classes: int
    shares: tuple[float, ...]
    num_cases: int
    pixels: int = 0
    target: tuple[float, ...] | None = None


def of_manifest(manifest: schema.Manifest, data_dir: str) -> Fingerprint:
    """Returns the fingerprint of a data folder.

    Raises:
        InputError: its manifest does not say how large the cases were before they were prepared.
    """
    if manifest.grids is None:
        raise InputError(
            f"{data_dir}/{schema.MANIFEST} does not have the shapes and spacings of the files that "
            "it was made of, as a plan needs them, because an earlier version wrote it; prepare "
            "the data again."
        )
    is_flat = manifest.rank == 2
    shapes, spacings = [], []
    for grid in manifest.grids:
        shapes += [(1, *grid.shape) if is_flat else grid.shape] * grid.count
        spacings += [grid.spacing or (SLICE, 1.0, 1.0)] * grid.count
    target = None if manifest.volumes is None else manifest.volumes.spacing
    if manifest.volumes is not None and target is None:  # each volume keeps its own
        spacings = list(as_they_are(shapes, spacings))
    pixels = manifest.splits["train"].pixels
    total = max(1, math.fsum(pixels))
    return Fingerprint(
        rank=manifest.rank,
        shapes=tuple(shapes),
        spacings=tuple(spacings),
        channels=manifest.channels,
        num_classes=manifest.num_classes,
        shares=tuple(count / total for count in pixels),
        num_cases=len(shapes),
        pixels=sum(map(math.prod, manifest.splits["train"].sizes)),
        target=target,
    )


def as_they_are(
    shapes: Sequence[Sequence[int]], spacings: Sequence[Sequence[float]]
) -> Sequence[tuple[float, ...]]:
    """Returns spacings with which no volume changes its shape: the rule's, for all of them."""
    typical = preprocessing.target_spacing(np.array(spacings), np.array(shapes))
    return [typical] * len(spacings)


def told(data: Fingerprint) -> list[str]:
    """Returns what the fingerprint says, as a paragraph for people."""
    shape = times(np.median(np.array(data.shapes)[:, -data.rank :], axis=0))
    if data.rank == 2:
        what = f"{data.num_cases} training images; the median has {shape} pixels"
    else:
        spacing = times(np.median(np.array(data.spacings), axis=0))
        what = (
            f"{data.num_cases} training volumes; the median has {shape} voxels of {spacing} mm "
            "where it is not zero"
        )
        if data.target is not None:
            what += f", and was resampled to {times(data.target)} mm"
    shares = ", ".join(f"{share:.3g}" for share in data.shares)
    return [
        f"{what}; {data.channels} {'channel' if data.channels == 1 else 'channels'}; shares of the "
        f"{data.num_classes} classes {shares}."
    ]


def times(numbers: Iterable[float]) -> str:
    """Returns numbers as people write sizes: 40×56×40."""
    return "×".join(f"{number:.4g}" for number in numbers)
