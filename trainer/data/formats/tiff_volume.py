"""A volume from the pages of a TIFF, with the spacing that ImageJ or OME-TIFF give them."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from xml.etree import ElementTree

import numpy as np
import tifffile

from trainer.data import geometry
from trainer.data.formats import reading, stacks, tiff
from trainer.data.formats.volume_header import Header
from trainer.errors import InputError

MICRO = 1e-3  # mm
UNITS = {
    **dict.fromkeys(("micron", "microns", "um", "µm", "μm", "\\u00B5m", "micrometer"), MICRO),
    **{"nm": 1e-6, "mm": 1.0, "cm": 10.0, "m": 1e3, "inch": 25.4, "in": 25.4},
}
SLICE_AXES = "ZIQ"  # of tifffile's letters: what pages may be counted by, if there is but one
SPACING = {"Z": "PhysicalSizeZ", "Y": "PhysicalSizeY", "X": "PhysicalSizeX"}


@dataclasses.dataclass(frozen=True)
class Stack:
    """An open file: its slices, first to last, and what their headers say."""

    slices: tuple[tiff.Image, ...]
    header: Header


@contextlib.contextmanager
def opened(path: str, label: str) -> Iterator[Stack]:
    """Opens a local file.

    Raises:
        InputError: its pages are not the slices of one volume.
    """
    reading.quieten()
    with tifffile.TiffFile(path, _multifile=False) as file:
        planes = stacks.images_in(file, label).images
        _check_axes(file, label)
        slices = tuple(tiff.image_of(file, one) for one in planes)
        first = slices[0]
        for one in slices:
            tiff.check(one, label, None)
            if (one.size, one.samples, one.page.dtype) != (
                *(first.size, first.samples),
                first.page.dtype,
            ):
                raise InputError(
                    f"{label} has pages of {first.size[0]}×{first.size[1]} {first.page.dtype} and "
                    f"of {one.size[0]}×{one.size[1]} {one.page.dtype}; save the slices of a volume "
                    "alike, and nothing else beside them."
                )
            if one.is_for_pillow or one.palette is not None and one.samples > 1:
                raise InputError(f"{label} is a TIFF in colours that are not read; save it as RGB.")
        is_across, _ = reading.TURNS.get(first.orientation, (False, ()))
        spacing = _spacing(file)
        if spacing and is_across:
            spacing = (spacing[0], spacing[2], spacing[1])
        size = first.size[::-1] if is_across else first.size
        header = Header(
            (len(slices), *size),
            first.samples,
            first.page.dtype,
            geometry.Geometry(spacing or (1.0, 1.0, 1.0)),
            has_spacing=spacing is not None,
        )
        yield Stack(slices, header)


def read(stack: Stack, label: str, is_mask: bool) -> np.ndarray:
    """Returns the values of an open file, [D, H, W, C], as `images` has those of each page.

    Raises:
        InputError: the pages are in part transparent or, of a mask, lossy.
    """
    volume = None
    for place, one in enumerate(stack.slices):
        if is_mask and one.is_lossy:
            raise InputError(
                f"{label} has lossy compression, which changes class values; save masks without."
            )
        if is_mask:
            values = one.rows(0, one.size[0])
        else:
            values, alpha, _ = tiff.picture(one, 0, one.size[0])
            if alpha:
                raise InputError(f"{label} has an alpha channel; save it without.")
        values = reading.upright(values, one.orientation)
        if volume is None:
            volume = np.empty((len(stack.slices), *values.shape), values.dtype)
        volume[place] = values
    assert volume is not None
    return volume


def _check_axes(file: tifffile.TiffFile, label: str) -> None:
    """Raises InputError if a file says that its pages are counted by more than depth."""
    if not any(getattr(file, f"is_{kind}", False) for kind in stacks.LAYOUTS):
        return
    series = [one for one in file.series if one.name not in stacks.BESIDES]
    if len(series) > 1:
        raise InputError(f"{label} holds {len(series)} stacks; save each as a file of its own.")
    lengths = dict(zip(series[0].get_axes(False), series[0].get_shape(False), strict=True))
    counted = {
        axis: length
        for axis, length in lengths.items()
        if axis not in f"{stacks.CHANNELS}YX" and length > 1
    }
    if "T" in counted:
        raise InputError(
            f"{label} has {counted['T']} times; save the volume of each as a file of its own."
        )
    if len(counted) > 1 or not set(counted) <= set(SLICE_AXES):
        raise InputError(
            f"{label} has axes {''.join(lengths)}, which are not a volume; save depth, rows and "
            "columns, and channels if there are several (ZCYX)."
        )


def _spacing(file: tifffile.TiffFile) -> tuple[float, ...] | None:
    """Returns mm along D, H and W, None if the file does not say."""
    sides: tuple[float, ...] = ()
    if file.is_ome and file.ome_metadata:
        pixels = ElementTree.fromstring(file.ome_metadata).find(".//{*}Pixels")
        told = {} if pixels is None else pixels.attrib
        sides = tuple(
            float(told.get(name, 0)) * UNITS.get(told.get(f"{name}Unit", "µm"), 0)
            for name in SPACING.values()
        )
    elif file.is_imagej and file.imagej_metadata:
        told = file.imagej_metadata
        unit = UNITS.get(str(told.get("unit", "")), 0)
        tags = file.pages.first.tags
        across = [tags[name].value for name in ("YResolution", "XResolution") if name in tags]
        if len(across) == 2 and all(numerator for numerator, _ in across):
            sides = (
                float(told.get("spacing", 0)) * unit,
                *(unit * denominator / numerator for numerator, denominator in across),
            )
    known = len(sides) == 3 and all(math.isfinite(side) and side > 0 for side in sides)
    return sides if known else None
