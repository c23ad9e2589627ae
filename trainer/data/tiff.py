"""Reads what Pillow does not of TIFF: 16-bit colours and alpha, planes, and any rows of a page.

Of 16-bit RGB Pillow keeps 8 bits; 16-bit grey with alpha it refuses, and some samples that are
stored plane by plane it refuses or mixes up; 16-bit grey whose 0 is white it does not turn. Here
they keep all their bits, and are understood as Pillow understands others.
"""

import contextlib
import ctypes
import functools
import logging
import struct
from collections.abc import Iterator
from typing import IO

import numpy as np
import tifffile
from PIL import Image

from trainer.errors import InputError

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the latter two have offsets of 8 bytes
DAMAGE = (RuntimeError, tifffile.TiffFileError)  # of imagecodecs; older tifffiles' own
COLOURS = {
    tifffile.PHOTOMETRIC.MINISWHITE: 1,
    tifffile.PHOTOMETRIC.MINISBLACK: 1,
    tifffile.PHOTOMETRIC.RGB: 3,
}
# Orientation → whether rows are columns, and the axes that are turned round after that.
TURNS = {
    2: (False, (1,)),
    3: (False, (0, 1)),
    4: (False, (0,)),
    5: (True, ()),
    6: (True, (1,)),
    7: (True, (0, 1)),
    8: (True, (0,)),
}


@functools.cache
def quieten() -> None:
    """Keeps Pillow, its libtiff and tifffile from writing to stderr: what they raise says it.

    For the whole process and for good. To turn file descriptor 2 away while a picture is decoded
    would lose what other threads say meanwhile, and all that follows if two of them do it at once.
    """
    for name in ("PIL", "tifffile"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with contextlib.suppress(AttributeError):  # a Pillow that hides its libtiff
        ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)


def is_tiff(path: str) -> bool:
    """Says whether the content of a local file is a TIFF, whatever its name."""
    with open(path, "rb") as file:
        return file.read(4) in MAGIC


def count_pages(file: IO[bytes]) -> int:
    """Returns the number of pages, which are linked one to the next.

    Raises:
        ValueError, EOFError, OSError, OverflowError: it is no TIFF, or a link leads out of it.
    """
    magic = file.read(4)
    if magic not in MAGIC:
        raise ValueError("it is not a TIFF file")
    order = "<" if magic.startswith(b"II") else ">"
    is_big = b"+" in magic
    count, entry_bytes, link = ("Q", 20, "Q") if is_big else ("H", 12, "I")
    if is_big:
        file.read(4)

    def number(letter: str) -> int:
        data = file.read(struct.calcsize(order + letter))
        if len(data) < struct.calcsize(order + letter):
            raise EOFError("the file ends before its last page")
        return struct.unpack(order + letter, data)[0]

    seen: set[int] = set()
    place = number(link)
    while place and place not in seen:
        seen.add(place)
        file.seek(place)
        entries = number(count)
        file.seek(place + struct.calcsize(order + count) + entries * entry_bytes)
        place = number(link)
    if not seen:
        raise ValueError("it has no pages")
    return len(seen)


@contextlib.contextmanager
def open_page(path: str, index: int) -> Iterator[tifffile.TiffPage]:
    """Opens a page of a local TIFF."""
    quieten()
    with tifffile.TiffFile(path) as file:
        yield file.pages[index]


def is_beyond_pillow(page: tifffile.TiffPage) -> bool:
    """Says whether Pillow would cut, mix up or refuse the samples of a page."""
    if page.samplesperpixel == 1:
        is_turned = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE
        return page.dtype == np.int8 or (is_turned and page.dtype == np.uint16)
    is_grey = page.photometric == tifffile.PHOTOMETRIC.MINISBLACK
    is_plain = page.photometric in COLOURS and page.compression == tifffile.COMPRESSION.NONE
    return page.bitspersample != 8 or (_is_planar(page) and (is_grey or is_plain))


def check(page: tifffile.TiffPage, label: str) -> None:
    """Raises InputError unless `read` can read a page, ValueError if it is empty or damaged."""
    extra = page.samplesperpixel - COLOURS.get(page.photometric, 0)
    is_whole = (page.dtype, page.bitspersample) in ((np.uint8, 8), (np.uint16, 16))
    if not is_whole or extra not in (0, 1):
        kind = tifffile.PHOTOMETRIC(page.photometric).name
        raise InputError(
            f"{label} is a TIFF of {page.samplesperpixel} samples of {page.bitspersample} bits a "
            f"pixel ({kind}, {page.dtype or 'a type of its own'}), which is not read; save it as "
            "grey or RGB of 8 or 16 bits, with or without alpha, or as a .npy array."
        )
    if 0 in page.shape:
        raise ValueError("it has no pixels")
    if page.imagedepth != 1:
        raise InputError(f"{label} is a TIFF of {page.imagedepth} planes; save each as a page.")
    if not can_decode(page):
        codec = tifffile.COMPRESSION(page.compression).name
        raise InputError(
            f"{label} has {page.samplesperpixel} samples of {page.bitspersample} bits in {codec} "
            "compression, which cannot be decoded here; save it with deflate compression or none, "
            "or install imagecodecs, which decodes more."
        )


def read(page: tifffile.TiffPage) -> tuple[np.ndarray, bool]:
    """Returns a page that is checked, and whether its last channel is alpha.

    As Pillow does: colours that are multiplied by alpha are divided by it, and a sample beyond the
    colours that is not said to be alpha is dropped.

    Returns:
        uint8 or uint16 [H, W, C].
    """
    values = _upright(read_rows(page, 0, page.imagelength), page)
    colours = COLOURS[page.photometric]
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
        values[..., :1] = np.iinfo(values.dtype).max - values[..., :1]
    if page.samplesperpixel == colours:
        return values, False
    extra = page.extrasamples[0] if page.extrasamples else tifffile.EXTRASAMPLE.UNASSALPHA
    if extra == tifffile.EXTRASAMPLE.UNSPECIFIED:
        return values[..., :colours], False
    if extra == tifffile.EXTRASAMPLE.ASSOCALPHA:
        full = int(np.iinfo(values.dtype).max)
        wide = values.astype(np.uint32)  # whose products with 16 bits fit; NumPy 1 widens none
        multiplied, alpha = wide[..., :colours], wide[..., colours:]
        divided = np.minimum(multiplied * full // np.maximum(alpha, 1), full)
        values[..., :colours] = np.where(alpha, divided, 0)
    return values, True


def _upright(values: np.ndarray, page: tifffile.TiffPage) -> np.ndarray:
    orientation = page.tags.get("Orientation")
    is_across, axes = TURNS.get(orientation.value if orientation else 1, (False, ()))
    return np.flip(values.swapaxes(0, 1) if is_across else values, axes)


def _is_planar(page: tifffile.TiffPage) -> bool:
    return page.planarconfig == tifffile.PLANARCONFIG.SEPARATE


def can_decode(page: tifffile.TiffPage) -> bool:
    """Says whether tifffile has the codec; those but for deflate are in imagecodecs."""
    try:
        page.decode(None, 0)
    except (ValueError, NotImplementedError):
        return False
    return True


def read_rows(page: tifffile.TiffPage, top: int, bottom: int) -> np.ndarray:
    """Decodes the strips or tiles that hold some rows: [bottom - top, W, C]."""
    rows = np.zeros((bottom - top, page.imagewidth, page.samplesperpixel), page.dtype)
    length = page.tilelength if page.is_tiled else page.rowsperstrip
    across = -(-page.imagewidth // page.tilewidth) if page.is_tiled else 1
    in_plane = -(-page.imagelength // length) * across
    planes = page.samplesperpixel if _is_planar(page) else 1
    if len(page.dataoffsets) < planes * in_plane:
        raise EOFError(f"it has {len(page.dataoffsets)} of its {planes * in_plane} parts")
    tables = page.jpegtables
    file = page.parent.filehandle
    first, last = top // length * across, (bottom - 1) // length * across + across
    for plane in range(planes):
        samples = slice(plane, plane + 1) if planes > 1 else slice(None)
        for index in range(plane * in_plane + first, plane * in_plane + last):
            file.seek(page.dataoffsets[index])
            data = file.read(page.databytecounts[index])
            if len(data) < page.databytecounts[index]:
                raise EOFError("the file ends early")
            segment, (_, _, y, x, _), (_, height, width, _) = page.decode(
                data or None, index, jpegtables=tables
            )
            if segment is None:
                continue  # a part without data is 0
            begin, end = max(top, y), min(bottom, y + height)
            width = min(width, page.imagewidth - x)  # tiles may go beyond
            part = segment[0, begin - y : end - y, :width]
            if part.shape[:2] != (end - begin, width):
                raise EOFError("a part of it has too few rows")
            rows[begin - top : end - top, x : x + width, samples] = part
    return rows
