"""Reads volumes of any format, as they are stored, with their geometry; and writes them.

Arrays are [D, H, W, C] (z, y, x: slices, rows, columns), in the order of the file: no axis is
turned. A case may have a file for each channel; they and its mask must have one grid.
"""

from collections.abc import Sequence

import numpy as np

from trainer.data import geometry
from trainer.data.formats import dicom_series, medical, npy, reading, tiff_volume
from trainer.data.formats.discovery import Source
from trainer.data.formats.volume_header import (
    Header,
    check,
    check_channel_axis,
    dtype_of_values,
)
from trainer.errors import InputError

STACKS = (".tif", ".tiff", ".npy")  # which may hold images instead

write = medical.write


def read_header(source: Source, num_channels: int | None = None) -> Header:
    """Returns what a file says of its volume, without decoding it.

    Args:
        source: where it is, on a local disk.
        num_channels: that are named, as many as a fourth axis must have; None if none are.

    Raises:
        UnreadableError: the file is damaged.
        InputError: it is of a kind that is not read.
    """
    path, label = source.path, source.label
    with reading.translate_errors(label):
        if source.is_series:
            return dicom_series.find(path, label).header
        if path.lower().endswith(medical.SUFFIXES):
            return medical.read_header(path, label, num_channels)
        if path.lower().endswith(".npy"):
            return _header_of_array(npy.map_array(path, label), label, num_channels)
        with tiff_volume.opened(path, label) as stack:
            return stack.header


def read_volume(
    sources: Sequence[Source], max_voxels: int, num_channels: int | None = None
) -> tuple[np.ndarray, Header]:
    """Returns a volume as it is stored.

    Args:
        sources: where it is, on a local disk: one file, or one for each channel.
        max_voxels: the most voxels that are decoded.
        num_channels: that are named, as many as a volume must have; None if none are.

    Returns:
        [D, H, W, C], integers of up to 32 bits as stored, all else as float32; and the header of
        the first file.

    Raises:
        UnreadableError: a file is damaged.
        InputError: a file is too large or of a kind that is not read, voxels are not finite, or the
            grids of the channels differ.
    """
    several = len(sources) > 1
    asked = 1 if several else num_channels
    first = read_header(sources[0], asked)
    parts = []
    for source in sources:
        header = read_header(source, asked)
        check_same_grid(sources[0].label, first, source.label, header)
        if several and header.channels != 1:
            raise InputError(
                f"{source.label} has {header.channels} values a voxel, where it is one of several "
                "channels of a case; save each channel as a file, or all in one."
            )
        values = _values(source, header, dtype_of_values(header.dtype), max_voxels)
        _check_finite(values, source.label)
        parts.append(values)
    whole = parts[0]
    if several:
        dtype = dtype_of_values(np.result_type(*parts))
        whole = np.concatenate(parts, axis=-1, dtype=dtype, casting="unsafe")
    if num_channels is not None and whole.shape[-1] != num_channels:
        raise InputError(
            f"{sources[0].label} has {whole.shape[-1]} channels, and {num_channels} are named; "
            "name each of them in --channel_names, or give files that have them all."
        )
    return whole, first


def read_volume_mask(source: Source, max_voxels: int) -> tuple[np.ndarray, Header]:
    """Returns a mask as it is stored.

    Args:
        source: where it is, on a local disk.
        max_voxels: the most voxels that are decoded.

    Returns:
        Integers [D, H, W], and the header of the file.

    Raises:
        UnreadableError: the file is damaged.
        InputError: it is too large or of a kind that is not read, or has values that are not whole
            numbers.
    """
    header = read_header(source, 1)
    if header.channels != 1:
        raise InputError(
            f"{source.label} has {header.channels} values a voxel; a mask has one class value: "
            "save the classes as numbers in one channel."
        )
    values = _values(source, header, header.dtype, max_voxels, is_mask=True)
    _check_finite(values, source.label)
    return _as_integers(values[..., 0], source.label), header


def check_same_grid(label: str, header: Header, other_label: str, other: Header) -> None:
    """Raises InputError if two volumes do not lie on one grid, with what differs.

    Those whose files say nothing of it, such as arrays, are compared by their shape only.
    """
    differences = ""
    if header.shape != other.shape:
        shapes = ["×".join(map(str, one.shape)) for one in (header, other)]
        differences = f"{shapes[0]} and {shapes[1]} voxels"
    elif header.has_spacing and other.has_spacing:
        differences = header.grid.differences(other.grid)
    if differences:
        raise InputError(
            f"{label} and {other_label} are not on one grid: {differences}; resample one to the "
            "other's grid, or correct the header that is wrong."
        )


def _values(
    source: Source, header: Header, dtype: np.dtype, max_voxels: int, is_mask: bool = False
) -> np.ndarray:
    """Returns the values of a file, whose header is checked first, [D, H, W, C]."""
    path, label = source.path, source.label
    with reading.translate_errors(label):
        check(header, label, max_voxels)
        if source.is_series:
            values = dicom_series.read(dicom_series.find(path, label), label, is_mask)
        elif path.lower().endswith(medical.SUFFIXES):
            values = medical.read(path, label, header, dtype)
        elif path.lower().endswith(".npy"):
            array = npy.map_array(path, label).reshape(*header.shape, header.channels)
            values = np.array(array, dtype.newbyteorder("="))
        else:
            with tiff_volume.opened(path, label) as stack:
                values = tiff_volume.read(stack, label, is_mask)
        return values if is_mask else values.astype(dtype_of_values(values.dtype), copy=False)


def _header_of_array(array: np.ndarray, label: str, num_channels: int | None) -> Header:
    shape = array.shape
    few = reading.MOST_SAMPLES
    if len(shape) not in (3, 4):
        raise InputError(f"{label} has shape {shape}; expected D×H×W or D×H×W×C.")
    if len(shape) == 3 and shape[2] <= few < min(shape[:2]):
        raise InputError(
            f"{label} has shape {shape}, which looks like an image H×W×C, where D×H×W is expected; "
            "save a volume of one slice as 1×H×W×C."
        )
    if len(shape) == 4:
        if shape[0] <= few < min(shape[1:]):
            raise InputError(
                f"{label} has shape {shape}, which looks like C×D×H×W, where D×H×W×C is expected; "
                "save it with its channels last: numpy.moveaxis(array, 0, -1)."
            )
        if shape[3] > few:
            check_channel_axis(label, shape[3], num_channels)
    channels = shape[3] if len(shape) == 4 else 1
    return Header(shape[:3], channels, array.dtype, geometry.Geometry(), has_spacing=False)


def _check_finite(values: np.ndarray, label: str) -> None:
    if values.dtype.kind != "f":
        return
    bad = sum(plane.size - int(np.isfinite(plane).sum()) for plane in values)
    if bad:
        raise InputError(
            f"{label} has {bad} values that are not finite in {values.dtype} (NaN, infinite or "
            "too large); replace them, and mark them in the mask with --ignore."
        )


def _as_integers(values: np.ndarray, label: str) -> np.ndarray:
    """Returns a mask's values as integers, floats as int32."""
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    if values.dtype.kind != "f":
        return values
    for plane in values:
        odd = plane[(plane != np.rint(plane)) | (np.abs(plane) >= 2**31)]
        if odd.size:
            raise InputError(
                f"{label} has the value {odd[0]:g}, and a mask has whole numbers, one a class; "
                "round it, or save it as it was before it was resampled."
            )
    return values.astype(np.int32)
