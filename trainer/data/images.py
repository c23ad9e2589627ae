"""Reads pictures and arrays as they are: no scaling, no loss, no more memory than one image takes.

They come as uint8, uint16 or float32: 1-bit pictures as 0 and 255, palettes as the colours they
stand for, integers of other widths as float32. Masks come as integers: 1-bit and boolean ones as 0
and 1, palettes as their indices, RGB with equal channels as one of them.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from trainer import flags
from trainer.data import arrays, dicom, reading, sources, tiff
from trainer.errors import InputError

FORMATS = ("PNG", "JPEG", "BMP", "TIFF")  # no other of Pillow's decoders meets foreign files
EXACT_IN_FLOAT32 = 2**24


@dataclasses.dataclass(frozen=True)
class Pixels:
    """An image as it was read.

    Attributes:
        values: uint8, uint16 or float32 [H, W, C].
        alpha: whether the last channel is transparency.
    """

    values: np.ndarray
    alpha: bool

    @property
    def colours(self) -> np.ndarray:
        """The channels but for alpha."""
        return self.values[..., :-1] if self.alpha else self.values

    @property
    def is_opaque(self) -> bool:
        """Whether alpha, if there is one, is full everywhere."""
        return not self.alpha or bool((self.values[..., -1] == _full(self.values.dtype)).all())

    @property
    def is_grey(self) -> bool:
        """Whether one channel says it all: a single one, or three equal ones."""
        colours = self.colours
        if colours.shape[2] == 3:
            return all(np.array_equal(colours[..., 0], colours[..., k]) for k in (1, 2))
        return colours.shape[2] == 1


def read_image(source: sources.Source, max_pixels: int) -> Pixels:
    """Returns an image as it is stored.

    Args:
        source: where it is.
        max_pixels: the most pixels, height × width, that are decoded.

    Raises:
        UnreadableError: if the file is damaged.
        InputError: if it is too large, or of a kind that is not read.
    """
    if sources.is_array(source.path):
        values, alpha = arrays.read(source.path, source.row, source.label, max_pixels), False
        if values.dtype == bool:
            values = values * np.uint8(255)
    elif sources.is_dicom(source.path):
        values, alpha = _dicom(source, max_pixels, dicom.check_image), False
    else:
        values, alpha = _decode(source, max_pixels, _picture_values)
    values = as_stored(values, source.label)
    return Pixels(values if values.ndim == 3 else values[..., None], alpha)


@dataclasses.dataclass(frozen=True)
class Mask:
    """A mask as it was read, with all that says what its values stand for.

    Attributes:
        values: integers, booleans or floats [H, W] as they are stored, be they the indices of a
            palette; of a picture in RGB, be it grey, its colours [H, W, 3].
        bits: of each sample in the file: of a picture 1, 2, 4, 8 …; of an array its dtype's.
        palette: uint8 [N, 3], the colours that indices stand for; None if values are no indices.
        white_is_zero: whether 0 is shown white, as a TIFF can say; values are not turned for it.
        lossy: whether the file's compression changes values, as JPEG's does.
    """

    values: np.ndarray
    bits: int
    palette: np.ndarray | None = None
    white_is_zero: bool = False
    lossy: bool = False


def read_mask(source: sources.Source, max_pixels: int) -> Mask:
    """Returns a mask as it is stored; `class_values` makes class values of it.

    Args:
        source: where it is.
        max_pixels: the most pixels, height × width, that are decoded.

    Raises:
        UnreadableError: if the file is damaged.
        InputError: if it is too large, of a kind that is not read, or is in part transparent.
    """
    if sources.is_array(source.path):
        mask = _whole_bytes(arrays.read(source.path, source.row, source.label, max_pixels))
        alpha = False
    elif sources.is_dicom(source.path):
        mask, alpha = _whole_bytes(_dicom(source, max_pixels, dicom.check_mask)), False
    else:
        found, alpha = _decode(source, max_pixels, _picture_mask)
        mask = found if isinstance(found, Mask) else _whole_bytes(found)
    if mask.values.ndim == 3:
        pixels = Pixels(mask.values, alpha)
        if not pixels.is_opaque:
            raise InputError(
                f"{source.label} is in part transparent; a mask has one class value a pixel: save "
                "it without an alpha channel."
            )
        colours = pixels.colours
        values = colours[..., 0] if colours.shape[2] == 1 else colours
        mask = dataclasses.replace(mask, values=values)
    return mask


def _whole_bytes(values: np.ndarray) -> Mask:
    return Mask(values, 8 * values.dtype.itemsize)


def class_values(mask: Mask, label: str) -> np.ndarray:
    """Returns the class values of a mask that has one a pixel, integers [H, W].

    Args:
        mask: as it was read.
        label: the mask's name, for messages.

    Raises:
        InputError: if the mask is in colour or its values are not exact or no whole numbers.
    """
    values = mask.values
    if mask.lossy:
        raise InputError(
            f"{label} is a JPEG, whose compression changes class values; save masks as PNG, or "
            "have two classes told apart by --threshold=128."
        )
    if values.ndim == 3:
        if not Pixels(values, False).is_grey:
            raise InputError(
                f"{label} is in colour; a mask has one class value a pixel: save it as a grey or "
                "palette PNG."
            )
        values = values[..., 0]
    if values.dtype == bool:
        return values.astype(np.uint8)
    return _whole_numbers(values, label) if values.dtype.kind == "f" else values


def convert(pixels: Pixels, channels: int, dtype: str, label: str) -> np.ndarray:
    """Returns an image with the channels and dtype of a data set.

    Grey is repeated for 3 channels; colours become luminance (ITU-R 601) for 1; alpha is dropped
    unless `channels` is one more than the colours, and is full where there is none. 8-bit values
    are scaled by 257 for 16 bits, which maps full to full.

    Args:
        pixels: the image.
        channels: wanted.
        dtype: wanted: "uint8", "uint16" or "float32".
        label: the image's name, for messages.

    Returns:
        `dtype` [H, W, channels].

    Raises:
        InputError: if no rule leads there.
    """
    values = _with_channels(pixels, channels, label)
    if values.dtype == dtype:
        return values
    if values.dtype == np.uint8 and dtype == "uint16":
        return values.astype(np.uint16) * np.uint16(257)
    raise InputError(
        f"{label} has {values.dtype} pixels and the data are {dtype}; no rule makes them "
        "comparable: convert the image."
    )


def check_convertible(colours: int, channels: int, label: str) -> None:
    """Raises InputError if `convert` has no rule from so many colours to so many channels."""
    if channels != colours and not (colours in (1, 3) and channels in (1, 2, 3, 4)):
        raise InputError(
            f"{label} has {colours} channels, which cannot become {channels}; give images of one "
            "kind, or another --channels."
        )


def _with_channels(pixels: Pixels, channels: int, label: str) -> np.ndarray:
    colours = pixels.colours
    count = colours.shape[2]
    check_convertible(count, channels, label)
    if channels == count:
        return colours
    if channels == 3:
        return np.repeat(colours, 3, axis=2)
    if channels == 1:
        return colours[..., :1] if pixels.is_grey else _luminance(colours)
    opaque = np.full((*colours.shape[:2], 1), _full(colours.dtype), colours.dtype)
    alpha = pixels.values[..., -1:] if pixels.alpha else opaque
    return np.concatenate([_with_channels(pixels, channels - 1, label), alpha], axis=2)


def _luminance(colours: np.ndarray) -> np.ndarray:
    """Returns [H, W, 1]: 0.299 R + 0.587 G + 0.114 B, rounded as Pillow rounds it."""
    if colours.dtype == np.float32:
        return colours @ np.array([[0.299], [0.587], [0.114]], np.float32)
    red, green, blue = (colours[..., k : k + 1].astype(np.uint64) for k in range(3))
    grey = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
    return grey.astype(colours.dtype)


def _full(dtype: np.dtype) -> int:
    return 1 if dtype.kind == "f" else int(np.iinfo(dtype).max)


def _dicom(
    source: sources.Source, max_pixels: int, check: Callable[[dicom.Header, str], None]
) -> np.ndarray:
    with reading.explained(source.label), open(source.path, "rb") as file:
        data = file.read()
        header = dicom.read_header(data, source.label)
        check(header, source.label)
        reading.check_size(source.label, header.rows, header.columns, max_pixels)
        return dicom.decode(data, header, source.label)


def _decode(source: sources.Source, max_pixels: int, values_of: Any) -> tuple[Any, bool]:
    """Opens a picture, checks its header and returns `values_of` it and whether it has alpha."""
    with reading.explained(source.label):
        found = _tiff(source, max_pixels)
        if found is not None:
            return found
        with _open(source.path) as picture:
            if source.row is not None:
                picture.seek(source.row)
            width, height = picture.size
            reading.check_size(source.label, height, width, max_pixels)
            if picture.mode[0] != "I" and picture.format == "PNG" and _png_bits(source.path) == 16:
                return _sixteen_bit_png(source)
            return values_of(picture, source)


def _tiff(source: sources.Source, max_pixels: int) -> tuple[np.ndarray, bool] | None:
    """Returns the values of a TIFF that Pillow would not read right, None of any other file."""
    if not tiff.is_tiff(source.path):
        return None
    if source.row is None:
        with open(source.path, "rb") as file:
            count = tiff.count_pages(file)
        if count > 1:
            raise InputError(
                f"{source.label} is a TIFF of {count} pages; give it a name that ends in .tif, and "
                "each page is an image."
            )
    with tiff.open_page(source.path, source.row or 0) as page:
        if not tiff.is_beyond_pillow(page):
            return None
        tiff.check(page, source.label)
        reading.check_size(source.label, page.imagelength, page.imagewidth, max_pixels)
        if page.is_tiled:  # tiles of a small image may be large
            reading.check_size(
                f"A tile of {source.label}", page.tilelength, page.tilewidth, max_pixels
            )
        return tiff.read(page)


@contextlib.contextmanager
def _open(path: str) -> Iterator[Any]:
    """Opens a picture without Pillow's own limit of pixels: ours is checked next, with its flag.

    Pillow is given the file and not its name: by name it maps plain TIFFs into memory, and those
    that lie on their side with rows of the wrong length.
    """
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with open(path, "rb") as file, Image.open(file, formats=FORMATS) as picture:
            yield picture
    except Image.UnidentifiedImageError:
        if tiff.is_tiff(path):
            raise ValueError("it is damaged, or a TIFF of a kind that is not read") from None
        raise ValueError(f"it is not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file") from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _picture_values(picture: Any, source: sources.Source) -> tuple[np.ndarray, bool]:
    if picture.mode in ("P", "PA"):
        transparent = picture.mode == "PA" or picture.has_transparency_data
        picture = picture.convert("RGBA" if transparent else "RGB")
    elif picture.mode in ("CMYK", "YCbCr"):
        picture = picture.convert("RGB")
    elif picture.mode == "La":  # multiplied by alpha
        picture = picture.convert("LA")
    elif picture.mode == "1":
        picture = picture.convert("L")
    _check_mode(picture.mode, ("L", "LA", "RGB", "RGBA"), source.label)
    return _values(picture), picture.mode in ("LA", "RGBA")


def _picture_mask(picture: Any, source: sources.Source) -> tuple[Mask, bool]:
    _check_mode(picture.mode, ("1", "P", "L", "LA", "RGB", "RGBA"), source.label)
    values = _values(picture)
    bits = 1 if picture.mode == "1" else 8 * values.dtype.itemsize
    palette = None
    if picture.mode == "P":
        palette = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
    lossy = picture.format == "JPEG"
    return Mask(values, bits, palette, lossy=lossy), picture.mode in ("LA", "RGBA")


def _check_mode(mode: str, modes: tuple[str, ...], label: str) -> None:
    if mode not in (*modes, "F") and not mode.startswith("I"):
        raise InputError(f"{label} has mode {mode}, which is not read; convert it to RGB or grey.")


def _values(picture: Any) -> np.ndarray:
    """Returns the decoded values in native byte order."""
    values = np.asarray(picture)
    if picture.mode == "I" and picture.format == "PNG":
        values = values.astype(np.uint16)  # PNG has no more bits; older Pillows say "I"
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _png_bits(path: str) -> int:
    with open(path, "rb") as file:
        return file.read(25)[24]  # the header's bit depth


def _sixteen_bit_png(source: sources.Source) -> tuple[np.ndarray, bool]:
    """Decodes colours and alpha that Pillow would silently cut to 8 bits."""
    with flags.importing():
        import tensorflow as tf  # rare, and takes seconds; see the docstring of `records`

    with open(source.path, "rb") as file:
        data = file.read()
    try:
        values = tf.io.decode_png(data, dtype=tf.uint16).numpy()
    except tf.errors.InvalidArgumentError:
        raise reading.UnreadableError(
            f"{source.label} cannot be read: its PNG data are damaged."
        ) from None
    return values, values.shape[2] in (2, 4)


def as_stored(values: np.ndarray, label: str) -> np.ndarray:
    """Returns uint8 and uint16 as they are, all else as float32."""
    if values.dtype in (np.uint8, np.uint16):
        return values
    if values.dtype.kind in "iu" and values.size:
        largest = max(abs(int(values.min())), abs(int(values.max())))
        if largest > EXACT_IN_FLOAT32:
            raise InputError(
                f"{label} has the value {largest}, beyond {EXACT_IN_FLOAT32}, the last up to "
                "which float32 holds every integer; scale the image."
            )
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, which is refused
        stored = values.astype(np.float32)
    if not np.isfinite(stored).all():
        raise InputError(
            f"{label} has pixels that are not finite in float32 (NaN, infinite or too large); "
            "replace them, and mark them in the mask with --ignore."
        )
    return stored


def _whole_numbers(values: np.ndarray, label: str) -> np.ndarray:
    whole = np.rint(values)
    if not np.array_equal(whole, values) or np.abs(whole).max(initial=0) > EXACT_IN_FLOAT32:
        raise InputError(
            f"{label} has values that are not whole numbers; a mask has class values: save those, "
            "or have two classes told apart by --threshold=0.5 or the like."
        )
    return whole.astype(np.int32)
