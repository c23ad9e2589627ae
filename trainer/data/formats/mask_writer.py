"""Writes masks as PNG, TIFF or `.npy`, from arrays that need not fit into memory."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from trainer.data.formats import discovery, images, reading, tiff
from trainer.data.formats.npy_stream import RowFile, Rows
from trainer.errors import InputError

TIFF_TILE = 256
BAND_PIXELS = 2**22
# An image's geographic position: ModelPixelScale, ModelTiepoint, ModelTransformation, GeoKeys.
GEO_TAGS = (33550, 33922, 34264, 34735, 34736, 34737)
# Descriptions by which readers find out how many images and channels there are: not a mask's.
LAYOUTS = ("<?xml", "<OME", "ImageJ=", '{"shape"', "SCANIMAGE")


def write_png(path: str, mask: Rows, source: discovery.Source) -> None:
    """Writes a mask of uint8 or uint16, which is read into memory for it."""
    if mask.dtype not in (np.uint8, np.uint16):
        raise InputError(
            f"The mask has {mask.dtype} values, which a PNG cannot hold; use --format=tif or npy."
        )
    Image.fromarray(mask.read(0, mask.shape[0])).save(path, format="PNG")


def write_tiff(path: str, mask: Rows, source: discovery.Source) -> None:
    """Writes a mask in deflated tiles, with the resolution, place and description of its image."""
    height, width = mask.shape
    side = (min(TIFF_TILE, -(-length // 16) * 16) for length in (height, width))
    tile = tuple(side)
    with tifffile.TiffWriter(path, bigtiff=height * width * mask.dtype.itemsize > 2**31) as writer:
        writer.write(
            _tiles(mask, *tile),
            shape=mask.shape,
            dtype=mask.dtype,
            tile=tile,
            compression="zlib",
            photometric="minisblack",
            metadata=None,
            software="unet-trainer",
            **_tags(source),
        )


def write_npy(path: str, mask: Rows, source: discovery.Source) -> None:
    """Writes a mask as an array [H, W]."""
    copy = RowFile(path, mask.shape, mask.dtype)
    with contextlib.closing(copy):
        for band in mask.bands(BAND_PIXELS):
            copy.append(band)


FORMATS: Mapping[str, Callable[[str, Rows, discovery.Source], None]] = {
    "png": write_png,
    "tif": write_tiff,
    "npy": write_npy,
}


def format_of(path: str) -> str:
    """Returns the format of the mask of an image where none is asked for."""
    suffix = path.lower().rpartition(".")[2]
    return {"tif": "tif", "tiff": "tif", "npy": "npy", "npz": "npy"}.get(suffix, "png")


def _tiles(mask: Rows, height: int, width: int) -> Iterator[np.ndarray]:
    """Yields the tiles of a mask row by row, those at its end filled up with zeros."""
    for top in range(0, mask.shape[0], height):
        rows = mask.read(top, min(top + height, mask.shape[0]))
        for left in range(0, mask.shape[1], width):
            part = rows[:, left : left + width]
            yield np.pad(part, ((0, height - part.shape[0]), (0, width - part.shape[1])))


def _tags(source: discovery.Source) -> dict[str, Any]:
    """Returns the metadata of a TIFF that its mask must have as well.

    The mask is upright: where its rows are the image's columns, so are the resolutions; where it is
    turned, the image's geographic position, which counts its stored rows, is not the mask's.
    """
    if discovery.is_array(source.path) or not tiff.is_tiff(source.path):
        return {}
    with images.open_tiff(source) as image:
        page = image.page
        is_across, _ = reading.TURNS.get(image.orientation, (False, ()))
        tags: dict[str, Any] = {}
        if "XResolution" in page.tags and "YResolution" in page.tags:
            names = ("YResolution", "XResolution") if is_across else ("XResolution", "YResolution")
            tags["resolution"] = tuple(page.tags[name].value for name in names)
            unit = page.tags.get("ResolutionUnit")
            tags["resolutionunit"] = 2 if unit is None else int(unit.value)
        if page.description and not page.description.lstrip().startswith(LAYOUTS):
            tags["description"] = page.description.encode()  # which need not be ASCII
        if image.orientation not in reading.TURNS:
            tags["extratags"] = [
                (tag.code, int(tag.dtype), tag.count, tag.value, True)
                for tag in page.tags
                if tag.code in GEO_TAGS
            ]
        return tags
