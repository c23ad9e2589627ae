"""NumPy's files, `.npy` and `.npz`: their headers first, then no more than those say.

Nothing is ever unpickled.
"""

import dataclasses
import math
import os
import zipfile
from typing import IO

import numpy as np

from trainer.data.formats import reading
from trainer.errors import InputError, one_line
from trainer.storage import files


@dataclasses.dataclass(frozen=True)
class _Header:
    """The header of a `.npy` file, and how many bytes it has by that."""

    shape: tuple[int, ...]
    file_bytes: int


def find_rows(
    path: str, where: str, flag: str, scratch: str, max_pixels: int | None
) -> tuple[str, int]:
    """Returns the `.npy` file of a file's images N×H×W[×C], and N.

    Args:
        path: a local `.npy` or `.npz` file.
        where: what messages call it.
        flag: that named it; also the name of an `.npz`'s array among others.
        scratch: a folder for the unpacked array of an `.npz`.
        max_pixels: the most pixels, height × width, of an image; None if they need not be read as
            a whole.

    Raises:
        UnreadableError: the file is damaged.
        InputError: it holds something else, or larger images.
    """
    if path.lower().endswith(".npz"):
        path = _unpack(path, where, flag, scratch, max_pixels)
    else:
        with reading.translate_errors(where), open(path, "rb") as file:
            _check_kind(path)
            _check_rows(_read_header(file, where), where, flag, max_pixels)
    return path, map_array(path, where).shape[0]


def _check_rows(header: _Header, where: str, flag: str, max_pixels: int | None) -> None:
    shape = header.shape
    if len(shape) not in (3, 4) or 0 in shape:
        raise InputError(
            f"--{flag}={where} has shape {shape}; expected N×H×W or N×H×W×C, images first."
        )
    if len(shape) == 3 and shape[2] <= reading.MOST_SAMPLES < min(shape[:2]):
        raise InputError(
            f"--{flag}={where} has shape {shape}, which looks like one image H×W×C, where N×H×W is "
            "expected; name its folder, or save N×H×W×C: numpy.save(path, array[numpy.newaxis])."
        )
    if max_pixels is not None:
        _check_size(f"Each image of {where}", shape[1:], max_pixels)


def _unpack(path: str, where: str, flag: str, scratch: str, max_pixels: int | None) -> str:
    """Copies the array of an `.npz` to `scratch`, so that it can be read row by row.

    No more is copied than its header says, which is read and checked before.
    """
    unpacked = os.path.join(scratch, f"{flag}.npy")
    with reading.translate_errors(where), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        chosen = f"{flag}.npy" if f"{flag}.npy" in names else names[0] if names else ""
        if chosen != f"{flag}.npy" and len(names) != 1:
            arrays = ", ".join(one_line(name.removesuffix(".npy")) for name in names)
            raise InputError(
                f"{where} holds the arrays {arrays or '(none)'}; name the one to use {flag!r}."
            )
        with archive.open(chosen) as member:
            header = _read_header(member, where)
            _check_rows(header, where, flag, max_pixels)
        with archive.open(chosen) as member, open(unpacked, "wb") as file:
            left = header.file_bytes
            while left and (block := member.read(min(left, files.BLOCK))):
                file.write(block)
                left -= len(block)
    return unpacked


def map_array(path: str, label: str) -> np.ndarray:
    """Returns the array of a `.npy` file, read from disk where it is touched; never unpickles."""
    with reading.translate_errors(label):
        _check_kind(path)
        with open(path, "rb") as file:
            header = _read_header(file, label)
        if os.path.getsize(path) < header.file_bytes:  # else NumPy counts on, and warns of that
            raise reading.DamagedError(
                f"it has {os.path.getsize(path)} of its {header.file_bytes} bytes"
            )
        return np.lib.format.open_memmap(path, mode="r")


def _check_kind(path: str) -> None:
    """Raises DamagedError if a file is something else than its name says."""
    with open(path, "rb") as file:
        if file.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX:
            return
    raise reading.DamagedError(f"it is {reading.kind_of(path)}")


def _read_header(file: IO[bytes], label: str) -> _Header:
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(file)
    if version not in readers:
        raise reading.DamagedError(f"its format has version {version}")
    shape, _, dtype = readers[version](file)
    if min(shape, default=0) < 0:
        raise reading.DamagedError(f"its shape is {shape}")
    if dtype.hasobject:
        raise InputError(
            f"{label} holds pickled Python objects, which could run any code and are never "
            "unpickled; save numbers: numpy.save(path, numpy.stack(images))."
        )
    if dtype.kind not in "buif":
        raise InputError(f"{label} holds {dtype}; expected integers, floats or booleans.")
    return _Header(shape, file.tell() + math.prod(shape) * dtype.itemsize)


def map_image(path: str, row: int | None, label: str) -> np.ndarray:
    """Returns an image of a `.npy` file, read from disk where it is touched: [H, W] or [H, W, C].

    Args:
        path: of the file.
        row: of the array in it that is the image; None if all of it is.
        label: what messages call it.

    Raises:
        UnreadableError: the file is damaged.
        InputError: it holds no numbers, or no image.
    """
    array = map_array(path, label)
    array = array if row is None else array[row]
    if 0 in array.shape:
        raise InputError(f"{label} has shape {array.shape}; expected H×W or H×W×C.")
    if array.ndim in (3, 4) and array.shape[0] == 1 and array.shape[2] > reading.MOST_SAMPLES:
        array = array[0]  # 1×H×W[×C]
    if array.ndim not in (2, 3):
        raise InputError(f"{label} has shape {array.shape}; expected H×W or H×W×C.")
    if array.ndim == 3 and array.shape[0] <= reading.MOST_SAMPLES < min(array.shape[1:]):
        raise InputError(
            f"{label} has shape {array.shape}, which looks like C×H×W, where H×W×C is expected; "
            "save it with its channels last: numpy.moveaxis(array, 0, -1)."
        )
    return array


def read(path: str, row: int | None, label: str, max_pixels: int) -> np.ndarray:
    """Returns an image of a `.npy` file, see `map_image`.

    Raises:
        InputError: it has more than `max_pixels` pixels.
    """
    array = map_image(path, row, label)
    _check_size(label, array.shape, max_pixels)
    # The only copy: the mapping is released.
    return np.array(array, array.dtype.newbyteorder("="))


def _check_size(label: str, shape: tuple[int, ...], max_pixels: int) -> None:
    """Compares an array with the limits of pixels, and of values for each pixel."""
    reading.check_size(label, shape[0], shape[1], max_pixels, math.prod(shape[2:]))
