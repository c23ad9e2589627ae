"""Which images a TIFF holds, and in which of its pages.

A page is an image, unless the file says otherwise: the pages of a stack of ImageJ, OME-TIFF and the
like are planes, whose channels make one image, and reduced copies are no images.
"""

import dataclasses
import math
import struct
from collections.abc import Mapping
from typing import IO

import numpy as np
import tifffile

from trainer.data.formats import reading
from trainer.data.packed import reduce_to_fields
from trainer.errors import InputError

# Kinds of file, by tifffile's names, that define how pages belong together.
LAYOUTS = (
    *("shaped", "lsm", "mmstack", "ome", "imagej", "fluoview", "stk", "sis"),
    *("svs", "scn", "qpi", "ndpi", "bif", "avs", "philips"),
)
# Those in which other pages say how a page is read.
ENTANGLED = ("lsm", "ndpi", "philips", "vista", "eer")
GAP = 2**16  # bytes between two parts of a file that are read rather than asked for apart
BESIDES = ("Thumbnail", "Label", "Macro", "Map")  # pictures of a slide besides its scan
LARGEST_STEP = 64  # factor by which an unmarked page may be smaller and look like a reduced copy
CHANNELS = "CS"  # of tifffile's letters for axes; T, Z and others count images

# Of each plane: the number of its page, where the page's header is in the file, and how many bytes
# its pixels lie behind the page's own, for files that describe a stack by its first page alone.
Places = tuple[tuple[int, int, int], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Planes:
    """Where the planes of an image are in a file, one a channel.

    Attributes:
        places: of the planes.
        ranges: the parts of the file that reading the image takes, each its first byte and its
            end; none if it takes all of the file.
        start: the bytes that a file of these parts alone begins with.
    """

    places: Places
    ranges: tuple[tuple[int, int], ...] = ()
    start: bytes = b""

    __reduce__ = reduce_to_fields


@dataclasses.dataclass(frozen=True)
class Found:
    """What a file holds.

    Attributes:
        images: the planes of each.
        copies: number of pages that are reduced copies, thumbnails or masks of others.
    """

    images: tuple[Planes, ...]
    copies: int


def find(file: IO[bytes], label: str) -> Found:
    """Returns what an open file holds; messages call it `label`.

    Raises:
        InputError: it does not define which pages belong together.
        Exception: it is damaged; see `reading.translate_errors`.
    """
    reading.quieten()
    with tifffile.TiffFile(file, _multifile=False) as opened:
        opened.pages.cache = True
        ends = _ends_of_headers(opened)
        found = _images(opened, label)
        if len(found.images) == 1 or any(_is_kind(opened, kind) for kind in ENTANGLED):
            return found
        located = (_located(opened, planes.places, ends) for planes in found.images)
        return dataclasses.replace(found, images=tuple(located))


def images_in(file: tifffile.TiffFile, label: str) -> Found:
    """Returns what a file holds that tifffile has opened, see `find`, without ranges."""
    _ends_of_headers(file)
    return _images(file, label)


def page_at(file: tifffile.TiffFile, number: int, place: int) -> tifffile.TiffPage:
    """Reads a page by the place of its header; those before it need not be there."""
    first = file.pages.first
    if place == first.offset:
        return first
    file.filehandle.seek(place)
    return tifffile.TiffPage(file, index=number)


def _images(file: tifffile.TiffFile, label: str) -> Found:
    total = len(file.pages)
    if any(_is_kind(file, kind) for kind in LAYOUTS):
        images = _by_layout(file, label)
    else:
        images = [((page.index, page.offset, 0),) for page in _full_pages(file, label)]
    used = {page for places in images for page, *_ in places}
    return Found(tuple(map(Planes, images)), total - len(used))


def _is_kind(file: tifffile.TiffFile, kind: str) -> bool:
    return getattr(file, f"is_{kind}", False)


def _located(file: tifffile.TiffFile, places: Places, ends: Mapping[int, int]) -> Planes:
    """Returns the planes of an image with the parts of the file that they are in.

    Args:
        file: the file.
        places: of the planes.
        ends: place of a page's header → its end.
    """
    parts = []
    for number, place, shift in places:
        page = file.pages[number].aspage()
        if place not in ends or page.compression == tifffile.COMPRESSION.OJPEG:
            return Planes(places)
        data = zip(page.dataoffsets, page.databytecounts, strict=False)
        parts.append((place, ends[place]))
        parts += [(tag.valueoffset, tag.valueoffset + tag.valuebytecount) for tag in page.tags]
        parts += [(first + shift, first + shift + count) for first, count in data if count]
    ranges: list[list[int]] = []
    for first, end in sorted(parts):
        if not ranges or first > ranges[-1][1] + GAP:
            ranges.append([int(first), int(end)])
        ranges[-1][1] = max(ranges[-1][1], int(end))
    start, size = _start(file, places[0][1]), file.filehandle.size
    if ranges[0][0] < len(start):
        return Planes(places)
    there = tuple((first, min(end, size)) for first, end in ranges if first < size)
    return Planes(places, there, start)


def _start(file: tifffile.TiffFile, place: int) -> bytes:
    """Returns what a file begins with whose first page has its header at a place."""
    mark = b"II" if file.byteorder == "<" else b"MM"
    if file.tiff.version == 43:
        return mark + struct.pack(f"{file.byteorder}HHHQ", 43, 8, 0, place)
    return mark + struct.pack(f"{file.byteorder}HI", 42, place)


def _ends_of_headers(file: tifffile.TiffFile) -> dict[int, int]:
    """Returns where the header of each page ends, by its place.

    Raises:
        DamagedError: a link from page to page leads out of the file; there tifffile ends the list
            of pages silently.
    """
    handle, form = file.filehandle, file.tiff

    def number(letter: str, size: int) -> int:
        data = handle.read(size)
        if len(data) < size:
            raise reading.DamagedError("the file ends before its last page")
        return struct.unpack(letter, data)[0]

    ends: dict[int, int] = {}
    handle.seek(8 if form.version == 43 else 4)
    place = number(form.offsetformat, form.offsetsize)
    while place and place not in ends:
        handle.seek(place)
        entries = number(form.tagnoformat, form.tagnosize)
        link = place + form.tagnosize + entries * form.tagsize
        ends[place] = link + form.offsetsize
        handle.seek(link)
        place = number(form.offsetformat, form.offsetsize)
    if not ends:
        raise reading.DamagedError("it has no pages")
    return ends


def _full_pages(file: tifffile.TiffFile, label: str) -> list[tifffile.TiffPage]:
    """Returns the pages that are no copies of others."""
    pages = list(file.pages)
    for page in pages:
        check_numbers(page)
    kept = [page for page in pages if not _is_copy(page)]
    if not kept and not any(page.subifds for page in pages):
        return pages  # all are marked as copies, but of what?
    if not kept:
        raise InputError(
            f"{label} has only reduced copies as pages; its full image is stored in "
            "SubIFDs: save it as a plain TIFF."
        )
    first = kept[0]
    for one in kept:
        if _may_be_copy(one, first):
            sizes = [f"{page.imagelength}×{page.imagewidth}" for page in (first, one)]
            raise InputError(
                f"{label} has pages of {sizes[0]} and of {sizes[1]} pixels, and does not say "
                "whether the small ones are reduced copies (NewSubfileType); remove them, or save "
                "each as a file."
            )
    return kept


def check_numbers(page: tifffile.TiffPage) -> None:
    """Raises DamagedError if the size of a page is not given as numbers."""
    for name in (
        *("imagelength", "imagewidth", "imagedepth", "samplesperpixel", "compression"),
        *("photometric", "planarconfig", "rowsperstrip", "tilelength", "tilewidth", "subfiletype"),
    ):
        if not isinstance(getattr(page, name), int):
            raise reading.DamagedError(f"its {name} is {getattr(page, name)!r}")


def _is_copy(page: tifffile.TiffPage) -> bool:
    return bool(page.is_reduced or page.is_mask)


def _may_be_copy(page: tifffile.TiffPage, full: tifffile.TiffPage) -> bool:
    """Returns whether a page has a half, a third … of the rows and columns of another."""
    return page.imagelength < full.imagelength and any(
        page.imagelength in (full.imagelength // n, -(-full.imagelength // n))
        and page.imagewidth in (full.imagewidth // n, -(-full.imagewidth // n))
        for n in range(2, LARGEST_STEP + 1)
    )


def _by_layout(file: tifffile.TiffFile, label: str) -> list[Places]:
    """Returns the images of a file that defines how its pages belong together."""
    series = file.series
    if series[0].kind in ("generic", "uniform"):  # tifffile did not find what is described
        raise reading.DamagedError(
            "it describes planes (ImageJ, OME) that it does not hold, or that are in other files"
        )
    images: list[Places] = []
    for number, one in enumerate(series):
        is_beside = one.kind not in ("shaped", "imagej", "ome") and one.name in BESIDES
        if number and (is_beside or one.keyframe.is_subifd or _is_copy(one.keyframe)):
            continue
        images += _in_series(one, label)
    return images


def _in_series(series: tifffile.TiffPageSeries, label: str) -> list[Places]:
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
        places = [(page.index, page.offset, 0) for page in pages if page is not None]
    elif len(series) == 1 and series.dataoffset is not None:
        bytes_of_plane = size * series.dtype.itemsize
        page = series.keyframe
        places = [(page.index, page.offset, k * bytes_of_plane) for k in range(count)]
    else:
        raise reading.DamagedError(f"it describes {count} planes and holds {len(series)}")
    channels = [k for k in range(leading) if axes[k] in CHANNELS]
    order = np.moveaxis(
        np.arange(count).reshape(shape[:leading]), channels, range(-len(channels), 0)
    )
    rows = order.reshape(-1, math.prod(shape[k] for k in channels))
    return [tuple(places[k] for k in row) for row in rows]
