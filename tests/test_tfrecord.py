"""Tests of the frame around examples: written, read, and found again behind damage."""

import io

import pytest

from trainer.data import tfrecord

# Three records of 12 + n + 4 bytes: at 0 (10 bytes of example), 26 (20) and 62 (30), ending at 108.
EXAMPLES = [b"a" * 10, b"b" * 20, b"c" * 30]
DATA = b"".join(map(tfrecord.frame, EXAMPLES))


def test_what_is_framed_is_read():
    file = io.BytesIO(DATA)
    assert [tfrecord.read(file) for _ in range(4)] == [*EXAMPLES, None]


def changed(*places):
    data = bytearray(DATA)
    for place in places:
        data[place] ^= 1
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "offset", "expected"),
    [
        (changed(15), 0, 26),  # the example
        (changed(24), 0, 26),  # its checksum
        (changed(1), 0, 26),  # the length
        (changed(9), 0, 26),  # its checksum
        (changed(15, 40), 0, 26),  # its length is right, so is the next one's
        (changed(1, 27), 0, 62),
        (changed(1, 27, 63), 0, 108),
        (changed(70), 62, 108),
        (DATA[:90], 62, 90),
        (DATA[:70], 62, 70),
        (DATA[:5] + DATA[8:], 0, 23),  # three bytes are gone
        (DATA[:15] + DATA[18:], 0, 23),
        (DATA[:26] + b"junk" + DATA[26:], 26, 30),
        (DATA[:26] + bytes(1000) + DATA[26:], 26, 1026),
        (DATA[:20] + bytes(40) + DATA[60:], 0, 62),
        (b"junk", 0, 4),
    ],
)
def test_reading_goes_on_at_the_next_sound_record(data, offset, expected):
    assert tfrecord.find_next(data, offset) == expected


def test_a_record_within_a_damaged_example_is_not_taken_for_the_next():
    inner = tfrecord.frame(b"inner")
    data = bytearray(tfrecord.frame(b"x" + inner + b"y") + tfrecord.frame(b"next"))
    data[12] ^= 1
    assert tfrecord.find_next(bytes(data), 0) == 12 + 1 + len(inner) + 1 + 4
