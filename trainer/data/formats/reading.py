"""Errors while an image or an array is read, in one line each.

Damage is what a decoder says about bytes, and no more: disks that fail, memory that is short and
defects of this program leave a file as sound as it was.
"""

import contextlib
import ctypes
import errno
import functools
import importlib
import logging
import os
import re
import struct
import tokenize
import traceback
import types
import warnings
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from trainer.errors import InputError

# Packages that decode, and whose own errors, or Python's from within them, are about the bytes.
DECODERS = (
    *("PIL", "tifffile", "imagecodecs", "pydicom", "SimpleITK", "nibabel"),
    *("numpy", "zipfile", "gzip", "xml"),
)
DAMAGE = (EOFError, struct.error, zlib.error, tokenize.TokenError, zipfile.BadZipFile)
MOST_SAMPLES = 4  # of a pixel of a picture

# What a file is by how it begins, and what to do with a kind that is not read.
CONVERT = "a format that is not read; convert it to PNG or TIFF"
KINDS = (
    (rb"\x89PNG\r\n\x1a\n", "PNG", ""),
    (rb"\xff\xd8\xff", "JPEG", ""),
    (rb"BM.{4}\0{4}", "BMP", ""),
    (rb"II[*+]\0|MM\0[*+]", "TIFF", ""),
    (rb"GIF8[79]a", "GIF", ""),
    (rb"RIFF.{4}WEBP", "WebP", ""),
    (rb"\x93NUMPY", "a NumPy array", "name it .npy"),
    (rb".{128}DICM", "DICOM", "name it .dcm"),
    (rb".{4}ftyp(?:hei|hev|mif1|msf1)", "HEIC", CONVERT),
    (rb".{4}ftypavi", "AVIF", CONVERT),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000", CONVERT),
    (rb"\0\0\0\x0cJXL |\xff\x0a", "JPEG XL", CONVERT),
    (rb"\s*(?:<\?xml.{0,900})?(?:<!--.{0,900})?(?:<!DOCTYPE svg|<svg)", "SVG", CONVERT),
    (rb"8BPS", "Photoshop's PSD", CONVERT),
    (rb"\x76\x2f\x31\x01", "OpenEXR", CONVERT),
    (rb"P[1-7]\s", "a Netpbm picture", CONVERT),
    (rb"%PDF", "PDF", "a document; save its pages as PNG"),
    (rb"MATLAB 5.0|.{0,512}\x89HDF\r\n", "MATLAB or HDF5", "save its arrays as .npy"),
    (rb"PK\x03\x04", "a ZIP archive", "unpack it, or name one .npz by its own path"),
    (rb"\x1f\x8b", "compressed with gzip", "unpack it"),
    (rb"(?i)\s*<(?:!doctype )?html", "an HTML page", "most likely a download that failed"),
    (rb"version https://git-lfs", "a pointer of Git LFS", "fetch the file itself: git lfs pull"),
    (rb"\0{512}|\0+\Z", "zeros only", "most likely a copy that failed"),
)


# Orientation → whether rows are columns, and the axes that are turned round after that.
TURNS: dict[int, tuple[bool, tuple[int, ...]]] = {
    2: (False, (1,)),
    3: (False, (0, 1)),
    4: (False, (0,)),
    5: (True, ()),
    6: (True, (1,)),
    7: (True, (0, 1)),
    8: (True, (0,)),
}


class UnreadableError(InputError):
    """A picture that is damaged, cut short or of an unknown format; others may be fine."""


class DamagedError(ValueError):
    """Raised within `translate_errors` for what is wrong with the bytes of a file."""


@functools.cache
def quieten() -> None:
    """Keeps Pillow, its libtiff and tifffile from writing to stderr: their exceptions are enough.

    For the whole process, permanently. To turn file descriptor 2 away while a picture is decoded
    would lose what other threads say meanwhile, and all that follows if two of them do it at once.
    """
    for name in ("PIL", "tifffile"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with contextlib.suppress(AttributeError):  # a Pillow that hides its libtiff
        ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)


def import_medical(package: str, label: str) -> types.ModuleType:
    """Returns a package of the extra `medical`.

    Args:
        package: its name.
        label: what needs it, for the message.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        raise InputError(f'{label} needs {package}; pip install ".[medical]".') from None


@contextlib.contextmanager
def translate_errors(label: str) -> Iterator[None]:
    """Makes damage that is met within an UnreadableError, without the warnings on the way there.

    Raises:
        UnreadableError: a decoder says that bytes are not as they should be.
        InputError: the file cannot be read now, or does not fit into memory.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except MemoryError:
        raise InputError(
            f"{label} does not fit into memory; use fewer --workers, or a smaller --max_pixels."
        ) from None
    except Exception as error:
        if isinstance(error, OSError) and _is_of_storage(error):
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise  # of the disk that is copied to
            reason = error.strerror or type(error).__name__
            raise InputError(
                f"{label} cannot be read now: {reason}. The image itself may be fine: check the "
                "disk, the network and the limits of this machine, then start again."
            ) from None
        if not _is_damage(error):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        reason = reason if len(reason) <= 200 else reason[:197] + "…"
        raise UnreadableError(f"{label} cannot be read: {reason}.") from None


def _is_of_storage(error: OSError) -> bool:
    """Returns whether an error comes from the system: damage has no number, except a bad offset."""
    is_of_offset = error.errno == errno.EINVAL and _is_damage(error)
    return isinstance(error, TimeoutError) or (error.errno is not None and not is_of_offset)


def _is_damage(error: Exception) -> bool:
    """Returns whether an error is a decoder's about the bytes: its own kind, or raised within it.

    Python's kinds, such as TypeError, are damage if this program called a decoder that raised them.
    """
    if isinstance(error, (DamagedError, *DAMAGE)) or _package(type(error).__module__) in DECODERS:
        return True
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    packages = [_package(frame.f_globals.get("__name__", "")) for frame in frames]
    ours = max((k for k, package in enumerate(packages) if package == "trainer"), default=-1)
    return any(package in DECODERS for package in packages[ours + 1 :])


def _package(module: str) -> str:
    return module.partition(".")[0]


def kind_of(path: str) -> str:
    """Returns what a local file is by how it begins, in words that follow "it is"."""
    with open(path, "rb") as file:
        head = file.read(1024)
    if not head:
        return "empty (0 bytes)"
    for pattern, name, remedy in KINDS:
        if re.match(pattern, head, re.DOTALL):
            is_named = remedy == f"name it {os.path.splitext(path)[1].lower()}"
            return f"{name}, {remedy}" if remedy and not is_named else name
    is_text = not re.search(rb"[^\t\n\f\r\x20-\x7e\x80-\xff]", head)
    return "text" if is_text else f"of an unknown kind (it begins {head[:8].hex(' ')})"


def check_size(
    label: str, height: int, width: int, max_pixels: int, samples: int = MOST_SAMPLES
) -> None:
    """Raises InputError where a picture has more pixels, or more values, than are decoded.

    Args:
        label: what messages call it.
        height: in pixels.
        width: in pixels.
        max_pixels: the most pixels, of which each may have MOST_SAMPLES values.
        samples: values of a pixel.
    """
    if height * width > max_pixels:
        raise InputError(
            f"{label} has {height}×{width} = {height * width} pixels, more than --max_pixels="
            f"{max_pixels}; if that is right, raise --max_pixels; if not, remove it."
        )
    if height * width * samples > MOST_SAMPLES * max_pixels:
        raise InputError(
            f"{label} has {height}×{width}×{samples} = {height * width * samples} values, more "
            f"than {MOST_SAMPLES} for each pixel of --max_pixels={max_pixels}; if that is right, "
            "raise --max_pixels; if not, remove it."
        )


def upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """Returns a picture [H, W, …] as viewers show it.

    Args:
        values: as they are stored.
        orientation: EXIF's and TIFF's number for how that is; values other than 2 to 8 turn
            nothing, as in viewers.
    """
    is_across, axes = TURNS.get(orientation, (False, ()))
    return np.flip(values.swapaxes(0, 1) if is_across else values, axes)
