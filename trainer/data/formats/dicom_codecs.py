"""Decodes the compressed pixels of DICOM by imagecodecs, as a plugin of pydicom.

Pillow, which pydicom finds by itself, reads neither lossless JPEG nor JPEG-LS, which scanners
write; of pydicom's other plugins one is under the GPL. imagecodecs has all of them and is here for
TIFF. An image gets an array of the size that its header says, so a codestream of another size is
refused before it is decoded.
"""

import struct
import threading
from typing import Any

import imagecodecs
import numpy as np

from trainer.data.formats import reading

LABEL = "imagecodecs"
JPEG = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70))
JPEG_LS = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (80, 81))
JPEG_2000 = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (90, 91))
SYNTAXES = (*JPEG, *JPEG_LS, *JPEG_2000)
_REGISTERING = threading.Lock()
_SIZE_OF_JPEG_2000 = struct.Struct(">4x4xIIII")  # behind its first two markers: SOC and SIZ


def register() -> None:
    """Adds these codecs to pydicom's, once; threads may call it at the same time."""
    from pydicom.pixels import get_decoder

    with _REGISTERING:
        for decoder in map(get_decoder, SYNTAXES):
            if LABEL not in decoder.available_plugins:
                decoder.add_plugin(LABEL, (__name__, decode_frame.__name__))


def is_available(syntax: str) -> bool:
    """Says to pydicom whether a transfer syntax is decoded here."""
    return syntax in SYNTAXES


def decode_frame(data: bytes, runner: Any) -> bytes:
    """Returns the samples of a frame, colour by pixel, as pydicom takes them.

    Args:
        data: the codestream.
        runner: pydicom's `DecodeRunner`, which knows the header and gets the result.

    Raises:
        DamagedError: the codestream has another size than the header.
    """
    shape: tuple[int, ...] = (runner.rows, runner.columns)
    if runner.samples_per_pixel > 1:
        shape += (runner.samples_per_pixel,)
    if runner.transfer_syntax in JPEG_2000:
        values = _jpeg_2000(data, shape)
        if runner.photometric_interpretation in ("YBR_RCT", "YBR_ICT"):
            runner.set_option("photometric_interpretation", "RGB")
    else:
        out = np.empty(shape, np.uint8 if runner.bits_stored <= 8 else np.uint16)
        if runner.transfer_syntax in JPEG_LS:
            values = imagecodecs.jpegls_decode(data, out=out)
        else:  # as they are stored: pydicom converts colours by the header
            kind = None if len(shape) == 2 else "RGB"
            values = imagecodecs.jpeg8_decode(data, colorspace=kind, outcolorspace=kind, out=out)
    runner.set_option("bits_allocated", 8 * values.dtype.itemsize)
    runner.set_option("planar_configuration", 0)
    return values.tobytes()


def _jpeg_2000(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Decodes JPEG 2000, whose decoder looks at the size of its array only when it is done."""
    start = max(0, data.find(b"\xff\x4f\xff\x51"))
    right, bottom, left, top = _SIZE_OF_JPEG_2000.unpack_from(data, start)
    if (bottom - top, right - left) == shape[:2]:
        values = imagecodecs.jpeg2k_decode(data)
        if values.shape == shape:
            return values
    raise reading.DamagedError("its codestream has another size than its header says")
