"""Volumes on another grid: numbers by hand, scipy's zoom, and slab by slab as at once."""

import numpy as np
import pytest
from scipy import ndimage

from tests import rounding
from trainer.data import resampling
from trainer.ignore_label import IGNORE


def volume(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def line(values):
    return np.array(values, np.float32).reshape(1, 1, -1, 1)


def test_linear_values_lie_between_voxel_centres_and_ends_are_repeated():
    # Of 4 new voxels on 2, the centres are at -1/4, 1/4, 3/4 and 5/4.
    found = resampling.resample(line([0, 8]), (1, 1, 4), order=1)
    assert found.ravel().tolist() == [0, 2, 6, 8]
    # Of 2 on 3, at 1/4 and 7/4.
    assert resampling.resample(line([0, 4, 8]), (1, 1, 2), order=1).ravel().tolist() == [1, 7]


def test_the_nearest_voxel_is_the_one_that_the_centre_is_in():
    # Of 5 new voxels on 3, the centres are at 0.3, 0.9, 1.5, 2.1 and 2.7, counted in voxels.
    found = resampling.resample(line([1, 2, 3]), (1, 1, 5), order=0)
    assert found.ravel().tolist() == [1, 1, 2, 3, 3]


@pytest.mark.parametrize("shape", [(9, 7, 20), (4, 15, 11), (1, 11, 13)])
def test_cubic_values_are_those_of_scipys_zoom(shape):
    values = volume(6, 11, 13, 2)
    found = resampling.resample(values, shape, order=3)
    factors = [new / old for new, old in zip(shape, values.shape, strict=False)]
    expected = np.stack(
        [
            ndimage.zoom(
                values[..., c].astype(np.float64), factors, order=3, mode="nearest", grid_mode=True
            )
            for c in range(2)
        ],
        axis=-1,
    )
    # Three axes, each rounded to float32; of what scipy repeats beyond the ends, 0.27^12 is left.
    np.testing.assert_allclose(found, expected, rtol=0, atol=rounding.tolerance(3, 4) + 1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize("order", [0, 1, 3])
def test_a_constant_stays_a_constant_and_an_equal_grid_the_same_numbers(order):
    constant = np.full((3, 4, 5, 1), 0.1, np.float32)
    np.testing.assert_array_equal(
        resampling.resample(constant, (7, 2, 9), order), np.full((7, 2, 9, 1), 0.1, np.float32)
    )
    values = volume(3, 4, 5, 1)
    assert resampling.resample(values, (3, 4, 5), order) is values


def test_slices_of_a_coarse_axis_are_repeated_and_not_mixed():
    values = volume(2, 5, 6, 1)
    found = resampling.resample(values, (4, 7, 6), order=3, coarse_axis=0)
    in_plane = resampling.resample(values, (2, 7, 6), order=3)
    np.testing.assert_array_equal(found, in_plane[[0, 0, 1, 1]])


def test_parts_of_any_size_give_the_same_numbers(monkeypatch):
    values = volume(5, 6, 7, 2)
    expected = resampling.resample(values, (7, 9, 5), order=3)
    monkeypatch.setattr(resampling, "CHUNK_BYTES", 1)
    np.testing.assert_array_equal(resampling.resample(values, (7, 9, 5), order=3), expected)


def test_a_mask_takes_the_class_with_the_largest_share():
    # The new centres 1/4 and 7/4 are nearer to the first and the last voxel.
    ids = np.array([[[2, IGNORE, 1]]], np.uint8)
    assert resampling.resample_mask(ids, (1, 1, 2)).ravel().tolist() == [2, 1]
    # Half way between two voxels (1/2 and 5/2), both have half: the lower id.
    ids = np.array([[[3, 1, IGNORE, 0]]], np.uint8)
    assert resampling.resample_mask(ids, (1, 1, 2)).ravel().tolist() == [1, 0]
    # A line of one voxel between others is not lost where its share is the largest.
    ids = np.array([[[0, 5, 0]]], np.uint8)
    assert resampling.resample_mask(ids, (1, 1, 9)).ravel().tolist() == [0, 0, 0, 5, 5, 5, 0, 0, 0]


@pytest.mark.parametrize("coarse_axis", [None, 0, 2])
@pytest.mark.parametrize("depth", [3, 9, 20])
def test_slabs_are_resampled_as_the_whole_is(depth, coarse_axis, monkeypatch):
    values, shape = volume(9, 5, 4, 2), (depth, 7, 6)
    monkeypatch.setattr(resampling, "CHUNK_BYTES", 8 * 5 * 4 * 2 * 3)  # three slices at a time
    slabs = [(0, values[:1]), (1, values[1:2]), (2, values[2:7]), (7, values[7:])]
    found = list(resampling.resample_slabs(iter(slabs), 9, shape, coarse_axis))
    assert [first for first, _ in found] == np.cumsum([0, *(len(one) for _, one in found)])[
        :-1
    ].tolist()
    expected = resampling.resample(values, shape, 1, coarse_axis)
    rounding.assert_close(np.concatenate([one for _, one in found]), expected, operations=3)


def test_slabs_come_as_soon_as_they_are_known():
    taken = []

    def slabs():
        for z in range(4):
            taken.append(z)
            yield z, np.full((1, 1, 1, 1), z, np.float32)

    # Of 8 slices on 4, centres are at -1/4, 1/4 | 3/4, 5/4 | 7/4, 9/4 | 11/4, 13/4.
    found = resampling.resample_slabs(slabs(), 4, (8, 1, 1))
    first, values = next(found)
    assert (first, values.ravel().tolist(), taken) == (0, [0], [0])
    first, values = next(found)
    assert (first, values.ravel().tolist(), taken) == (1, [0.25, 0.75], [0, 1])
