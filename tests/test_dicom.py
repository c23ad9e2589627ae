"""Tests of what is seen in the bytes of DICOM before its decoder; tests_io has the others."""

import struct

import pytest

from trainer.data import dicom, reading
from trainer.errors import InputError


def _element(group, element, kind, data):
    head = struct.pack("<HH", group, element) + kind
    if kind in (b"OW", b"SQ"):
        return head + struct.pack("<HI", 0, len(data)) + data
    return head + struct.pack("<H", len(data)) + data


def _file(*elements):
    syntax = _element(2, 0x10, b"UI", b"1.2.840.10008.1.2.1\0")
    pixels = _element(0x7FE0, 0x10, b"OW", bytes(8))
    return bytes(128) + b"DICM" + syntax + b"".join(elements) + pixels


@pytest.mark.parametrize(
    ("group", "element", "kind"),
    [(0x28, 0x3000, "Modality LUT Sequence"), (0x28, 0x9145, "Pixel Value Transformation")],
)
def test_values_that_a_table_gives_a_meaning_are_refused(group, element, kind):
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0)
    with pytest.raises(InputError) as stop:
        dicom.read_header(_file(_element(group, element, b"SQ", item)), "X")
    assert str(stop.value) == (
        f"X says by a table ({kind}) what its values mean, which is not applied here; apply it, "
        "and save the result with RescaleSlope and RescaleIntercept or as .npy."
    )


def test_what_is_no_dicom_is_damaged():
    with pytest.raises(reading.DamagedError, match="it is not a DICOM file"):
        dicom.read_header(b"\x89PNG", "X")
