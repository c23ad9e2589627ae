"""Decodes pictures by Pillow, which are known by their content, and sets them upright."""

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import imagecodecs
import numpy as np
from PIL import Image

from trainer.data.formats import reading
from trainer.errors import InputError

# No other of Pillow's decoders meets foreign files.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
ORIENTATION = 274  # EXIF's and TIFF's number of the tag


@contextlib.contextmanager
def opened(path: str) -> Iterator[Any]:
    """Opens a picture without Pillow's own limit of pixels: ours is checked next, with its flag.

    Pillow is given the file and not its name: by name it maps plain TIFFs into memory, and those
    that lie on their side with rows of the wrong length.
    """
    reading.quieten()
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with open(path, "rb") as file, Image.open(file, formats=FORMATS) as picture:
            yield picture
    except Image.UnidentifiedImageError:
        kind = reading.kind_of(path)
        is_read = kind.upper() in FORMATS
        raise reading.DamagedError(
            f"it is {kind}, and damaged where it begins" if is_read else f"it is {kind}"
        ) from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def check(picture: Any, label: str, max_pixels: int) -> None:
    """Raises InputError if an open picture is too large or one of several."""
    width, height = picture.size
    reading.check_size(label, height, width, max_pixels)
    frames = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)
    if frames > 1:  # a camera's MPO has previews besides its picture
        raise InputError(f"{label} is a {picture.format} of {frames} frames; save each as a file.")


def shown(picture: Any, path: str, label: str) -> tuple[np.ndarray, bool]:
    """Returns what an open picture shows.

    Args:
        picture: of Pillow.
        path: of its file.
        label: what messages call it.

    Returns:
        uint8 or uint16 [H, W] or [H, W, C], upright; whether the last channel is alpha.

    Raises:
        InputError: it is of a mode that is not read.
    """
    plain = picture
    if picture.mode in ("P", "PA"):
        plain = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    elif picture.mode in ("CMYK", "YCbCr"):
        plain = picture.convert("RGB")
    values = _values(plain, path, label)
    if values.dtype == bool:
        values = values * np.uint8(255)
    alpha = values.ndim == 3 and values.shape[2] in (2, 4)
    if plain is picture and not alpha and "transparency" in picture.info:
        transparent = np.array(picture.info["transparency"]) * _scale(bits_of(picture, path))
        values, alpha = _with_alpha(values, transparent), True
    return reading.upright(values, _orientation(picture)), alpha


def stored(picture: Any, path: str, label: str) -> np.ndarray:
    """Returns what is stored in an open picture, as `shown` except for indices and few bits."""
    values = _values(picture, path, label, ("P",))
    if picture.mode == "L":
        values = values // _scale(bits_of(picture, path))
    return reading.upright(values, _orientation(picture))


def palette_of(picture: Any) -> np.ndarray | None:
    """Returns the colours of indices, uint8 [N, 3], or None."""
    if picture.mode != "P":
        return None
    return np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)


def is_lossy(picture: Any, path: str) -> bool:
    """Returns whether the compression of an open picture changes values."""
    return picture.format in ("JPEG", "MPO") or _is_lossy_webp(picture, path)


def _values(picture: Any, path: str, label: str, others: tuple[str, ...] = ()) -> np.ndarray:
    """Returns the decoded values, in native byte order; of `others` than grey and RGB as stored."""
    mode = picture.mode
    if mode not in ("1", "L", "LA", "RGB", "RGBA", *others) and not mode.startswith("I"):
        raise InputError(f"{label} has mode {mode}, which is not read; convert it to RGB or grey.")
    if mode[0] != "I" and bits_of(picture, path) == 16:
        picture.load()  # the orientation may follow the pixels
        with open(path, "rb") as file:
            return imagecodecs.png_decode(file.read())  # of which Pillow would keep 8 bits
    values = np.asarray(picture)
    if mode == "I":
        values = values.astype(np.uint16)  # PNG has no more bits; older Pillows say "I"
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def bits_of(picture: Any, path: str) -> int:
    """Returns the bits of a sample in the file."""
    if picture.format == "PNG":
        with open(path, "rb") as file:
            return file.read(25)[24]  # the header's bit depth
    return 1 if picture.mode == "1" else 8


def _scale(bits: int) -> int:
    """Returns by what Pillow multiplies grey of fewer than 8 bits, so that white is 255."""
    return 255 // (2**bits - 1) if bits < 8 else 1


def _with_alpha(values: np.ndarray, transparent: np.ndarray) -> np.ndarray:
    """Returns a picture with an alpha channel that is 0 where it has one value or colour."""
    colours = values if values.ndim == 3 else values[..., np.newaxis]
    found = (colours == transparent).all(axis=2, keepdims=True)
    alpha = np.where(found, 0, np.iinfo(values.dtype).max).astype(values.dtype)
    return np.concatenate([colours, alpha], axis=2)


def _orientation(picture: Any) -> int:
    """Returns EXIF's number for the orientation of a loaded image, 1 if it is unknown.

    Damaged parts and other metadata (XMP) are ignored, as in viewers.
    """
    data = picture.info.get("exif") or b""
    data = data[6:] if data.startswith(b"Exif\0\0") else data
    order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"

    def number(place: int, length: int) -> int:
        return int.from_bytes(data[place : place + length], order)

    first = number(4, 4)
    for entry in range(first + 2, first + 2 + 12 * number(first, 2), 12):
        if number(entry, 2) == ORIENTATION:
            return number(entry + 8, 2)
    return 1


def _is_lossy_webp(picture: Any, path: str) -> bool:
    if picture.format != "WEBP":
        return False
    with open(path, "rb") as file:
        data = file.read()
    place = 12
    while place < len(data) and data[place : place + 4] != b"VP8 ":
        length = int.from_bytes(data[place + 4 : place + 8], "little")
        place += 8 + length + length % 2
    return place < len(data)
