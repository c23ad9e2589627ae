"""Images that are read in bands, so that an image of any size fits into memory.

Large `.npy` arrays and TIFFs are read where they are touched; other files are decoded whole by
`images`, as `prepare` does. Either way a band has the channels and dtype of the data set.
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
from absl import logging

from trainer.data.formats import discovery, images, npy, reading, tiff

WHOLE_PIXELS = 2**24  # images up to this are read at once
BAND_PIXELS = 2**22  # of one read where the whole image is read once


@dataclasses.dataclass(frozen=True)
class _Large:
    """A large file, of which parts can be read.

    Attributes:
        height: of the image, in pixels.
        width: of the image, in pixels.
        read: (top, bottom) → those rows as they are stored.
    """

    height: int
    width: int
    read: Callable[[int, int], images.Pixels]


@dataclasses.dataclass(frozen=True)
class Raster:
    """An image, open for reading.

    Attributes:
        height: in pixels.
        width: in pixels.
        read: (top, bottom) → those rows, dtype of the data [bottom - top, width, C].
    """

    height: int
    width: int
    read: Callable[[int, int], np.ndarray]

    def bands(self) -> Iterator[np.ndarray]:
        """Yields the whole image from top to bottom."""
        step = max(1, BAND_PIXELS // self.width)
        for top in range(0, self.height, step):
            yield self.read(top, min(top + step, self.height))


def open_raster(source: discovery.Source, channels: int, dtype: str, max_pixels: int) -> Raster:
    """Opens an image.

    Args:
        source: where it is, on a local disk.
        channels: of the data set, see `images.convert`.
        dtype: of the data set: "uint8", "uint16" or "float32".
        max_pixels: the most pixels of an image that can only be read as a whole.

    Raises:
        UnreadableError: if the file is damaged; `read` raises it, too.
        InputError: if it is too large, or of a kind that is not read.
    """
    large = _open_array(source) or _open_tiff(source)
    if large is None:
        return of_array(images.read_image(source, max_pixels), channels, dtype, source.label)

    def read(top: int, bottom: int) -> np.ndarray:
        return _converted(large.read(top, bottom), channels, dtype, source.label)

    return Raster(large.height, large.width, read)


def of_array(pixels: images.Pixels, channels: int, dtype: str, label: str) -> Raster:
    """Returns an image that is in memory."""
    values = _converted(pixels, channels, dtype, label)
    height, width = values.shape[:2]
    return Raster(height, width, lambda top, bottom: values[top:bottom])


def _converted(pixels: images.Pixels, channels: int, dtype: str, label: str) -> np.ndarray:
    colours = pixels.colours.shape[2]
    said = "Warning: %s has %d channels where the data have %d; %s, here and in other images."
    if pixels.extra and channels < colours:
        act = "those that are neither colours nor alpha are dropped"
        logging.log_first_n(logging.WARNING, said, 1, label, colours, channels, act)
    elif channels in (2, 4) and channels != colours and not pixels.alpha:
        act = "the last one is taken for full"
        logging.log_first_n(logging.WARNING, said, 1, label, colours, channels, act)
    return images.convert(pixels, channels, dtype, label)


def statistics(raster: Raster) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and standard deviation of each channel, float64 [C], in one pass.

    They are what `normalization` takes of a whole image, without its rounding: integers are
    counted by value, floats summed as differences from the first pixel, so that a channel that
    does not vary has a deviation of 0.
    """
    line = raster.read(0, 1)
    if line.dtype.kind == "u":
        return _statistics_by_counts(raster)
    origin = line[0, 0].astype(np.float64)
    pixels = raster.height * raster.width
    first, second = np.zeros_like(origin), np.zeros_like(origin)
    for band in raster.bands():
        beyond = band.astype(np.float64) - origin
        first += beyond.sum(axis=(0, 1))
        second += np.square(beyond).sum(axis=(0, 1))
    mean = first / pixels
    return origin + mean, np.sqrt(np.maximum(0, second / pixels - np.square(mean)))


def _statistics_by_counts(raster: Raster) -> tuple[np.ndarray, np.ndarray]:
    counts = None
    for band in raster.bands():
        levels = np.iinfo(band.dtype).max + 1
        found = [np.bincount(band[..., k].ravel(), minlength=levels) for k in range(band.shape[2])]
        counts = np.array(found) if counts is None else counts + found
    assert counts is not None
    values = np.arange(counts.shape[1], dtype=np.float64)
    shares = counts / (raster.height * raster.width)
    mean = shares @ values
    variance = [share @ np.square(values - m) for share, m in zip(shares, mean, strict=True)]
    return mean, np.sqrt(variance)


def _open_array(source: discovery.Source) -> _Large | None:
    """Returns a large array, whose reads map only what they need."""
    if not discovery.is_array(source.path):
        return None
    shape = npy.map_image(source.path, source.row, source.label).shape
    if shape[0] * shape[1] <= WHOLE_PIXELS:
        return None  # too few to matter

    def read(top: int, bottom: int) -> images.Pixels:
        band = npy.map_image(source.path, source.row, source.label)[top:bottom]
        band = np.array(band, band.dtype.newbyteorder("="))
        return images.pixels_of(band, source.label)

    return _Large(shape[0], shape[1], read)


def _open_tiff(source: discovery.Source) -> _Large | None:
    """Returns a large TIFF whose parts can be decoded, or None: then it has to be read whole."""
    if discovery.is_array(source.path) or discovery.is_dicom(source.path):
        return None
    with reading.translate_errors(source.label):
        if not tiff.is_tiff(source.path):
            return None
        with images.open_tiff(source) as image:
            height, width = image.size
            is_upright = image.orientation not in reading.TURNS
            if height * width <= WHOLE_PIXELS or image.is_for_pillow or not is_upright:
                return None
            tiff.check(image, source.label, None)

    def read(top: int, bottom: int) -> images.Pixels:
        with reading.translate_errors(source.label), images.open_tiff(source) as image:
            values, alpha, extra = tiff.picture(image, top, bottom)
        return images.pixels_of(values, source.label, alpha, extra)

    return _Large(height, width, read)
