"""Which images a TIFF holds, and in which of its pages.

A page is an image, unless the file says otherwise: the pages of a stack of ImageJ, OME-TIFF and the
like are planes, whose channels make one image, and reduced copies are no images.
"""

import dataclasses
import math
import struct
from typing import IO

import numpy as np
import tifffile

from trainer.data.formats import reading
from trainer.errors import InputError

# Kinds of file, by tifffile's names, that define how pages belong together.
LAYOUTS = (
    *("shaped", "lsm", "mmstack", "ome", "imagej", "fluoview", "stk", "sis"),
    *("svs", "scn", "qpi", "ndpi", "bif", "avs", "philips"),
)
BESIDES = ("Thumbnail", "Label", "Macro", "Map")  # pictures of a slide besides its scan
LARGEST_STEP = 64  # factor by which an unmarked page may be smaller and look like a reduced copy
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


def find(file: IO[bytes], label: str) -> Found:
    """Returns what an open file holds; messages call it `label`.

    Raises:
        InputError: it does not define which pages belong together.
        Exception: it is damaged; see `reading.translate_errors`.
    """
    reading.quieten()
    with tifffile.TiffFile(file, _multifile=False) as opened:
        return images_in(opened, label)


def images_in(file: tifffile.TiffFile, label: str) -> Found:
    """Returns what a file holds that tifffile has opened; see `find`."""
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

    There tifffile ends the list of pages silently.
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
        check_numbers(page)
    kept = [k for k, page in enumerate(pages) if not _is_copy(page)]
    if not kept and not any(page.subifds for page in pages):
        return list(range(len(pages)))  # all are marked as copies, but of what?
    if not kept:
        raise InputError(
            f"{label} has only reduced copies as pages; its full image is stored in "
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


def _by_layout(file: tifffile.TiffFile, label: str) -> list[Planes]:
    """Returns the images of a file that defines how its pages belong together."""
    series = file.series
    if series[0].kind in ("generic", "uniform"):  # tifffile did not find what is described
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
