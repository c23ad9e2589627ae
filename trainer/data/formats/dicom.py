"""Reads DICOM slices by pydicom: values as they were measured.

pydicom takes files apart and decodes them; what their values mean is applied here, or refused. What
a file says of its size is checked before its pixels are decoded.
"""

import logging
import os
import re
import types
from collections.abc import Sequence
from typing import Any

import numpy as np

from trainer.data.formats import dicom_codecs, reading
from trainer.errors import InputError

PHOTOMETRICS = (
    *("MONOCHROME1", "MONOCHROME2", "RGB"),
    *("YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT"),
)
SYNTAXES = (
    "1.2.840.10008.1.2",  # little endian, its types implicit
    "1.2.840.10008.1.2.1",  # and explicit
    "1.2.840.10008.1.2.2",  # big endian
    "1.2.840.10008.1.2.5",  # run lengths
    *dicom_codecs.SYNTAXES,
)
LOSSY = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 81, 91))


def import_pydicom(label: str) -> types.ModuleType:
    """Returns pydicom, which then writes nothing to stderr: its exceptions say enough.

    Args:
        label: what needs it, for the message.

    Raises:
        InputError: it is not installed.
    """
    pydicom = reading.import_medical("pydicom", label)
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    return pydicom


def is_slice(path: str) -> bool:
    """Whether a local file is a DICOM file: by its name or, if that has no suffix, its content."""
    name = os.path.basename(path)
    if name.lower().endswith(".dcm"):
        return True
    if re.search(r"\.\D", name) or name == "DICOMDIR" or not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_tags(path: str, label: str, names: Sequence[str]) -> Any:
    """Returns some elements of a file as a pydicom dataset, without its pixels.

    Raises:
        InvalidDicomError: it is not a DICOM file; see `reading.translate_errors`.
    """
    pydicom = import_pydicom(label)
    return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(names))


def read_image(path: str, label: str, max_pixels: int) -> np.ndarray:
    """Returns the measured values of an image.

    MONOCHROME1 is inverted, so that bright is large; but not if it is rescaled, to a unit.

    Args:
        path: of a local file.
        label: what messages call it.
        max_pixels: the most pixels, height × width, that are decoded.

    Returns:
        [H, W] or [H, W, 3]: integers as they are stored or, rescaled, float64.

    Raises:
        UnreadableError: the file is damaged.
        InputError: it is too large, or of a kind that is not read.
    """
    with reading.translate_errors(label):
        dataset = _opened(path, label)
        _check(dataset, label, max_pixels)
        return _values(dataset)


def read_mask(path: str, label: str, max_pixels: int) -> np.ndarray:
    """Returns the values of a mask; see `read_image`. Those that are not exact are refused."""
    with reading.translate_errors(label):
        dataset = _opened(path, label)
        _check(dataset, label, max_pixels)
        if dataset.file_meta.TransferSyntaxUID in LOSSY:
            raise InputError(
                f"{label} has lossy compression, which changes class values; save masks without."
            )
        if dataset.PhotometricInterpretation == "MONOCHROME1":
            raise InputError(
                f"{label} is MONOCHROME1, in which 0 is white; save masks as MONOCHROME2."
            )
        return _values(dataset)


def _opened(path: str, label: str) -> Any:
    """Returns the dataset of a file, whose pixels are not decoded yet."""
    pydicom = import_pydicom(label)
    try:
        syntax = pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID")
    except pydicom.errors.InvalidDicomError:
        syntax = None
    if not syntax:
        raise reading.DamagedError("it is not a DICOM file")
    if syntax not in SYNTAXES:  # such as deflate, which is inflated without a limit
        raise InputError(
            f"{label} has transfer syntax {syntax}, which is not read; convert it to Explicit VR "
            "Little Endian."
        )
    return pydicom.dcmread(path)


def _check(dataset: Any, label: str, max_pixels: int) -> None:
    """Checks by its header whether an image can be read."""
    if "PixelData" not in dataset:
        raise reading.DamagedError("it has no pixels, or is cut short before them")
    rows, columns, samples = (
        _whole(dataset, name) for name in ("Rows", "Columns", "SamplesPerPixel")
    )
    reading.check_size(label, rows, columns, max_pixels, samples)
    photometric, frames = dataset.get("PhotometricInterpretation"), dataset.get("NumberOfFrames")
    if photometric not in PHOTOMETRICS:
        raise InputError(
            f"{label} has photometric interpretation {photometric}, which is not read; convert it "
            "to MONOCHROME2 or RGB."
        )
    if frames not in (None, "", 1):
        raise InputError(f"{label} has {frames} frames; save each as a file.")
    if dataset.get("HighBit") != _whole(dataset, "BitsStored") - 1:
        raise InputError(
            f"{label} stores its {dataset.BitsStored} bits up to bit {dataset.get('HighBit')}, "
            "which is not read; have them begin with bit 0."
        )


def _values(dataset: Any) -> np.ndarray:
    from pydicom import pixels

    dicom_codecs.register()
    is_ours = dataset.file_meta.TransferSyntaxUID in dicom_codecs.SYNTAXES
    stored = pixels.pixel_array(
        dataset,
        decoding_plugin=dicom_codecs.LABEL if is_ours else "",
        allow_excess_frames=False,
    )
    part = _with_transformation(dataset)
    slope, intercept = _factor(part, "RescaleSlope", 1), _factor(part, "RescaleIntercept", 0)
    has_table = bool(part.get("ModalityLUTSequence"))
    is_rescaled = has_table or (slope, intercept) != (1, 0)
    if dataset.PhotometricInterpretation == "MONOCHROME1" and not is_rescaled:
        largest = 2**dataset.BitsStored - 1 if stored.dtype.kind == "u" else -1
        stored = stored.dtype.type(largest) - stored
    if has_table:
        return pixels.apply_modality_lut(stored, part)
    return stored.astype(np.float64) * slope + intercept if is_rescaled else stored


def _with_transformation(dataset: Any) -> Any:
    """Returns the part of a dataset of one frame that defines how values are rescaled."""
    for name in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        for group in dataset.get(name) or ():
            for part in group.get("PixelValueTransformationSequence") or ():
                return part
    return dataset


def _whole(dataset: Any, name: str) -> int:
    value = dataset.get(name)
    if not isinstance(value, int) or value < 1:
        raise reading.DamagedError(f"its {name} is {value!r}")
    return value


def _factor(part: Any, name: str, default: float) -> float:
    value = part.get(name)
    try:
        return default if value in (None, "") else float(value)
    except (TypeError, ValueError):
        raise reading.DamagedError(f"its {name} is {value!r}") from None
