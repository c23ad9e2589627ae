"""Tests of the frame around examples: written, read, and found damaged."""

import io

import pytest

from trainer.data.dataset import tfrecord

# Three records of 12 + n + 4 bytes: at 0 (10 bytes of example), 26 (20) and 62 (30), ending at 108.
EXAMPLES = [b"a" * 10, b"b" * 20, b"c" * 30]
DATA = b"".join(map(tfrecord.frame, EXAMPLES))


def test_what_is_framed_is_read():
    file = io.BytesIO(DATA)
    assert [tfrecord.read(file) for _ in range(4)] == [*EXAMPLES, None]


def changed(place):
    data = bytearray(DATA)
    data[place] ^= 1
    return bytes(data)


@pytest.mark.parametrize("place", [15, 24])  # the example, its checksum
def test_behind_a_damaged_example_the_next_record_is_read(place):
    file = io.BytesIO(changed(place))
    with pytest.raises(tfrecord.DamageError, match="^the checksum of a record is wrong$"):
        tfrecord.read(file)
    assert tfrecord.read(file) == EXAMPLES[1]


@pytest.mark.parametrize("place", [1, 9])  # the length, its checksum
def test_behind_a_damaged_length_the_place_is_lost(place):
    with pytest.raises(tfrecord.LostPlaceError, match="^the checksum of a record's length is "):
        tfrecord.read(io.BytesIO(changed(place)))


@pytest.mark.parametrize("length", [5, 15, 25])
def test_a_file_that_ends_within_a_record_is_cut_short(length):
    with pytest.raises(tfrecord.LostPlaceError, match="^the file is cut short$"):
        tfrecord.read(io.BytesIO(DATA[:length]))
