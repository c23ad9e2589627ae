"""What is done to a volume before a network sees it, and undone to what the network says of it.

It is cropped to what is not zero, normalised, and resampled: the one function of preparation and
prediction. Normalisation comes before resampling, as in nnU-Net (Isensee et al., 2021), whose rules
of grids these are.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from scipy import ndimage

from trainer.data import resampling
from trainer.data.resampling import Slab
from trainer.errors import InputError

LONGEST = 2**16 - 1  # voxels along an axis: places are stored in 16 bits
ANISOTROPY = 3.0  # a voxel that is longer than this many of its shortest side is flat


class Channel(Protocol):
    """How a channel is normalised; see `normalize`."""

    @property
    def name(self) -> str:
        """What the channel is, such as CT."""

    @property
    def scheme(self) -> str:
        """One of "ct", "zscore", "nonzero" and "none"."""

    @property
    def mean(self) -> float | None:
        """Of the foreground of the training split, for "ct"."""

    @property
    def std(self) -> float | None:
        """As `mean`."""

    @property
    def low(self) -> float | None:
        """Lower values become it, for "ct"."""

    @property
    def high(self) -> float | None:
        """Higher values become it, for "ct"."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A volume as networks take it.

    Attributes:
        values: float32 [d, h, w, C].
        box: int64 [3, 2], first and last + 1 of the part of the original that it is.
    """

    values: np.ndarray
    box: np.ndarray


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What all volumes of a data set have in common.

    Attributes:
        channels: how each is normalised.
        spacing: in mm along D, H and W, to which all are resampled; None: each keeps its own.
    """

    channels: Sequence[Channel]
    spacing: tuple[float, float, float] | None

    def apply(
        self, values: np.ndarray, spacing: Sequence[float], box: np.ndarray | None = None
    ) -> Prepared:
        """Prepares a volume.

        Args:
            values: [D, H, W, C], in stored units, none of them NaN.
            spacing: of its voxels, mm along D, H and W.
            box: its `nonzero_box`, where that is known.
        """
        box = nonzero_box(values) if box is None else box
        shape = self.shape_of(box, spacing)
        axis = self.coarse_axis(spacing)
        cropped = values[_part(box)].astype(np.float32)
        return Prepared(resampling.resample(normalize(cropped, self.channels), shape, 3, axis), box)

    def apply_to_mask(
        self, ids: np.ndarray, box: np.ndarray, spacing: Sequence[float]
    ) -> np.ndarray:
        """Returns the mask of a volume on the grid of its prepared values.

        Args:
            ids: uint8 [D, H, W], class ids or trainer.ignore_label.IGNORE.
            box: of the prepared volume.
            spacing: as for `apply`.

        Returns:
            uint8 [d, h, w].
        """
        shape = self.shape_of(box, spacing)
        return resampling.resample_mask(ids[_part(box)], shape, self.coarse_axis(spacing))

    def restore_logits(
        self, slabs: Iterable[Slab], box: np.ndarray, spacing: Sequence[float]
    ) -> Iterator[Slab]:
        """Brings logits back to the grid of the original volume, while they come.

        Args:
            slabs: of the logits of the prepared volume, from its first slice to its last:
                (first, float32 [n, h, w, K]).
            box: of the prepared volume.
            spacing: of the original.

        Yields:
            Slabs of the logits in the box, from its first slice (0) to its last.
        """
        depth = self.shape_of(box, spacing)[0]
        return resampling.resample_slabs(slabs, depth, sides_of(box), self.coarse_axis(spacing))

    def shape_of(self, box: np.ndarray, spacing: Sequence[float]) -> tuple[int, ...]:
        """Returns the shape of a prepared volume."""
        if self.spacing is None:
            return sides_of(box)
        return target_shape(sides_of(box), spacing, self.spacing)

    def check_size(
        self, label: str, box: np.ndarray, spacing: Sequence[float], max_voxels: int
    ) -> None:
        """Raises InputError if a volume gets too large when it is resampled.

        Args:
            label: what the message calls it.
            box: its `nonzero_box`.
            spacing: of the original.
            max_voxels: the most that it may have.
        """
        shape = self.shape_of(box, spacing)
        if math.prod(shape) <= max_voxels and max(shape) <= LONGEST:
            return
        own, target = (
            "×".join(f"{length:g}" for length in one) for one in (spacing, self.spacing or spacing)
        )
        raise InputError(
            f"{label} has voxels of {own} mm, and of {target} mm it has "
            f"{'×'.join(map(str, shape))}, more than --max_pixels={max_voxels} or {LONGEST} along "
            "an axis; correct the spacing in its header or the one to which it is resampled, or "
            "raise --max_pixels."
        )

    def coarse_axis(self, spacing: Sequence[float]) -> int | None:
        """Returns the axis along which a volume is not interpolated: its own, or of the target."""
        axis = coarse_axis(spacing)
        return coarse_axis(self.spacing) if axis is None and self.spacing else axis


def uncrop(
    slabs: Iterable[Slab], box: np.ndarray, shape: Sequence[int], outside: Any = 0
) -> Iterator[Slab]:
    """Puts what is known of a part of a volume into the whole.

    Args:
        slabs: of the part, [n, h, w, …], from its first slice to its last.
        box: int64 [3, 2], where the part lies.
        shape: of the whole, D, H, W.
        outside: what all other voxels have; of class ids, 0 is the background.

    Yields:
        Slabs of the whole, [n, H, W, …], from its first slice to its last.
    """
    (top, bottom), *inner = box.tolist()
    empty: np.ndarray | None = None
    for first, values in slabs:
        whole = np.full((len(values), *shape[1:], *values.shape[3:]), outside, values.dtype)
        if empty is None:
            empty = np.full((1, *whole.shape[1:]), outside, values.dtype)
            yield from ((z, empty) for z in range(top))
        whole[(slice(None), *(slice(*ends) for ends in inner))] = values
        yield top + first, whole
    assert empty is not None
    yield from ((z, empty) for z in range(bottom, shape[0]))


def nonzero_box(values: np.ndarray) -> np.ndarray:
    """Returns the smallest box with all voxels that are nonzero in any channel.

    Args:
        values: [D, H, W, C].

    Returns:
        int64 [3, 2], first and last + 1 along each axis; the whole volume where all are zero.
    """
    shape = values.shape[:3]
    is_there = [np.zeros(length, bool) for length in shape]
    for z, plane in enumerate(values):
        is_nonzero = (plane != 0).any(axis=-1)
        is_there[0][z] = is_nonzero.any()
        is_there[1] |= is_nonzero.any(axis=1)
        is_there[2] |= is_nonzero.any(axis=0)
    if not is_there[0].any():
        return np.array([(0, length) for length in shape])
    ends = (np.flatnonzero(one)[[0, -1]] for one in is_there)
    return np.array([(first, last + 1) for first, last in ends])


def nonzero_mask(values: np.ndarray) -> np.ndarray:
    """Returns which voxels are nonzero in any channel, or enclosed by such: bool [D, H, W]."""
    return ndimage.binary_fill_holes(np.stack([(plane != 0).any(axis=-1) for plane in values]))


def normalize(values: np.ndarray, channels: Sequence[Channel]) -> np.ndarray:
    """Normalises a volume in its place, and returns it.

    "ct" clips to [low, high], subtracts the mean and divides by the deviation; "zscore" takes mean
    and deviation of the volume itself, "nonzero" those inside its `nonzero_mask`, with 0 outside;
    "none" leaves values alone. What does not vary becomes 0.

    Args:
        values: float32 [D, H, W, C], in stored units.
        channels: of each channel.
    """
    inside = None
    if any(channel.scheme == "nonzero" for channel in channels):
        inside = nonzero_mask(values)
    for c, channel in enumerate(channels):
        part = values[..., c]
        if channel.scheme == "ct":
            assert channel.mean is not None
            assert channel.std is not None
            np.clip(part, channel.low, channel.high, out=part)
            _rescale(part, channel.mean, channel.std)
        elif channel.scheme == "zscore":
            _rescale(part, *moments(part))
        elif channel.scheme == "nonzero":
            assert inside is not None
            _rescale(part, *moments(part, inside))
            part *= inside
        else:
            assert channel.scheme == "none", channel.scheme
    return values


def moments(values: np.ndarray, inside: np.ndarray | None = None) -> tuple[float, float]:
    """Returns mean and standard deviation, of float64 sums slice by slice.

    Args:
        values: [D, H, W].
        inside: bool [D, H, W], which voxels count; None: all.
    """
    count = values.size if inside is None else np.count_nonzero(inside)
    if not count:
        return 0.0, 0.0

    def planes() -> Iterator[np.ndarray]:
        for z, plane in enumerate(values):
            yield (plane if inside is None else plane[inside[z]]).astype(np.float64)

    # Measured from one voxel, a constant has a deviation of exactly 0.
    origin = next(float(plane.flat[0]) for plane in planes() if plane.size)
    offset = sum(float((plane - origin).sum()) for plane in planes()) / count
    variance = sum(float(((plane - origin - offset) ** 2).sum()) for plane in planes()) / count
    return origin + offset, variance**0.5


def _rescale(values: np.ndarray, mean: float, std: float) -> None:
    """Replaces values [D, H, W] by (values - mean) / std, computed in float64; 0 if std is 0."""
    for plane in values:
        plane[...] = (plane.astype(np.float64) - mean) / std if std > 0 else 0


def coarse_axis(spacing: Sequence[float]) -> int | None:
    """Returns the axis whose spacing is more than ANISOTROPY times the least, if it is only one."""
    longest = max(spacing)
    axes = [axis for axis, length in enumerate(spacing) if length == longest]
    return axes[0] if len(axes) == 1 and longest > ANISOTROPY * min(spacing) else None


def target_shape(
    shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]
) -> tuple[int, ...]:
    """Returns how many voxels of another spacing a volume has along each axis, at least 1."""
    return tuple(
        max(1, round(old / new * count))
        for count, old, new in zip(shape, spacing, target, strict=True)
    )


def target_spacing(spacings: np.ndarray, shapes: np.ndarray) -> tuple[float, float, float]:
    """Returns the spacing that suits all volumes of a data set: the median along each axis.

    Where that is flat, of an axis along which there are few voxels, the 10th percentile of its
    spacings is taken, but a little more than the others' median at least, so that it stays the
    coarsest. Every digit is nnU-Net's.

    Args:
        spacings: float [N, 3], in mm.
        shapes: int [N, 3], sides of the (cropped) volumes.
    """
    found, sides = np.percentile(spacings, 50, axis=0), np.percentile(shapes, 50, axis=0)
    axis = int(np.argmax(found))
    others = np.arange(3) != axis
    is_flat = found[axis] > ANISOTROPY * found[others].max()
    if is_flat and sides[axis] * ANISOTROPY < sides[others].min():
        finest, least = np.percentile(spacings[:, axis], 10), found[others].max()
        found[axis] = finest if finest >= least else least + 1e-5
    first, second, third = found.tolist()
    return first, second, third


def sides_of(box: np.ndarray) -> tuple[int, ...]:
    """Returns the sides of a box [3, 2]."""
    return tuple((box[:, 1] - box[:, 0]).tolist())


def _part(box: np.ndarray) -> tuple[slice, ...]:
    return tuple(slice(first, end) for first, end in box.tolist())
