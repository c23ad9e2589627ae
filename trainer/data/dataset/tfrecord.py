"""TFRecord: how the frame around each example is written and read, and an example is written.

A record is the example's length (8 bytes), the checksum of those 8 bytes, the example, its
checksum.
"""

import struct
from collections.abc import Mapping
from typing import IO

import google_crc32c

_HEAD = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")


class DamageError(Exception):
    """Says why a record cannot be read."""


class LostPlaceError(DamageError):
    """Says so where the next record cannot be found either."""


def frame(example: bytes) -> bytes:
    """Returns the record of an example."""
    length = struct.pack("<Q", len(example))
    return b"".join(
        [length, _CHECKSUM.pack(_masked(length)), example, _CHECKSUM.pack(_masked(example))]
    )


def read(file: IO[bytes]) -> bytes | None:
    """Returns the example of the record at a file's position, None at the end of the file.

    Raises:
        DamageError: the example's checksum is wrong; the file is at the next record then.
        LostPlaceError: the length's checksum is wrong, or the file ends within the record.
    """
    head = file.read(_HEAD.size)
    if not head:
        return None
    if len(head) < _HEAD.size:
        raise LostPlaceError("the file is cut short")
    length, checksum = _HEAD.unpack(head)
    if checksum != _masked(head[:8]):  # before a wrong length asks for terabytes
        raise LostPlaceError("the checksum of a record's length is wrong")
    body = file.read(length + _CHECKSUM.size)
    if len(body) < length + _CHECKSUM.size:
        raise LostPlaceError("the file is cut short")
    example = body[:length]
    if _CHECKSUM.unpack(body[length:])[0] != _masked(example):
        raise DamageError("the checksum of a record is wrong")
    return example


def _masked(data: bytes) -> int:
    """Returns TFRecord's checksum: a rotated crc32c, so that files of checksums check well."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def serialize(features: Mapping[str, bytes | int]) -> bytes:
    """Returns a `tf.train.Example` of single values, features in the order given.

    Every field of these messages is a protocol buffer's length-delimited one: Example.features is
    1, the entries of the map Features.feature are 1 (key 1, value 2), and a Feature holds a
    bytes_list (1) or an int64_list (3), whose values are 1.
    """
    entries = b""
    for name, value in features.items():
        feature = (
            _field(3, _field(1, _varint(value)))
            if isinstance(value, int)
            else _field(1, _field(1, value))
        )
        entries += _field(1, _field(1, name.encode()) + _field(2, feature))
    return _field(1, entries)


def _field(number: int, payload: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])
