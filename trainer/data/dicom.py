"""Reads DICOM slices through tensorflow-io, whose decoder is DCMTK.

DCMTK decodes for display: it shifts signed values, rounds those that it rescales or turns, draws
overlays into the pixels, and makes up what a file that was cut short lacks. Here values are as they
were measured: it is given the file without rescaling and with black as 0, and what is left out is
then done exactly; what else it would change or make up is refused.
"""

import dataclasses
import re
import struct

import numpy as np

from trainer.data import reading
from trainer.errors import InputError
from trainer.stores import files

# Group and element of what is read, as tensorflow-io takes them.
TAGS = {
    "samples": 0x00280002,
    "photometric": 0x00280004,
    "frames": 0x00280008,
    "rows": 0x00280010,
    "columns": 0x00280011,
    "bits_allocated": 0x00280100,
    "bits_stored": 0x00280101,
    "signed": 0x00280103,
    "intercept": 0x00281052,
    "slope": 0x00281053,
}
OVERLAYS = [0x60000010 + (group << 17) for group in range(16)]  # their rows: groups 6000 … 601E

PHOTOMETRICS = ("MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL", "YBR_FULL_422")
UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")
LOSSLESS = (
    *UNCOMPRESSED,
    "1.2.840.10008.1.2.5",  # run lengths
    "1.2.840.10008.1.2.4.57",  # JPEG
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80",  # JPEG-LS
    "1.2.840.10008.1.2.4.90",  # JPEG 2000
)
LOSSY = (
    "1.2.840.10008.1.2.4.50",  # JPEG
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.81",  # JPEG-LS
    "1.2.840.10008.1.2.4.91",  # JPEG 2000, which may be lossless as well
)

# Elements by their bytes: the tag; the type, which implicit syntax leaves out; the length.
_SYNTAX = re.compile(rb"\x02\x00\x10\x00UI..([0-9.]+)", re.DOTALL)
_PIXELS = re.compile(rb"\xe0\x7f\x10\x00(?:O[BW]\x00\x00)?(.{4})", re.DOTALL)
_RESCALE = re.compile(rb"\x28\x00([\x52\x53])\x10(?:DS(..)|(..)\x00\x00)", re.DOTALL)
# Sequences that hold at least an item: (0028,3000) and, of frames that may be one, (0028,9145).
_TABLES = re.compile(rb"\x28\x00(\x00\x30|\x45\x91)(?:SQ\x00\x00)?.{4}\xfe\xff\x00\xe0", re.DOTALL)
_END_OF_FRAGMENTS = b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"
_UNKNOWN_LENGTH = 0xFFFFFFFF


@dataclasses.dataclass(frozen=True)
class Header:
    """What a file says of its image.

    Attributes:
        rows: height.
        columns: width.
        frames: number of images.
        photometric: what values mean, by DICOM's word.
        transfer_syntax: how they are encoded, by its UID.
        bits_allocated: of each value in the file.
        bits_stored: of these, those that count.
        signed: whether they are a two's complement.
        slope: of the rescaling from stored values to measured ones.
        intercept: likewise.
        has_overlay: whether drawings lie over the image.
        pixels_at: byte at which the element with the pixels begins.
    """

    rows: int
    columns: int
    frames: int
    photometric: str
    transfer_syntax: str
    bits_allocated: int
    bits_stored: int
    signed: bool
    slope: float
    intercept: float
    has_overlay: bool
    pixels_at: int

    @property
    def is_rescaled(self) -> bool:
        """Whether measured values are not the stored ones."""
        return (self.slope, self.intercept) != (1, 0)


def read_header(data: bytes, label: str) -> Header:
    """Returns what a file says of its image.

    Raises:
        DamagedError: with the reason, if it is damaged or no DICOM file with an image.
        InputError: if its encoding is not read, or tensorflow-io is missing.
    """
    syntax = _SYNTAX.search(data, 132)
    if data[128:132] != b"DICM" or not syntax:
        raise reading.DamagedError("it is not a DICOM file")
    transfer_syntax = syntax[1].decode()
    if transfer_syntax not in (*LOSSLESS, *LOSSY):
        raise InputError(
            f"{label} has transfer syntax {transfer_syntax}, which is not read; convert it to "
            "Explicit VR Little Endian."
        )
    pixels_at, length = _find_pixels(data)
    if table := _TABLES.search(data, 0, pixels_at):
        kind = "Modality LUT Sequence" if table[1] == b"\x00\x30" else "Pixel Value Transformation"
        raise InputError(
            f"{label} says by a table ({kind}) what its values mean, which is not applied here; "
            "apply it, and save the result with RescaleSlope and RescaleIntercept or as .npy."
        )
    texts = _tags(data, [*TAGS.values(), *OVERLAYS], label)
    found = dict(zip(TAGS, texts, strict=False))
    if not (found["rows"] and found["columns"]):
        raise reading.DamagedError("it says no image size")
    header = Header(
        rows=int(_number(found["rows"])),
        columns=int(_number(found["columns"])),
        frames=int(_number(found["frames"] or "1")),
        photometric=found["photometric"],
        transfer_syntax=transfer_syntax,
        bits_allocated=int(_number(found["bits_allocated"])),
        bits_stored=int(_number(found["bits_stored"])),
        signed=found["signed"] == "1",
        slope=_number(found["slope"] or "1"),
        intercept=_number(found["intercept"] or "0"),
        has_overlay=any(texts[len(TAGS) :]),
        pixels_at=pixels_at,
    )
    samples = 2 if header.photometric == "YBR_FULL_422" else int(_number(found["samples"]))
    bits = header.rows * header.columns * header.frames * samples * header.bits_allocated
    if transfer_syntax in UNCOMPRESSED and length * 8 < bits:
        raise reading.DamagedError(f"it has {length} bytes of pixels where {-(-bits // 8)} belong")
    return header


def _find_pixels(data: bytes) -> tuple[int, int]:
    """Returns where the element with the pixels begins, and how many bytes they have.

    An icon may have pixels too, but before; what looks like pixels within pixels is passed over.
    """
    found, end = None, 0
    while match := _PIXELS.search(data, end):
        (length,) = struct.unpack("<I", match[1])
        if length == _UNKNOWN_LENGTH:
            last = data.find(_END_OF_FRAGMENTS, match.end())
            end = last + len(_END_OF_FRAGMENTS) if last >= 0 else len(data) + 1
        else:
            end = match.end() + length
        if end > len(data):
            raise reading.DamagedError("it is cut short")
        found = match.start(), end - match.end()
    if found is None:
        raise reading.DamagedError("it has no pixels, or is cut short before them")
    return found


def check_image(header: Header, label: str) -> None:
    """Raises InputError if an image is of a kind that is not read, or not without change."""
    if header.photometric not in PHOTOMETRICS:
        raise InputError(
            f"{label} has photometric interpretation {header.photometric}, which is not read; "
            "convert it to MONOCHROME2 or RGB."
        )
    if header.frames != 1:
        raise InputError(f"{label} has {header.frames} frames; save each as a file.")
    if header.has_overlay:
        raise InputError(
            f"{label} has an overlay, which would be drawn into its pixels; remove the groups 6000 "
            "to 601E."
        )


def check_mask(header: Header, label: str) -> None:
    """Raises InputError if a mask is of a kind that is not read, or has no exact values."""
    check_image(header, label)
    if header.transfer_syntax in LOSSY:
        raise InputError(
            f"{label} has lossy compression, which changes class values; save masks without."
        )
    if header.photometric == "MONOCHROME1":
        raise InputError(f"{label} is MONOCHROME1, in which 0 is white; save masks as MONOCHROME2.")


def decode(data: bytes, header: Header, label: str) -> np.ndarray:
    """Returns the measured values of an image that `check_image` lets pass.

    MONOCHROME1 is turned, so that bright is large; but not if it is rescaled, to a unit.

    Returns:
        [H, W] or [H, W, 3]: unsigned integers if the file has them and no rescaling, else int64
        or, rescaled, float64.

    Raises:
        DamagedError: with the reason, if the pixels are damaged.
    """
    if header.is_rescaled or header.photometric == "MONOCHROME1":
        data = _made_plain(data, header.pixels_at, label)
    stored = _stored(data, header, label)
    if header.photometric == "MONOCHROME1" and not header.is_rescaled:
        stored = stored.dtype.type(2**header.bits_stored - 1) - stored
    values = stored.astype(np.int64) - 2 ** (header.bits_stored - 1) if header.signed else stored
    return values * header.slope + header.intercept if header.is_rescaled else values


def _stored(data: bytes, header: Header, label: str) -> np.ndarray:
    """Returns the stored values; signed ones from 0 on, for there is no dtype for them."""
    import tensorflow as tf  # see the docstring of `files`

    dtypes = {8: tf.uint8, 16: tf.uint16, 32: tf.uint32}
    decode_image = files.import_tensorflow_io(label).image.decode_dicom_image
    dtype = dtypes[max(8, header.bits_allocated)]
    try:
        frames = decode_image(data, color_dim=True, on_error="strict", dtype=dtype).numpy()
    except tf.errors.InvalidArgumentError:
        raise reading.DamagedError(
            f"its pixels, of transfer syntax {header.transfer_syntax}, cannot be decoded"
        ) from None
    if frames.shape[:3] != (1, header.rows, header.columns):
        raise reading.DamagedError("its pixels are not as many as it says")
    return frames[0, ..., 0] if frames.shape[3] == 1 else frames[0]


def _made_plain(data: bytes, pixels_at: int, label: str) -> bytes:
    """Returns the file as MONOCHROME2 of slope 1 and intercept 0, each of as many letters."""
    changed = bytearray(data)
    for match in _RESCALE.finditer(data, 0, pixels_at):
        (length,) = struct.unpack("<H", match[2] or match[3])
        number = b"1" if match[1] == b"\x53" else b"0"
        changed[match.end() : match.end() + length] = number.ljust(length)
    plain = changed[:pixels_at].replace(b"MONOCHROME1", b"MONOCHROME2") + changed[pixels_at:]
    names = ("slope", "intercept", "photometric")
    slope, intercept, photometric = _tags(bytes(plain), [TAGS[name] for name in names], label)
    if (_number(slope or "1"), _number(intercept or "0")) != (1, 0) or photometric == "MONOCHROME1":
        raise reading.DamagedError("its rescaling is not where it belongs")
    return bytes(plain)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise reading.DamagedError(f"it has {text!r} where a number belongs") from None


def _tags(data: bytes, tags: list[int], label: str) -> list[str]:
    image = files.import_tensorflow_io(label).image
    texts = image.decode_dicom_data(data, np.array(tags, np.uint32)).numpy()
    return [text.decode("latin-1").strip() for text in texts]
