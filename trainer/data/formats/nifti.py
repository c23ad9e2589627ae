"""Reads and writes NIfTI, whose headers nibabel knows.

The voxels pass through here, in blocks: nibabel holds those of a `.nii.gz` twice in memory and does
not see bytes beyond them; ITK makes zeros of NaN and of what is missing where a file is cut short.
"""

import contextlib
import gzip
import logging
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from trainer.data import geometry
from trainer.data.formats import reading
from trainer.data.formats.volume_header import Header, check_channel_axis
from trainer.errors import InputError

SUFFIXES = (".nii", ".nii.gz")
MILLIMETRES = {1: 1000.0, 3: 0.001}  # of a metre and a micrometre: bits 0 to 2 of xyzt_units
SECONDS = {8: "s", 16: "ms", 24: "µs"}  # bits 3 to 5
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # from NIfTI's axes, which point to the right and the front
LEVEL = 6  # of zlib
BLOCK = 2**20  # values
SILENT = logging.Logger("nibabel", logging.CRITICAL + 1)


def read_header(path: str, label: str, num_channels: int | None) -> Header:
    """Returns what a local file says of its volume.

    Args:
        path: of the file.
        label: what messages call it.
        num_channels: that are named, which a fourth axis must be; None if none are.

    Raises:
        InputError: it has other axes, no numbers, or voxels without a size.
        DamagedError: it is no NIfTI file.
    """
    fields = _fields(path, label)
    lengths, sides = _lengths(fields), fields["pixdim"][1:4]
    beyond = [length for length in lengths[3:] if length != 1]
    if len(lengths) < 3 or len(beyond) > 1:
        raise InputError(
            f"{label} has {len(lengths)} axes of {'×'.join(map(str, lengths))}, where a volume has "
            "3; save each volume as a file of its own."
        )
    if len(lengths) > 3 and lengths[3] != 1:
        step, unit = float(fields["pixdim"][4]), SECONDS.get(int(fields["xyzt_units"]) & 0x38)
        told = f"{step:g} {unit} apart by its header" if step and unit else ""
        check_channel_axis(label, lengths[3], num_channels, told)
    if not (np.isfinite(sides) & (sides > 0)).all():  # nibabel and ITK would take 1 for 0
        raise InputError(
            f"{label} has voxels of {'×'.join(f'{side:g}' for side in sides)} by its header; write "
            "their true size into pixdim."
        )
    dtype = fields.get_data_dtype().newbyteorder("=")
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise InputError(
            f"{label} holds colours, complex numbers or the like (datatype {fields['datatype']}), "
            "which are not read; save numbers."
        )
    dtype = dtype if _scale(fields) == (1, 0) else np.dtype(np.float32)
    return Header(lengths[2::-1], beyond[0] if beyond else 1, dtype, _grid(fields, label))


def read_voxels(path: str, label: str, dtype: np.dtype) -> np.ndarray:
    """Returns the values of a local file, [D, H, W, C]; the only copy in memory.

    Args:
        path: of the file.
        label: what messages call it.
        dtype: of the values.

    Raises:
        DamagedError: the file holds more or fewer bytes than its header says.
        BadGzipFile: it unpacks to other bytes than were packed.
    """
    fields = _fields(path, label)
    lengths, stored, (slope, inter) = _lengths(fields), fields.get_data_dtype(), _scale(fields)
    values = np.empty((math.prod(lengths[3:]), *lengths[2::-1]), dtype)
    flat = values.reshape(-1)
    with _opened(path, "rb") as file, np.errstate(over="ignore"):  # infinity is refused later
        file.seek(fields.get_data_offset())
        for begin in range(0, flat.size, BLOCK):
            part = flat[begin : begin + BLOCK]
            data = file.read(part.size * stored.itemsize)
            if len(data) < part.size * stored.itemsize:
                break
            raw = np.frombuffer(data, stored)
            part[...] = raw if (slope, inter) == (1, 0) else raw * slope + inter
        held = file.tell()
        beyond = len(file.read(1))  # at the end the sum of what was unpacked is checked, too
    expected = fields.get_data_offset() + flat.size * stored.itemsize
    if held < expected or beyond:
        told = f"more than {held}" if beyond else f"{held}"
        raise reading.DamagedError(f"it holds {told} bytes, where its header says {expected}")
    return np.moveaxis(values, 0, -1)


def write(path: str, values: np.ndarray, grid: geometry.Geometry, metadata_of: str = "") -> None:
    """Writes a volume; the bytes of a `.nii.gz` depend on its content alone.

    Args:
        path: of a local file.
        values: [D, H, W].
        grid: where its voxels are.
        metadata_of: a local NIfTI file on the same grid, whose header the new one gets but for what
            it says of the values: its grid, in the same numbers, and whether that is the scanner's,
            an atlas' or the like. Extensions are left out, which are about the other's values.
    """
    nibabel = reading.import_medical("nibabel", path)
    if metadata_of:
        fields = _fields(metadata_of, metadata_of)
    else:
        is_long = max(values.shape) > np.iinfo(np.int16).max
        fields = nibabel.Nifti2Header() if is_long else nibabel.Nifti1Header()
        matrix = np.reshape(grid.direction, (3, 3)) * grid.spacing[::-1]
        affine = LPS @ nibabel.affines.from_matvec(matrix, grid.origin)
        fields.set_sform(affine, "scanner")
        fields.set_qform(affine, "scanner")
        fields.set_xyzt_units("mm")
    fields.set_data_shape(values.shape[::-1])
    fields.set_data_dtype(values.dtype)
    fields.set_slope_inter(1, 0)
    fields.set_intent("none")
    for name in ("cal_min", "cal_max", "vox_offset"):
        fields[name] = 0
    fields["aux_file"] = b""  # of colours, or of names of labels
    with _opened(path, "wb") as file:
        fields.write_to(file)
        for plane in values:
            file.write(plane.astype(fields.get_data_dtype()).tobytes())


@contextlib.contextmanager
def _opened(path: str, mode: str) -> Iterator[Any]:
    with open(path, mode) as file:
        if path.lower().endswith(".gz"):
            with gzip.GzipFile("", mode, LEVEL, file, mtime=0) as unpacked:
                yield unpacked
        else:
            yield file


def _fields(path: str, label: str) -> Any:
    """Returns the header of a local file, a `nibabel.Nifti1Header` in its byte order, as it is.

    Raises:
        DamagedError: it is no NIfTI file.
        HeaderDataError: nibabel refuses it.
    """
    nibabel = reading.import_medical("nibabel", label)
    with _opened(path, "rb") as file:
        head = file.read(nibabel.Nifti2Header.sizeof_hdr)
    for kind in (nibabel.Nifti1Header, nibabel.Nifti2Header):
        size = kind.sizeof_hdr
        fields = kind(head[:size].ljust(size), check=False)
        if len(head) < size or fields["sizeof_hdr"] != size:
            continue
        if not fields["magic"].item().startswith(b"n+"):
            raise reading.DamagedError("it has its voxels in another file")
        if not 1 <= fields["dim"][0] <= 7 or fields["dim"][1:].min() < 0:
            raise reading.DamagedError(f"its dim is {fields['dim'].tolist()}")
        if not fields["vox_offset"] < 2**40:  # or not a number
            raise reading.DamagedError(f"its vox_offset is {fields['vox_offset']}")
        fields.copy().check_fix(SILENT)
        return fields
    raise reading.DamagedError(f"it is {reading.kind_of(path)}, and not NIfTI inside")


def _lengths(fields: Any) -> tuple[int, ...]:
    """Returns the lengths of the axes, x first."""
    count, *lengths = fields["dim"].tolist()
    return tuple(lengths[:count])


def _scale(fields: Any) -> tuple[float, float]:
    """Returns what values are multiplied by and what is added."""
    slope, inter = fields.get_slope_inter()
    return (1, 0) if slope is None else (slope, inter)


def _grid(fields: Any, label: str) -> geometry.Geometry:
    """Returns the grid by the first of `_affines` whose axes are at right angles."""
    unit = MILLIMETRES.get(int(fields["xyzt_units"]) & 7, 1.0)
    for affine in _affines(fields):
        matrix, origin = (LPS @ affine)[:3, :3], (LPS @ affine)[:3, 3]
        spacing = np.linalg.norm(matrix, axis=0)
        direction = matrix / spacing
        if np.allclose(direction.T @ direction, np.eye(3), 0, geometry.TOLERANCE):
            values = [*(spacing[::-1] * unit), *(origin * unit), *direction.ravel()]
            try:
                return geometry.Geometry.from_array(np.array(values))
            except ValueError as error:
                raise reading.DamagedError(str(error)) from None
    raise InputError(
        f"{label} has axes that are not at right angles (a sheared sform), which is not read; "
        "resample it to a straight grid, or correct its header."
    )


def _affines(fields: Any) -> Iterator[np.ndarray]:
    """Yields the sform and the qform, if they are set; if none is, what ITK takes."""
    if fields["sform_code"]:
        yield fields.get_sform()
    if fields["qform_code"]:
        fields = fields.copy()
        fields["pixdim"][0] = -1 if fields["pixdim"][0] < 0 else 1  # which some writers leave 0
        yield fields.get_qform()
    elif not fields["sform_code"]:
        yield LPS @ np.diag([*fields["pixdim"][1:4], 1])
