"""Reads and writes NRRD and MetaImage with their grids, which SimpleITK knows; NIfTI by `nifti`."""

import types
from typing import Any

import numpy as np

from trainer.data import geometry
from trainer.data.formats import nifti, reading
from trainer.data.formats.volume_header import Header, check_channel_axis
from trainer.errors import InputError

SUFFIXES = (*nifti.SUFFIXES, ".nrrd", ".mha", ".mhd")


def import_simpleitk(label: str) -> types.ModuleType:
    """Returns SimpleITK, which then writes no warnings to stderr.

    Args:
        label: what needs it, for the message.

    Raises:
        InputError: it is not installed.
    """
    sitk = reading.import_medical("SimpleITK", label)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    return sitk


def read_header(path: str, label: str, num_channels: int | None) -> Header:
    """Returns what a local file says of its volume.

    Args:
        path: of the file.
        label: what messages call it.
        num_channels: that are named, which a fourth axis must be; None if none are.

    Raises:
        InputError: it is of a kind that is not read.
        DamagedError: it is not such a file.
    """
    if _is_nifti(path):
        return nifti.read_header(path, label, num_channels)
    reader = _opened(path, label)
    size, channels = reader.GetSize()[::-1], reader.GetNumberOfComponents()
    if len(size) == 4 and channels == 1:
        channels, size = size[0], size[1:]
        check_channel_axis(label, channels, num_channels)
    elif len(size) != 3:
        raise InputError(
            f"{label} has {len(size)} axes of {'×'.join(map(str, size[::-1]))}, where a volume has "
            "3; save each volume as a file of its own."
        )
    return Header(size, channels, _dtype(reader, label), _grid(reader))


def read(path: str, label: str, header: Header, dtype: np.dtype) -> np.ndarray:
    """Returns the values of a local file, [D, H, W, C].

    Args:
        path: of the file.
        label: what messages call it.
        header: what `read_header` returned.
        dtype: of the values.

    Raises:
        DamagedError: the file is damaged.
    """
    if _is_nifti(path):
        return nifti.read_voxels(path, label, dtype)
    sitk, reader = import_simpleitk(label), _opened(path, label)
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise reading.DamagedError(_reason(error)) from None
    with np.errstate(over="ignore"):  # ITK itself would clip what float32 does not hold
        values = np.array(sitk.GetArrayViewFromImage(image), dtype)
    if len(image.GetSize()) == 4:
        return np.moveaxis(values, 0, -1)
    return values.reshape(*header.shape, header.channels)


def write(path: str, values: np.ndarray, grid: geometry.Geometry, metadata_of: str = "") -> None:
    """Writes a volume, deflated, in the format of its suffix.

    Args:
        path: of a local file.
        values: [D, H, W].
        grid: where its voxels are.
        metadata_of: a local file on the same grid; if both are NIfTI, the new one has its header.
    """
    if _is_nifti(path):
        nifti.write(path, values, grid, metadata_of if _is_nifti(metadata_of) else "")
        return
    sitk = import_simpleitk(path)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(grid.spacing[::-1])
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction)
    sitk.WriteImage(image, path, useCompression=True)


def _is_nifti(path: str) -> bool:
    return path.lower().endswith(nifti.SUFFIXES)


def _opened(path: str, label: str) -> Any:
    """Returns ITK's reader, which has read the header."""
    sitk = import_simpleitk(label)
    with open(path, "rb"):  # so that the system says what is wrong with the file itself
        pass
    reader = sitk.ImageFileReader()
    reader.SetFileName(path)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        reason = _reason(error)
        if "Unable to determine" in reason:
            reason = f"it is {reading.kind_of(path)} by its content"
        raise reading.DamagedError(reason) from None
    return reader


def _reason(error: RuntimeError) -> str:
    """Returns what ITK says, without its own places and addresses."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].rpartition("ERROR: ")[2]


def _dtype(reader: Any, label: str) -> np.dtype:
    """Returns the dtype of a file, from ITK's words such as "vector of 16-bit signed integer"."""
    told = import_simpleitk(label).GetPixelIDValueAsString(reader.GetPixelID())
    bits, _, kind = told.removeprefix("vector of ").partition("-bit ")
    letter = {"signed integer": "i", "unsigned integer": "u", "float": "f"}.get(kind)
    if letter is None:
        raise InputError(f"{label} holds {told}s, which are not read; save numbers.")
    return np.dtype(f"{letter}{int(bits) // 8}")


def _grid(reader: Any) -> geometry.Geometry:
    axes = reader.GetDimension()
    matrix = np.reshape(reader.GetDirection(), (axes, axes))[:3, :3]
    try:
        return geometry.Geometry(
            reader.GetSpacing()[2::-1], reader.GetOrigin()[:3], tuple(matrix.ravel().tolist())
        )
    except ValueError as error:
        raise reading.DamagedError(str(error)) from None
