"""A volume from the slices of a DICOM series: their order and grid by where each says it is."""

import dataclasses
import os
from typing import Any

import numpy as np

from trainer.data import geometry
from trainer.data.formats import dicom, reading
from trainer.data.formats.volume_header import Header
from trainer.errors import InputError

TAGS = (
    *("SeriesInstanceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
    *("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "PixelRepresentation"),
    *("NumberOfFrames", "SliceThickness", "PhotometricInterpretation"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
)
EVEN = 0.1  # of the distance of two slices, by which one may be off: positions are rounded text
STRAIGHT = 0.5  # of a pixel, by which the last slice may have drifted sideways from the first


@dataclasses.dataclass(frozen=True)
class Series:
    """The slices of a volume, first to last along its axis D, and what their headers say."""

    paths: tuple[str, ...]
    header: Header


def find(folder: str, label: str) -> Series:
    """Returns the series in a local folder.

    Args:
        folder: that holds it; files that are not DICOM do not count.
        label: what messages call it.

    Raises:
        InputError: the slices are not one volume; see `reading.translate_errors` for the others.
    """
    paths = [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
    paths = [path for path in paths if dicom.is_slice(path)]
    if not paths:
        raise reading.DamagedError("it holds no DICOM files")
    slices = {path: dicom.read_tags(path, label, TAGS) for path in paths}
    first = next(iter(slices.values()))
    _check_alike(slices, label)
    axes = _numbers(first, "ImageOrientationPatient", 6, label).reshape(2, 3)
    normal = np.cross(axes[0], axes[1])
    places = {path: _numbers(one, "ImagePositionPatient", 3, label) for path, one in slices.items()}
    order = sorted(places, key=lambda path: float(places[path] @ normal))
    rows, columns = _numbers(first, "PixelSpacing", 2, label)
    steps = np.array([places[path] for path in order])
    distance = _distance(steps, normal, min(rows, columns), label)
    if distance is None:
        distance = float(first.get("SliceThickness") or 1.0)
    grid = geometry.Geometry(
        (distance, float(rows), float(columns)),
        tuple(steps[0].tolist()),
        tuple(np.stack([*axes, normal], axis=1).ravel().tolist()),
    )
    shape = (len(order), int(first.Rows), int(first.Columns))
    dtype = _dtype(slices.values())
    return Series(tuple(order), Header(shape, int(first.SamplesPerPixel), dtype, grid))


def read(series: Series, label: str, is_mask: bool) -> np.ndarray:
    """Returns the values of a series, [D, H, W, C], in the dtype of its header.

    Raises:
        UnreadableError: a slice is damaged.
        InputError: a slice is of a kind that is not read; see `trainer.data.formats.dicom`.
    """
    header = series.header
    read_slice = dicom.read_mask if is_mask else dicom.read_image
    values = np.empty((*header.shape, header.channels), header.dtype)
    for place, path in enumerate(series.paths):
        one = read_slice(path, f"{label}/{os.path.basename(path)}", values[0].size)
        values[place] = one.reshape(values.shape[1:])
    return values


def _check_alike(slices: dict[str, Any], label: str) -> None:
    """Raises InputError if slices are of several series, sizes or directions."""
    first = next(iter(slices.values()))
    series = {str(one.get("SeriesInstanceUID")) for one in slices.values()}
    if len(series) > 1:
        raise InputError(
            f"{label} holds slices of {len(series)} series ({', '.join(sorted(series)[:2])} …); "
            "keep each series in a folder of its own."
        )
    for path, one in slices.items():
        where = f"{label}/{os.path.basename(path)}"
        if one.get("NumberOfFrames") not in (None, "", 1):
            raise InputError(
                f"{where} has {one.NumberOfFrames} frames; convert it to NIfTI (dcm2niix), or save "
                "each frame as a file."
            )
        for name in ("Rows", "Columns", "SamplesPerPixel", "PixelSpacing"):
            if name not in one:
                raise reading.DamagedError(f"{os.path.basename(path)} has no {name}")
            if one.get(name) != first.get(name):
                raise InputError(
                    f"{where} has {name} {one.get(name)}, and others {first.get(name)}; keep what "
                    "is one volume in a folder of its own."
                )
        turned = _numbers(one, "ImageOrientationPatient", 6, label) - _numbers(
            first, "ImageOrientationPatient", 6, label
        )
        if np.abs(turned).max() > geometry.TOLERANCE:
            raise InputError(
                f"{where} lies in another direction (ImageOrientationPatient) than other slices; "
                "keep what is one volume in a folder of its own."
            )


def _distance(steps: np.ndarray, normal: np.ndarray, pixel: float, label: str) -> float | None:
    """Returns the mm between slices, None for a single one.

    Args:
        steps: float64 [D, 3], where they are, in order.
        normal: unit vector.
        pixel: mm of the smaller side of a pixel.
        label: what messages call the series.

    Raises:
        InputError: they are not evenly spaced along the normal.
    """
    if len(steps) == 1:
        return None
    along = (steps - steps[0]) @ normal
    gaps = np.diff(along)
    usual = float(np.median(gaps))
    if gaps.min() <= EVEN * usual or usual <= 0:
        raise InputError(
            f"{label} has several slices at one place (phases, echoes or copies); keep one of each "
            "in a folder of its own."
        )
    distance = float(along[-1]) / len(gaps)
    off = np.abs(along - distance * np.arange(len(steps)))
    if off.max() > EVEN * distance:
        worst = int(gaps.argmax())
        raise InputError(
            f"{label} has slices {usual:.4g} mm apart, but {gaps[worst]:.4g} mm between its "
            f"{worst + 1}. and {worst + 2}.; add what is missing, or resample it evenly."
        )
    drift = steps[-1] - steps[0] - along[-1] * normal
    if np.linalg.norm(drift) > STRAIGHT * pixel:
        raise InputError(
            f"{label} has slices that move sideways by {np.linalg.norm(drift):.3g} mm (a tilted "
            "gantry); resample it to a straight grid."
        )
    return distance


def _dtype(slices: Any) -> np.dtype:
    """Returns the type that holds the values of all: float32 where one is rescaled."""
    kinds = set()
    for one in slices:
        scale = (float(one.get("RescaleSlope") or 1), float(one.get("RescaleIntercept") or 0))
        if scale != (1, 0) or one.get("ModalityLUTSequence"):
            return np.dtype(np.float32)
        letter = "i" if one.get("PixelRepresentation") else "u"
        kinds.add(f"{letter}{max(8, int(one.get('BitsAllocated') or 16)) // 8}")
    return np.dtype(kinds.pop()) if len(kinds) == 1 else np.dtype(np.float32)


def _numbers(one: Any, name: str, count: int, label: str) -> np.ndarray:
    """Returns an element that is a list of numbers, which a volume needs."""
    value = one.get(name)
    try:
        numbers = np.array([float(number) for number in value], np.float64)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise InputError(
            f"{label} has a slice whose {name} is {value}; a volume needs to know where each "
            "slice lies: convert it to NIfTI, or remove that file."
        )
    return numbers
