"""Images that are read band by band, so that one of any size fits into memory.

Large `.npy` arrays and the plain kinds of TIFF are read where they are touched; all else is decoded
whole by `images`, as `prepare` does. Either way a band has the channels and dtype of the data set.
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import tifffile

from trainer.data import arrays, images, reading, sources, tiff

WHOLE_PIXELS = 2**24  # images up to this are read at once
BAND_PIXELS = 2**22  # of one read where the whole image is passed over


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


def open_raster(source: sources.Source, channels: int, dtype: str, max_pixels: int) -> Raster:
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
        values = images.as_stored(large.read(top, bottom), source.label)
        return images.convert(images.Pixels(values, False), channels, dtype, source.label)

    return dataclasses.replace(large, read=read)


def of_array(pixels: images.Pixels, channels: int, dtype: str, label: str) -> Raster:
    """Returns an image that is in memory."""
    values = images.convert(pixels, channels, dtype, label)
    height, width = values.shape[:2]
    return Raster(height, width, lambda top, bottom: values[top:bottom])


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


def _open_array(source: sources.Source) -> Raster | None:
    """Returns a large array, of which each read maps what it needs and lets it go again."""
    if not sources.is_array(source.path):
        return None
    shape = arrays.map_array(source.path, source.row, source.label).shape
    if len(shape) not in (2, 3) or shape[0] * shape[1] <= WHOLE_PIXELS:
        return None  # too few to matter, or for `images` to refuse

    def read(top: int, bottom: int) -> np.ndarray:
        band = arrays.map_array(source.path, source.row, source.label)[top:bottom]
        if band.dtype == bool:
            band = band * np.uint8(255)
        band = np.array(band, band.dtype.newbyteorder("="))
        return band if band.ndim == 3 else band[..., np.newaxis]

    return Raster(shape[0], shape[1], read)


def _open_tiff(source: sources.Source) -> Raster | None:
    """Returns a large TIFF whose parts can be decoded, or None: then it has to be read whole."""
    if not source.path.lower().endswith((".tif", ".tiff")):
        return None
    with reading.explained(source.label), tiff.open_page(source.path, source.row or 0) as page:
        pixels = page.imagelength * page.imagewidth
        if pixels <= WHOLE_PIXELS or not _is_plain(page) or not tiff.can_decode(page):
            return None

    def read(top: int, bottom: int) -> np.ndarray:
        with reading.explained(source.label), tiff.open_page(source.path, source.row or 0) as page:
            return tiff.read_rows(page, top, bottom)

    return Raster(page.imagelength, page.imagewidth, read)


def _is_plain(page: tifffile.TiffPage) -> bool:
    """Says whether the samples of a page are what `images` makes of it."""
    kinds = {
        tifffile.PHOTOMETRIC.MINISBLACK: (1,),
        tifffile.PHOTOMETRIC.RGB: (3,),
        tifffile.PHOTOMETRIC.YCBCR: (3,),
    }
    if page.samplesperpixel not in kinds.get(page.photometric, ()):
        return False
    if page.photometric == tifffile.PHOTOMETRIC.YCBCR and page.compression != 7:  # JPEG
        return False
    orientation = page.tags.get("Orientation")
    return (
        page.imagedepth == 1
        and (orientation is None or orientation.value == 1)
        and str(page.dtype)
        in ("uint8", "uint16", *(("float32",) if page.samplesperpixel == 1 else ()))
        and page.bitspersample == page.dtype.itemsize * 8
    )
