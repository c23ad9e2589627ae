"""What a file says of a volume before a voxel is decoded, and what is refused by that."""

import dataclasses
import math

import numpy as np

from trainer.data import geometry
from trainer.data.formats import reading
from trainer.errors import InputError


@dataclasses.dataclass(frozen=True)
class Header:
    """A volume as its file describes it.

    Attributes:
        shape: D, H, W.
        channels: values of a voxel.
        dtype: of the values in the file.
        grid: where its voxels are.
        has_spacing: whether the file says so; if not, they are 1 mm apart.
    """

    shape: tuple[int, ...]
    channels: int
    dtype: np.dtype
    grid: geometry.Geometry
    has_spacing: bool = True


def check(header: Header, label: str, max_voxels: int) -> None:
    """Raises an error for a volume that is too large to be decoded, or empty.

    Args:
        header: of the volume.
        label: what messages call it.
        max_voxels: the most voxels, of which each may have `reading.MOST_SAMPLES` values.

    Raises:
        InputError: it is too large.
        DamagedError: it is empty.
    """
    voxels = math.prod(header.shape)
    size = "×".join(map(str, header.shape))
    if not voxels or not header.channels:
        raise reading.DamagedError(f"it has {size} voxels")
    if voxels * header.channels > reading.MOST_SAMPLES * max_voxels or voxels > max_voxels:
        values = f" of {header.channels} values" if header.channels > 1 else ""
        raise InputError(
            f"{label} has {size} = {voxels} voxels{values}, more than --max_pixels={max_voxels} "
            f"allows (up to {reading.MOST_SAMPLES} values each); if that is right, raise "
            "--max_pixels; if not, remove it."
        )


def check_channel_axis(label: str, length: int, num_channels: int | None, step: str = "") -> None:
    """Raises InputError if a fourth axis is not as long as there are named channels.

    Args:
        label: what messages call the volume.
        length: of its fourth axis.
        num_channels: that are named; None if none are.
        step: what the header says of the axis, such as "2 s apart".
    """
    if length == num_channels:
        return
    named = "no channels are named" if num_channels is None else f"{num_channels} are named"
    raise InputError(
        f"{label} has a fourth axis of {length}{f', {step}' if step else ''}, and {named}; if they "
        "are channels, name each with --channel_names=A,B,…; if they are times, save each as a "
        "file of its own."
    )


def dtype_of_values(dtype: np.dtype) -> np.dtype:
    """Returns the type in which an image's values are kept: integers up to 32 bits, or float32."""
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    if dtype.kind in "iu" and dtype.itemsize <= 4:
        return dtype.newbyteorder("=")
    return np.dtype(np.float32)
