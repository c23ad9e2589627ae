"""Reads and writes NIfTI, NRRD and MetaImage with their grids, which SimpleITK knows."""

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
    try:
        import SimpleITK
    except ImportError:
        raise InputError(f'{label} needs SimpleITK; pip install ".[medical]".') from None
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    return SimpleITK


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
        fields = nifti.read_fields(path)
        *shape, channels = nifti.shape_of(fields, label, num_channels)
        dtype = nifti.dtype_of(fields, label)
        return Header(tuple(shape), channels, dtype, _grid(_opened(path, label)))
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
        metadata_of: a local file; if both are NIfTI, the new one says as it does whether its
            coordinates are the scanner's, an atlas' or the like.
    """
    sitk = import_simpleitk(path)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(grid.spacing[::-1])
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction)
    if not _is_nifti(path):
        sitk.WriteImage(image, path, useCompression=True)
        return
    plain = f"{path}.plain.nii" if path.lower().endswith(".gz") else path
    sitk.WriteImage(image, plain)
    if _is_nifti(metadata_of):
        nifti.copy_codes(metadata_of, plain)
    if plain != path:
        nifti.pack(plain, path)


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
        if "orthonormal" in reason:
            raise InputError(
                f"{label} has axes that are not at right angles (a sheared sform), which is not "
                "read; resample it to a straight grid, or correct its header."
            ) from None
        if "Unable to determine" in reason:
            is_nifti = _is_nifti(path)  # whose fields have been read by then
            reason = (
                "it is damaged" if is_nifti else f"it is {reading.kind_of(path)} by its content"
            )
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
