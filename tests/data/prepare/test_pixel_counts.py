"""Tests of counts and sums over pixels."""

import numpy as np
import pytest

from trainer.data.prepare import pixel_counts


def test_statistics_of_large_values_are_exact():
    image = np.full((1000, 1000, 1), 65535, np.uint16)
    image[0, 0] = 0
    found = pixel_counts.of_example(image, np.zeros((1000, 1000), np.uint8), 2)
    assert found.sums == [65535 * 999_999]
    assert found.squares == [65535**2 * 999_999]
    assert found.pixels.tolist() == [1_000_000, 0]


def test_examples_add_up_to_the_moments_of_all_their_pixels():
    mask = np.array([[0, 1], [1, 255]], np.uint8)
    total = pixel_counts.empty(num_classes=2, channels=1)
    for value in (0, 4):
        image = np.full((2, 2, 1), value, np.uint8)
        total.add(pixel_counts.of_example(image, mask, 2))
    assert (total.pixels.tolist(), total.ignored_pixels) == ([2, 4], 2)
    assert total.moments(8) == ((2.0,), (2.0,))  # of four pixels of 0, and four of 4


def test_the_deviation_of_equal_floats_is_no_root_of_a_negative_number():
    image = np.full((3, 3, 1), 0.1, np.float32)
    found = pixel_counts.of_example(image, np.zeros((3, 3), np.uint8), 2)
    (mean,), (deviation,) = found.moments(9)
    assert mean == pytest.approx(0.1, rel=1e-6)
    assert 0 <= deviation < 1e-6
