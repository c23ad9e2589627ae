"""Reads TIFF by tifffile: which images a file holds, and any rows of one, with all their bits.

A page is an image, unless the file says otherwise: the pages of a stack of ImageJ, OME-TIFF and the
like are planes, whose channels make one image, and reduced copies are no images. What samples mean
is told by tags: colours, alpha, or more channels than that.
"""

import contextlib
import ctypes
import dataclasses
import functools
import logging
import math
import struct
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
import tifffile
from PIL import Image as Pillow

from trainer.data import reading
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
# Kinds of file, as tifffile tells them, that say how pages belong together.
LAYOUTS = (
    *("shaped", "lsm", "mmstack", "ome", "imagej", "fluoview", "stk", "sis"),
    *("svs", "scn", "qpi", "ndpi", "bif", "avs", "philips"),
)
BESIDES = ("Thumbnail", "Label", "Macro", "Map")  # pictures of a slide besides its scan
LARGEST_STEP = 64  # by which a page that does not say so is taken for a reduced copy
CHANNELS = "CS"  # of tifffile's letters for axes; T, Z and others count images

# The planes of an image, one a channel: the page, and how many bytes its pixels lie behind the
# page's own, for files that describe a stack by its first page alone.
Planes = tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class Found:
    """What a file holds.

    Attributes:
        images: the planes of each.
        copies: number of pages that are reduced copies, thumbnails or masks of others.
    """

    images: tuple[Planes, ...]
    copies: int


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
        """How it lies; see `reading.upright`."""
        tag = self.page.tags.get("Orientation")
        return tag.value if tag else 1

    @property
    def is_white_zero(self) -> bool:
        """Whether 0 is white, but for booleans of tifffile, which it writes so with True as 1."""
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


@functools.cache
def quieten() -> None:
    """Keeps Pillow, its libtiff and tifffile from writing to stderr: what they raise says it.

    For the whole process and for good. To turn file descriptor 2 away while a picture is decoded
    would lose what other threads say meanwhile, and all that follows if two of them do it at once.
    """
    for name in ("PIL", "tifffile"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with contextlib.suppress(AttributeError):  # a Pillow that hides its libtiff
        ctypes.CDLL(Pillow.core.__file__).TIFFSetErrorHandler(None)


def is_tiff(path: str) -> bool:
    """Says whether the content of a local file is a TIFF, whatever its name."""
    with open(path, "rb") as file:
        return file.read(4) in MAGIC


@contextlib.contextmanager
def opened(path: str, planes: Planes | None, label: str) -> Iterator[Image]:
    """Opens an image of a local file.

    Args:
        path: of the file.
        planes: of the image; None of the only one in the file.
        label: what messages call it.

    Raises:
        InputError: there are several.
    """
    quieten()
    with tifffile.TiffFile(path, _multifile=False) as file:
        if planes is None:
            found = _found(file, label).images
            if len(found) != 1:
                raise InputError(
                    f"{label} is a TIFF of {len(found)} pages; give it a name that ends in .tif, "
                    "and each page is an image."
                )
            (planes,) = found
        pages = tuple(file.pages[page].aspage() for page, _ in planes)
        for page in pages:
            _check_numbers(page)
        yield Image(pages, tuple(shift for _, shift in planes))


# Which images there are ---------------------------------------------------------------------------


def find(file: IO[bytes], label: str) -> Found:
    """Returns what an open file holds; messages call it `label`.

    Raises:
        InputError: it does not say what belongs together.
        Exception: it is damaged; see `reading.explained`.
    """
    quieten()
    with tifffile.TiffFile(file, _multifile=False) as opened:
        return _found(opened, label)


def _found(file: tifffile.TiffFile, label: str) -> Found:
    _check_links(file)
    total = len(file.pages)
    if any(getattr(file, f"is_{kind}", False) for kind in LAYOUTS):
        images = _by_layout(file, label)
    else:
        images = [((page, 0),) for page in _full_pages(file, label)]
    used = {page for planes in images for page, _ in planes}
    return Found(tuple(images), total - len(used))


def _check_links(file: tifffile.TiffFile) -> None:
    """Raises DamagedError if a link from page to page leads out of the file.

    There tifffile ends the list of pages, without a word.
    """
    handle, form = file.filehandle, file.tiff

    def number(letter: str, size: int) -> int:
        data = handle.read(size)
        if len(data) < size:
            raise reading.DamagedError("the file ends before its last page")
        return struct.unpack(letter, data)[0]

    seen: set[int] = set()
    handle.seek(8 if form.version == 43 else 4)
    place = number(form.offsetformat, form.offsetsize)
    while place and place not in seen:
        seen.add(place)
        handle.seek(place)
        entries = number(form.tagnoformat, form.tagnosize)
        handle.seek(place + form.tagnosize + entries * form.tagsize)
        place = number(form.offsetformat, form.offsetsize)
    if not seen:
        raise reading.DamagedError("it has no pages")


def _full_pages(file: tifffile.TiffFile, label: str) -> list[int]:
    """Returns the pages that are no copies of others."""
    pages = list(file.pages)
    for page in pages:
        _check_numbers(page)
    kept = [k for k, page in enumerate(pages) if not _is_copy(page)]
    if not kept and not any(page.subifds for page in pages):
        return list(range(len(pages)))  # of which all say that they are copies: of what?
    if not kept:
        raise InputError(
            f"{label} has nothing but reduced copies as pages; its full image is beside them, in "
            "SubIFDs: save it as a plain TIFF."
        )
    first = pages[kept[0]]
    for k in kept:
        if _may_be_copy(pages[k], first):
            sizes = [f"{page.imagelength}×{page.imagewidth}" for page in (first, pages[k])]
            raise InputError(
                f"{label} has pages of {sizes[0]} and of {sizes[1]} pixels, and does not say "
                "whether the small ones are reduced copies (NewSubfileType); remove them, or save "
                "each as a file."
            )
    return kept


def _check_numbers(page: tifffile.TiffPage) -> None:
    """Raises DamagedError where a page says something else than numbers of its size."""
    for name in (
        *("imagelength", "imagewidth", "imagedepth", "samplesperpixel", "compression"),
        *("photometric", "planarconfig", "rowsperstrip", "tilelength", "tilewidth", "subfiletype"),
    ):
        if not isinstance(getattr(page, name), int):
            raise reading.DamagedError(f"its {name} is {getattr(page, name)!r}")


def _is_copy(page: tifffile.TiffPage) -> bool:
    return bool(page.is_reduced or page.is_mask)


def _may_be_copy(page: tifffile.TiffPage, full: tifffile.TiffPage) -> bool:
    """Says whether a page has a half, a third … of the rows and columns of another."""
    return page.imagelength < full.imagelength and any(
        page.imagelength in (full.imagelength // n, -(-full.imagelength // n))
        and page.imagewidth in (full.imagewidth // n, -(-full.imagewidth // n))
        for n in range(2, LARGEST_STEP + 1)
    )


def _by_layout(file: tifffile.TiffFile, label: str) -> list[Planes]:
    """Returns the images of a file that says how its pages belong together."""
    series = file.series
    if series[0].kind in ("generic", "uniform"):  # tifffile did not find what is said
        raise reading.DamagedError(
            "it describes planes (ImageJ, OME) that it does not hold, or that are in other files"
        )
    images: list[Planes] = []
    for number, one in enumerate(series):
        is_beside = one.kind not in ("shaped", "imagej", "ome") and one.name in BESIDES
        if number and (is_beside or one.keyframe.is_subifd or _is_copy(one.keyframe)):
            continue
        images += _in_series(one, label)
    return images


def _in_series(series: tifffile.TiffPageSeries, label: str) -> list[Planes]:
    """Returns the images of a series: along channels planes of one, along all else one each."""
    shape, axes = series.get_shape(False), series.get_axes(False)
    size = math.prod(series.keyframe.shape)
    count = math.prod(shape) // size if size else 0
    if not count:
        raise reading.DamagedError("it has no pixels")
    leading = next(k for k in range(len(shape) + 1) if math.prod(shape[:k]) >= count)
    if math.prod(shape[:leading]) * size != math.prod(shape):
        raise InputError(f"{label} has axes {axes} of {shape}, which is not read; save each page.")
    if len(series) == count:
        pages = [series[k] for k in range(count)]
        if any(page is None for page in pages):
            raise reading.DamagedError("it lacks planes that it describes")
        places = [(page.index, 0) for page in pages if page is not None]
    elif len(series) == 1 and series.dataoffset is not None:
        bytes_of_plane = size * series.dtype.itemsize
        places = [(series.keyframe.index, k * bytes_of_plane) for k in range(count)]
    else:
        raise reading.DamagedError(f"it describes {count} planes and holds {len(series)}")
    channels = [k for k in range(leading) if axes[k] in CHANNELS]
    order = np.moveaxis(
        np.arange(count).reshape(shape[:leading]), channels, range(-len(channels), 0)
    )
    rows = order.reshape(-1, math.prod(shape[k] for k in channels))
    return [tuple(places[k] for k in row) for row in rows]


# What is in one -----------------------------------------------------------------------------------


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
    """Says whether tifffile has the codec."""
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
    """Returns what kind of alpha the last sample is; None if it is none.

    A sample beyond grey or RGB of which nothing is said is taken for alpha, as viewers do; if it is
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
            width = min(width, page.imagewidth - x)  # tiles may go beyond
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
