"""Values that are kept in few bytes."""

import gc
import tracemalloc

import numpy as np
import pytest

from trainer.data.formats.discovery import Source
from trainer.data.packed import Packed


def _source(number):
    path = f"/mnt/a/folder/of/pictures/{number:08}.png"
    return Source(f"{number:08}", path, None, path)


def test_it_is_a_sequence_of_what_it_was_given():
    given = [_source(7), _source(123), "a text", None, (1, 2.5), list(range(5000))]
    packed = Packed(given[:2])
    for value in given[2:]:
        packed.append(value)
    assert list(packed) == given
    assert packed[3:0:-2] == given[3:0:-2]
    assert (len(packed), packed[-1], packed[np.int64(1)]) == (6, given[-1], given[1])
    with pytest.raises(IndexError):
        packed[6]
    assert list(Packed()) == []


def test_long_values_and_arrays_come_back():
    rng = np.random.default_rng(0)
    given = [rng.integers(0, 9, size) for size in (100_000, 3, 50_000)]
    for found, one in zip(Packed(given), given, strict=True):
        np.testing.assert_array_equal(found, one)


def test_files_take_tens_of_bytes_each():
    tracemalloc.start()
    packed = Packed(map(_source, range(2000)))
    gc.collect()
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert size / 2000 < 50
    assert packed[1999] == _source(1999)
