"""Reads any rows of an image of a TIFF by tifffile, with all their bits.

Tags define what samples mean: colours, alpha, or further channels. Rows are put together here from
what tifffile decodes: its own store of regions takes Zarr 3, which needs Python 3.11, and fills
what is missing with a constant.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import tifffile

from trainer.data.formats import reading, stacks
from trainer.errors import InputError

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the latter two have offsets of 8 bytes
PHOTOMETRIC, COMPRESSION = tifffile.PHOTOMETRIC, tifffile.COMPRESSION
COLOURS = {
    PHOTOMETRIC.MINISWHITE: 1,
    PHOTOMETRIC.MINISBLACK: 1,
    PHOTOMETRIC.RGB: 3,
    PHOTOMETRIC.PALETTE: 1,
    PHOTOMETRIC.YCBCR: 3,  # which the decoder of JPEG makes RGB
}
LOSSY = ("JP", "WEBP")  # in a compression's name
# Colours that Pillow converts, and compressions that it knows.
OF_PILLOW = (PHOTOMETRIC.SEPARATED, PHOTOMETRIC.YCBCR)
KNOWN_TO_PILLOW = ("NONE", "LZW", "OJPEG", "DEFLATE", "ADOBE_DEFLATE", "PACKBITS")


@dataclasses.dataclass(frozen=True)
class Image:
    """An image of an open file; see `check` before the others.

    Attributes:
        pages: of its planes.
        shifts: bytes by which the pixels of each lie behind its page's.
    """

    pages: tuple[tifffile.TiffPage, ...]
    shifts: tuple[int, ...]

    @property
    def page(self) -> tifffile.TiffPage:
        """The first page, which describes them all."""
        return self.pages[0]

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns, as they are stored."""
        return self.page.imagelength, self.page.imagewidth

    @property
    def samples(self) -> int:
        """Values of a pixel."""
        return self.page.samplesperpixel * len(self.pages)

    @property
    def orientation(self) -> Any:
        """Its orientation; see `reading.upright`."""
        tag = self.page.tags.get("Orientation")
        return tag.value if tag else 1

    @property
    def is_white_zero(self) -> bool:
        """Whether 0 is white, except booleans of tifffile, which it writes so with True as 1."""
        is_boolean = self.page.bitspersample == 1 and self.page.software.startswith("tifffile")
        return self.page.photometric == PHOTOMETRIC.MINISWHITE and not is_boolean

    @property
    def is_lossy(self) -> bool:
        """Whether the compression changes values, or may do so."""
        return any(part in _name(COMPRESSION, self.page.compression) for part in LOSSY)

    @property
    def is_for_pillow(self) -> bool:
        """Whether its colours are of a kind that Pillow converts and tifffile does not."""
        page = self.page
        return (
            page.photometric in OF_PILLOW
            and (page.photometric, page.compression) != (PHOTOMETRIC.YCBCR, COMPRESSION.JPEG)
            and _name(COMPRESSION, page.compression) in KNOWN_TO_PILLOW
            and page.bitspersample == 8
            and not _is_planar(page)
            and len(self.pages) == 1
        )

    @property
    def palette(self) -> np.ndarray | None:
        """The colours of indices, uint8 [N, 3], or None."""
        if self.page.photometric != PHOTOMETRIC.PALETTE:
            return None
        colours = self.page.colormap
        if colours is None:
            raise reading.DamagedError("it has a palette without colours")
        # Of 16 bits; some programs write 8.
        return (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8).T

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """Decodes some rows: the samples as they are stored, [bottom - top, W, samples]."""
        planes = [
            _rows(page, shift, top, bottom)
            for page, shift in zip(self.pages, self.shifts, strict=True)
        ]
        return planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)


def is_tiff(path: str) -> bool:
    """Returns whether the content of a local file is a TIFF, whatever its name."""
    with open(path, "rb") as file:
        return file.read(4) in MAGIC


@contextlib.contextmanager
def opened(path: str, planes: stacks.Planes | None, label: str) -> Iterator[Image]:
    """Opens an image of a local file.

    Args:
        path: of the file.
        planes: of the image; None of the only one in the file.
        label: what messages call it.

    Raises:
        InputError: there are several.
    """
    reading.quieten()
    with tifffile.TiffFile(path, _multifile=False) as file:
        if planes is None:
            found = stacks.images_in(file, label).images
            if len(found) != 1:
                raise InputError(
                    f"{label} is a TIFF of {len(found)} pages; give it a name that ends in .tif, "
                    "and each page is an image."
                )
            (planes,) = found
        yield image_of(file, planes)


def image_of(file: tifffile.TiffFile, planes: stacks.Planes) -> Image:
    """Returns an image of an open file."""
    pages = tuple(stacks.page_at(file, number, place) for number, place, _ in planes.places)
    for page in pages:
        stacks.check_numbers(page)
    return Image(pages, tuple(shift for *_, shift in planes.places))


def check(image: Image, label: str, max_pixels: int | None) -> None:
    """Checks by its header whether an image can be read.

    Args:
        image: the image.
        label: what messages call it.
        max_pixels: the most pixels that are decoded at once; None if it is read in parts.

    Raises:
        InputError: it cannot, or is too large.
        DamagedError: it is empty.
    """
    page = image.page
    if 0 in page.shape:
        raise reading.DamagedError("it has no pixels")
    if max_pixels is not None:
        reading.check_size(label, *image.size, max_pixels, image.samples)
        if page.is_tiled:  # tiles of a small image may be large
            reading.check_size(f"A tile of {label}", page.tilelength, page.tilewidth, max_pixels)
    if image.is_for_pillow:
        return
    _check_samples(image, label)
    if page.imagedepth != 1:
        raise InputError(f"{label} is a TIFF of {page.imagedepth} planes; save each as a page.")
    if not _can_decode(page):
        codec = _name(COMPRESSION, page.compression)
        raise InputError(
            f"{label} has {page.samplesperpixel} samples of {page.bitspersample} bits in {codec} "
            "compression, which cannot be decoded here; save it with deflate compression or none."
        )


def _check_samples(image: Image, label: str) -> None:
    page = image.page
    kind = _name(PHOTOMETRIC, page.photometric)
    colours = COLOURS.get(page.photometric, 0)
    is_compressed_colour = page.photometric == PHOTOMETRIC.YCBCR
    is_palette = page.photometric == PHOTOMETRIC.PALETTE
    if (
        not 0 < colours <= page.samplesperpixel
        or page.dtype is None
        or page.dtype.kind not in "buif"
        or (is_palette and (image.samples > 1 or page.dtype.kind not in "bu"))
        or (is_compressed_colour and page.compression != COMPRESSION.JPEG)
        or (image.is_white_zero and page.dtype.kind not in "bu")
    ):
        raise InputError(
            f"{label} is a TIFF of {image.samples} samples of {page.bitspersample} bits a pixel "
            f"({kind}, {page.dtype or 'a type of its own'}), which is not read; save it as grey or "
            "RGB, or as a .npy array."
        )


def _can_decode(page: tifffile.TiffPage) -> bool:
    """Returns whether tifffile has the codec."""
    try:
        page.decode(None, 0)
    except (ValueError, NotImplementedError):
        return False
    return True


def picture(image: Image, top: int, bottom: int) -> tuple[np.ndarray, bool, int]:
    """Returns some rows of an image that is checked, and what its samples are.

    Bright is large, also where 0 is white; fewer than 8 bits are scaled to 8; colours that are
    multiplied by alpha are divided by it.

    Returns:
        [bottom - top, W, C] as stored, not upright; whether the last channel is alpha; how many of
        the last channels are neither colours nor alpha.
    """
    values, page = image.rows(top, bottom), image.page
    palette = image.palette
    if palette is not None:
        return palette[np.minimum(values[..., 0], len(palette) - 1)], False, 0
    if image.is_white_zero:
        turned = slice(None) if page.samplesperpixel == 1 else slice(1)
        values[..., turned] ^= values.dtype.type(2**page.bitspersample - 1)  # all its bits
    if page.bitspersample in (1, 2, 4):
        values = values * np.uint8(255 // (2**page.bitspersample - 1))
    alpha = kind_of_alpha(image)
    extra = image.samples - COLOURS[page.photometric]
    if alpha == tifffile.EXTRASAMPLE.ASSOCALPHA:
        values = _divided(values)
    return values, alpha is not None, 0 if alpha is not None else extra


def kind_of_alpha(image: Image) -> tifffile.EXTRASAMPLE | None:
    """Returns the kind of alpha of the last sample; None if it is not alpha.

    A sample after grey or RGB without a description is read as alpha, as in viewers; if it is
    said to be of no kind, or is one of several, it is a channel.
    """
    page, alpha = image.page, tifffile.EXTRASAMPLE.UNASSALPHA
    beyond = image.samples - COLOURS.get(page.photometric, 0)
    if beyond != 1 or len(image.pages) > 1 or page.dtype not in (np.uint8, np.uint16, np.float32):
        return None
    kind = page.extrasamples[0] if page.extrasamples else alpha
    return None if kind == tifffile.EXTRASAMPLE.UNSPECIFIED else kind


def _divided(values: np.ndarray) -> np.ndarray:
    colours, alpha = values[..., :-1], values[..., -1:]
    if values.dtype.kind == "f":
        divided = colours / np.where(alpha, alpha, 1)
    else:
        full = int(np.iinfo(values.dtype).max)
        wide = colours.astype(np.uint64)  # whose products fit; NumPy 1 widens none
        divided = np.minimum(wide * full // np.maximum(alpha, 1), full)
    values[..., :-1] = np.where(alpha, divided, 0)
    return values


def _name(kinds: Any, value: int) -> str:
    """Returns TIFF's word for a number, the number if it has none."""
    return kinds(value).name if value in set(kinds) else str(value)


def _is_planar(page: tifffile.TiffPage) -> bool:
    return page.planarconfig == tifffile.PLANARCONFIG.SEPARATE


def _rows(page: tifffile.TiffPage, shift: int, top: int, bottom: int) -> np.ndarray:
    """Decodes the strips or tiles that hold some rows: [bottom - top, W, C]."""
    shape = (bottom - top, page.imagewidth, page.samplesperpixel)
    rows = np.full(shape, page.nodata, page.dtype)
    length = page.tilelength if page.is_tiled else page.rowsperstrip
    if length <= 0 or (page.is_tiled and page.tilewidth <= 0):
        raise reading.DamagedError("its parts have no pixels")
    across = -(-page.imagewidth // page.tilewidth) if page.is_tiled else 1
    in_plane = -(-page.imagelength // length) * across
    planes = page.samplesperpixel if _is_planar(page) else 1
    parts = min(len(page.dataoffsets), len(page.databytecounts))
    if parts < planes * in_plane:
        raise reading.DamagedError(f"it has {parts} of its {planes * in_plane} parts")
    first, last = top // length * across, (bottom - 1) // length * across + across
    for plane in range(planes):
        samples = slice(plane, plane + 1) if planes > 1 else slice(None)
        for index in range(plane * in_plane + first, plane * in_plane + last):
            segment, (_, _, y, x, _), (_, height, width, _) = page.decode(
                _part(page, index, shift), index, jpegtables=page.jpegtables
            )
            if segment is None:
                continue  # a part without data
            begin, end = max(top, y), min(bottom, y + height)
            width = min(width, page.imagewidth - x)  # tiles may extend past the edge
            part = segment[0, begin - y : end - y, :width]
            place = rows[begin - top : end - top, x : x + width, samples]
            if part.shape != place.shape:
                raise reading.DamagedError("a part of it has too few pixels")
            place[...] = part
    return rows


def _part(page: tifffile.TiffPage, index: int, shift: int) -> bytes | None:
    """Returns the bytes of a strip or tile, None if it has none."""
    file = page.parent.filehandle
    file.seek(page.dataoffsets[index] + shift)
    data = file.read(page.databytecounts[index])
    if len(data) < page.databytecounts[index]:
        raise reading.DamagedError("the file ends early")
    return data or None
