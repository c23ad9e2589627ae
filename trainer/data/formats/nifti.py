"""The voxels of a NIfTI file, and the fields of its header but for the grid, which ITK reads.

Not by ITK, which makes zeros of NaN and of what is missing where a file is cut short, in silence.
"""

import contextlib
import gzip
import math
import os
import shutil
from collections.abc import Iterator
from typing import IO, Any, cast

import numpy as np

from trainer.data.formats import reading
from trainer.data.formats.volume_header import check_channel_axis
from trainer.errors import InputError

SUFFIXES = (".nii", ".nii.gz")
DTYPES = {
    **{2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8"},
    **{256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"},
}
SECONDS = {8: "s", 16: "ms", 24: "µs"}  # bits 3 to 5 of xyzt_units
LEVEL = 6  # of zlib
BLOCK = 2**20
NAMES = [
    *("size", "magic", "dim", "datatype", "pixdim", "vox_offset", "scl_slope", "scl_inter"),
    *("xyzt_units", "qform_code", "sform_code"),
]
# The two versions of the header, by their sizes: where each field is.
VERSIONS: dict[int, dict[str, Any]] = {
    348: {
        "names": NAMES,
        "formats": ["i4", "S4", "8i2", "i2", "8f4", "f4", "f4", "f4", "u1", "i2", "i2"],
        "offsets": [0, 344, 40, 70, 76, 108, 112, 116, 123, 252, 254],
    },
    540: {
        "names": NAMES,
        "formats": ["i4", "S4", "8i8", "i2", "8f8", "i8", "f8", "f8", "i4", "i4", "i4"],
        "offsets": [0, 4, 16, 12, 104, 168, 176, 184, 500, 344, 348],
    },
}


def read_fields(path: str) -> Any:
    """Returns the header of a local file as a structured array [1], in its byte order.

    Raises:
        DamagedError: it is no NIfTI file.
    """
    with _opened(path) as file:
        head = file.read(max(VERSIONS))
    for size, layout in VERSIONS.items():
        for dtype in _in_both_orders({**layout, "itemsize": size}):
            fields: Any = np.frombuffer(head[:size].ljust(size), dtype)
            if len(head) < size or fields["size"][0] != size:
                continue
            if not fields["magic"][0].startswith(b"n+"):
                raise reading.DamagedError("it has its voxels in another file")
            if not 1 <= fields["dim"][0, 0] <= 7 or fields["dim"][0, 1:].min() < 0:
                raise reading.DamagedError(f"its dim is {fields['dim'][0].tolist()}")
            return fields
    raise reading.DamagedError(f"it is {reading.kind_of(path)}, and not NIfTI inside")


def _in_both_orders(layout: Any) -> tuple[np.dtype, np.dtype]:
    little = np.dtype(layout)
    return little.newbyteorder("<"), little.newbyteorder(">")


def shape_of(fields: Any, label: str, num_channels: int | None) -> tuple[int, ...]:
    """Returns D, H, W, C of a header.

    Args:
        fields: the header.
        label: what messages call the file.
        num_channels: that are named, which a fourth axis must be; None if none are.

    Raises:
        InputError: it has other axes, or voxels without a size.
    """
    lengths = _lengths(fields)
    beyond = [length for length in lengths[3:] if length != 1]
    if len(lengths) < 3 or len(beyond) > 1:
        raise InputError(
            f"{label} has {len(lengths)} axes of {'×'.join(map(str, lengths))}, where a volume has "
            "3; save each volume as a file of its own."
        )
    if len(lengths) > 3 and lengths[3] != 1:
        check_channel_axis(label, lengths[3], num_channels, _step(fields))
    sides = fields["pixdim"][0, 1:4]
    if not np.isfinite(sides).all() or not sides.all():  # ITK would take 1
        raise InputError(
            f"{label} has voxels of {'×'.join(f'{side:g}' for side in sides)} by its header; write "
            "their true size into pixdim."
        )
    return (*lengths[2::-1], beyond[0] if beyond else 1)


def dtype_of(fields: Any, label: str) -> np.dtype:
    """Returns the type of the values that a header describes, float32 if they are rescaled.

    Raises:
        InputError: they are not numbers.
    """
    return np.dtype(np.float32) if _scale(fields) else _stored(fields, label)


def read_voxels(path: str, label: str, dtype: np.dtype) -> np.ndarray:
    """Returns the values of a local file, [D, H, W, C]; the only copy in memory.

    Args:
        path: of the file.
        label: what messages call it.
        dtype: of the values, if they are not rescaled to float32.

    Raises:
        DamagedError: the file holds more or fewer bytes than its header says, or others than were
            packed.
    """
    fields = read_fields(path)
    lengths, stored = _lengths(fields), _stored(fields, label)
    raw = np.empty(lengths[::-1], stored)
    begin = int(fields["vox_offset"][0])
    with _opened(path) as file:
        file.seek(begin)
        held = _fill(raw, file)
        beyond = len(file.read(1))  # at the end the sum of what was unpacked is checked, too
    if held < raw.nbytes or beyond:
        told = f"more than {begin + held}" if beyond else f"{begin + held}"
        raise reading.DamagedError(
            f"it holds {told} bytes, where its header says {begin + raw.nbytes}"
        )
    channels = next((k for k, length in enumerate(lengths) if k >= 3 and length != 1), None)
    values = np.moveaxis(
        raw.reshape(1 if channels is None else lengths[channels], *lengths[2::-1]), 0, -1
    )
    scale = _scale(fields)
    with np.errstate(over="ignore"):  # above float32's range it becomes infinite, which is refused
        if scale is None:
            return values.astype(dtype, copy=False)
        scaled = np.empty(values.shape, np.float32)
        for plane, out in zip(values, scaled, strict=True):
            out[...] = plane * scale[0] + scale[1]
    return scaled


def copy_codes(original: str, path: str) -> None:
    """Marks a `.nii` of this machine's byte order: its coordinates are what another's are.

    ITK always writes that they are the scanner's, and a viewer may refuse to lay a mask over an
    image that is marked as in an atlas' space.
    """
    theirs = read_fields(original)
    ours = np.array(read_fields(path))
    places: Any = ours.dtype.fields
    with open(path, "r+b") as file:
        for name in ("qform_code", "sform_code"):
            ours[name] = theirs[name][0] or 1  # unmarked is read as without a grid
            file.seek(places[name][1])
            file.write(ours[name].tobytes())


def pack(plain: str, path: str) -> None:
    """Replaces a `.nii` by a `.nii.gz`, whose bytes depend on the content alone."""
    with (
        open(plain, "rb") as source,
        open(path, "wb") as file,
        gzip.GzipFile("", "wb", LEVEL, file, mtime=0) as packed,
    ):
        shutil.copyfileobj(source, packed, BLOCK)
    os.remove(plain)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
    with open(path, "rb") as file:
        if path.lower().endswith(".gz"):
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield cast(IO[bytes], unpacked)
        else:
            yield file


def _lengths(fields: Any) -> list[int]:
    """Returns the lengths of the axes, x first."""
    dim = fields["dim"][0].tolist()
    return dim[1 : dim[0] + 1]


def _stored(fields: Any, label: str) -> np.dtype:
    code = int(fields["datatype"][0])
    if code not in DTYPES:
        raise InputError(
            f"{label} holds colours, complex numbers or the like (datatype {code}), which are not "
            "read; save numbers."
        )
    order = fields.dtype["dim"].base.byteorder
    return np.dtype(DTYPES[code]).newbyteorder(order)


def _scale(fields: Any) -> tuple[float, float] | None:
    """Returns what values are multiplied by and what is added, None if they are as stored."""
    slope, inter = float(fields["scl_slope"][0]), float(fields["scl_inter"][0])
    if not (math.isfinite(slope) and math.isfinite(inter)) or slope == 0:
        return None
    return None if (slope, inter) == (1, 0) else (slope, inter)


def _step(fields: Any) -> str:
    """Returns what a header says of the steps along its fourth axis, if it does."""
    step, unit = float(fields["pixdim"][0, 4]), int(fields["xyzt_units"][0]) & 0x38
    return f"{step:g} {SECONDS[unit]} apart by its header" if step and unit in SECONDS else ""


def _fill(raw: np.ndarray, file: IO[bytes]) -> int:
    """Reads into an array and returns how many bytes there were."""
    view, held = raw.reshape(-1).view(np.uint8).data, 0
    while held < raw.nbytes:
        block = file.read(min(BLOCK, raw.nbytes - held))
        if not block:
            break
        view[held : held + len(block)] = block
        held += len(block)
    return held
