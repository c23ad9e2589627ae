"""Reads images and arrays as they are: no scaling, no loss, the memory of one image at most.

They come upright, as uint8, uint16 or float32: 1-bit pictures as 0 and 255, palettes as the colours
they stand for, integers of other widths as float32. Masks come with what is stored: 1-bit ones as 0
and 1, palettes as their indices; where 0 is white, it stays 0.
"""

import contextlib
import dataclasses
from typing import Any

import numpy as np

from trainer.data.formats import dicom, discovery, npy, pictures, reading, tiff
from trainer.errors import InputError

EXACT_IN_FLOAT32 = 2**24


@dataclasses.dataclass(frozen=True)
class Pixels:
    """An image as it was read.

    Attributes:
        values: uint8, uint16 or float32 [H, W, C].
        alpha: whether the last channel is transparency.
        extra: how many of the last channels are neither colours nor alpha, such as infrared.
    """

    values: np.ndarray
    alpha: bool
    extra: int = 0

    @property
    def colours(self) -> np.ndarray:
        """The channels without alpha."""
        return self.values[..., :-1] if self.alpha else self.values

    @property
    def is_opaque(self) -> bool:
        """Whether alpha, if there is one, is full everywhere."""
        return not self.alpha or bool((self.values[..., -1] == _full(self.values.dtype)).all())

    @property
    def is_grey(self) -> bool:
        """Whether one channel is enough: a single one, or three equal ones."""
        colours = self.colours
        if colours.shape[2] == 3 and not self.extra:
            return all(np.array_equal(colours[..., 0], colours[..., k]) for k in (1, 2))
        return colours.shape[2] == 1


def read_image(source: discovery.Source, max_pixels: int) -> Pixels:
    """Returns an image as it is stored, upright.

    Args:
        source: where it is.
        max_pixels: the most pixels, height × width, that are decoded.

    Raises:
        UnreadableError: if the file is damaged.
        InputError: if it is too large, or of a kind that is not read.
    """
    alpha, extra = False, 0
    if discovery.is_array(source.path):
        values = npy.read(source.path, source.row, source.label, max_pixels)
    elif discovery.is_dicom(source.path):
        values = dicom.read_image(source.path, source.label, max_pixels)
    else:
        with reading.translate_errors(source.label):
            if tiff.is_tiff(source.path):
                values, alpha, extra = _tiff_image(source, max_pixels)
            else:
                with pictures.opened(source.path) as picture:
                    pictures.check(picture, source.label, max_pixels)
                    values, alpha = pictures.shown(picture, source.path, source.label)
    return pixels_of(values, source.label, alpha, extra)


def pixels_of(values: np.ndarray, label: str, alpha: bool = False, extra: int = 0) -> Pixels:
    """Returns an image of decoded values [H, W] or [H, W, C], booleans as 0 and 255."""
    if values.dtype == bool:
        values = values * np.uint8(255)
    values = as_stored(values, label)
    return Pixels(values if values.ndim == 3 else values[..., np.newaxis], alpha, extra)


@dataclasses.dataclass(frozen=True)
class Mask:
    """A mask as it was read, with everything that defines the meaning of its values.

    Attributes:
        values: integers, booleans or floats [H, W] as they are stored, be they the indices of a
            palette; of several channels, RGB which may be grey, [H, W, C].
        bits: of each sample in the file: of a picture 1, 2, 4, 8 …; of an array its dtype's.
        palette: uint8 [N, 3], the colours of indices; None if values are not indices.
        white_is_zero: whether 0 is shown white, as a TIFF can say; values are not turned for it.
        lossy: whether the file's compression changes values, as JPEG's does.
    """

    values: np.ndarray
    bits: int
    palette: np.ndarray | None = None
    white_is_zero: bool = False
    lossy: bool = False


def read_mask(source: discovery.Source, max_pixels: int) -> Mask:
    """Returns a mask as it is stored, upright.

    Args:
        source: where it is.
        max_pixels: the most pixels, height × width, that are decoded.

    Raises:
        UnreadableError: if the file is damaged.
        InputError: if it is too large, of a kind that is not read, or is in part transparent.
    """
    alpha = False
    if discovery.is_array(source.path):
        mask = _array_mask(npy.read(source.path, source.row, source.label, max_pixels))
    elif discovery.is_dicom(source.path):
        mask = _array_mask(dicom.read_mask(source.path, source.label, max_pixels))
    else:
        with reading.translate_errors(source.label):
            if tiff.is_tiff(source.path):
                mask, alpha = _tiff_mask(source, max_pixels)
            else:
                with pictures.opened(source.path) as picture:
                    pictures.check(picture, source.label, max_pixels)
                    mask, alpha = _picture_mask(picture, source)
    if mask.values.ndim == 2:
        return mask
    pixels = Pixels(mask.values, alpha)
    if not pixels.is_opaque:
        raise InputError(
            f"{source.label} is in part transparent; a mask has one class value a pixel: save it "
            "without an alpha channel."
        )
    colours = pixels.colours
    return dataclasses.replace(mask, values=colours[..., 0] if colours.shape[2] == 1 else colours)


def _array_mask(values: np.ndarray) -> Mask:
    return Mask(values, 8 * values.dtype.itemsize)


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


def check_convertible(colours: int, channels: int, label: str, extra: int = 0) -> None:
    """Raises InputError if `convert` has no rule from so many channels to so many others.

    Args:
        colours: channels of the image but for alpha.
        channels: wanted.
        label: the image's name.
        extra: how many of `colours` are neither, and are dropped where fewer are wanted.
    """
    kept = colours - extra if channels < colours else colours
    if channels not in (colours, kept) and not (kept in (1, 3) and channels in (1, 2, 3, 4)):
        raise InputError(
            f"{label} has {colours} channels, which cannot become {channels}; give images of one "
            "kind, or another --channels."
        )


def _with_channels(pixels: Pixels, channels: int, label: str) -> np.ndarray:
    colours = pixels.colours
    count = colours.shape[2]
    check_convertible(count, channels, label, pixels.extra)
    if channels == count:
        return colours
    if pixels.extra:
        return _with_channels(Pixels(colours[..., : -pixels.extra], False), channels, label)
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


def _tiff_image(source: discovery.Source, max_pixels: int) -> tuple[np.ndarray, bool, int]:
    """Returns the values of a TIFF, whether it has alpha, and its other extra channels."""
    with open_tiff(source) as image:
        tiff.check(image, source.label, max_pixels)
        if not image.is_for_pillow:
            values, alpha, extra = tiff.picture(image, 0, image.size[0])
            return reading.upright(values, image.orientation), alpha, extra
        page = image.page.index
    with pictures.opened(source.path) as picture:
        picture.seek(page)
        return *pictures.shown(picture, source.path, source.label), 0


def open_tiff(source: discovery.Source) -> contextlib.AbstractContextManager[tiff.Image]:
    """Opens an image of a TIFF."""
    return tiff.opened(source.path, source.planes, source.label)


def _tiff_mask(source: discovery.Source, max_pixels: int) -> tuple[Mask, bool]:
    with open_tiff(source) as image:
        tiff.check(image, source.label, max_pixels)
        if image.is_for_pillow:
            kind = tiff.PHOTOMETRIC(image.page.photometric).name
            raise InputError(f"{source.label} is a TIFF in {kind}; save masks as grey or RGB.")
        values = reading.upright(image.rows(0, image.size[0]), image.orientation)
        mask = Mask(
            values,
            image.page.bitspersample,
            image.palette,
            white_is_zero=image.is_white_zero,
            lossy=image.is_lossy,
        )
        return mask, tiff.kind_of_alpha(image) is not None


def _picture_mask(picture: Any, source: discovery.Source) -> tuple[Mask, bool]:
    """Returns an open picture as a mask, and whether it has alpha."""
    mask = Mask(
        pictures.stored(picture, source.path, source.label),
        pictures.bits_of(picture, source.path),
        pictures.palette_of(picture),
        lossy=pictures.is_lossy(picture, source.path),
    )
    return mask, picture.mode in ("LA", "RGBA")


def as_stored(values: np.ndarray, label: str) -> np.ndarray:
    """Returns uint8 and uint16 as they are, all else as float32."""
    if values.dtype in (np.uint8, np.uint16):
        return values
    if values.dtype.kind in "iu" and values.size:
        largest = max(abs(int(values.min())), abs(int(values.max())))
        if largest > EXACT_IN_FLOAT32:
            raise InputError(
                f"{label} has the value {largest}, above {EXACT_IN_FLOAT32}, up to which float32 "
                "holds every integer; scale the image."
            )
    with np.errstate(over="ignore"):  # above float32's range it becomes infinite, which is refused
        stored = values.astype(np.float32)
    if not np.isfinite(stored).all():
        raise InputError(
            f"{label} has pixels that are not finite in float32 (NaN, infinite or too large); "
            "replace them, and mark them in the mask with --ignore."
        )
    return stored
