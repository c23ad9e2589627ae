"""TFRecord, the frame around each example: how a record is written, read, and found again.

A record is the example's length (8 bytes), the checksum of those 8 bytes, the example, its
checksum.
"""

import re
import struct
from typing import IO

import google_crc32c

_HEAD = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
_ZEROS = re.compile(rb"\0{4,}")


class DamageError(Exception):
    """Says why a record cannot be read."""


def frame(example: bytes) -> bytes:
    """Returns the record of an example."""
    length = struct.pack("<Q", len(example))
    return b"".join(
        [length, _CHECKSUM.pack(_masked(length)), example, _CHECKSUM.pack(_masked(example))]
    )


def read(file: IO[bytes]) -> bytes | None:
    """Returns the example of the record at a file's position, None at the end of the file.

    Raises:
        DamageError: if a checksum is wrong or the file ends within the record.
    """
    head = file.read(_HEAD.size)
    if not head:
        return None
    if len(head) < _HEAD.size:
        raise DamageError("the file is cut short")
    length, checksum = _HEAD.unpack(head)
    if checksum != _masked(head[:8]):  # before a wrong length asks for terabytes
        raise DamageError("the checksum of a record's length is wrong")
    body = file.read(length + _CHECKSUM.size)
    if len(body) < length + _CHECKSUM.size:
        raise DamageError("the file is cut short")
    example = body[:length]
    if _CHECKSUM.unpack(body[length:])[0] != _masked(example):
        raise DamageError("the checksum of a record is wrong")
    return example


def find_next(data: bytes, offset: int) -> int:
    """Returns where reading can go on after the damaged record at `offset`.

    Where that record's length is known and another, or the end, follows it, this is there. Else it
    is the first place at which a record with both checksums right starts; the end if there is none.
    """
    end = _end_of_record(data, offset)
    if end is not None and (end == len(data) or _end_of_record(data, end) is not None):
        return end
    # Examples are shorter than 4 GB and not empty: the upper half of the length is four zeros, and
    # the lower half, just before them, is not.
    for zeros in _ZEROS.finditer(data, offset + 1):
        first, last = zeros.span()
        for start in range(max(offset + 1, first - 4), min(first, last - 3)):
            if _is_record(data, start):
                return start
    return len(data)


def _end_of_record(data: bytes, start: int) -> int | None:
    """Returns where the record ends, None if the checksum of its length is wrong."""
    head = data[start : start + _HEAD.size]
    if len(head) < _HEAD.size or _HEAD.unpack(head)[1] != _masked(head[:8]):
        return None
    return start + _HEAD.size + _HEAD.unpack(head)[0] + _CHECKSUM.size


def _is_record(data: bytes, start: int) -> bool:
    end = _end_of_record(data, start)
    if end is None or end > len(data):
        return False
    return frame(data[start + _HEAD.size : end - _CHECKSUM.size]) == data[start:end]


def _masked(data: bytes) -> int:
    """Returns TFRecord's checksum: a rotated crc32c, so that files of checksums check well."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
