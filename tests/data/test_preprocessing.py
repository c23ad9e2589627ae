"""Volumes as networks take them: crop, normalisation, grid, and the way back."""

import types

import numpy as np
import pytest

from tests import rounding
from trainer.data import preprocessing
from trainer.data.preprocessing import Preprocessing
from trainer.errors import InputError


def channel(scheme, mean=0.0, std=1.0, low=0.0, high=0.0):
    return types.SimpleNamespace(scheme=scheme, mean=mean, std=std, low=low, high=high)


def one_channel(values):
    return np.array(values, np.float32).reshape(1, 1, -1, 1)


def test_the_box_holds_what_is_nonzero_in_any_channel():
    values = np.zeros((4, 5, 6, 2), np.int16)
    values[1, 2, 3, 0] = 7
    values[2, 2, 5, 1] = -1
    assert preprocessing.nonzero_box(values).tolist() == [[1, 3], [2, 3], [3, 6]]
    assert preprocessing.nonzero_box(0 * values).tolist() == [[0, 4], [0, 5], [0, 6]]


def test_enclosed_zeros_belong_to_the_nonzero_mask():
    values = np.zeros((3, 5, 5, 1))
    values[:, 1:4, 1:4] = 1
    values[1, 2, 2] = 0
    assert preprocessing.nonzero_mask(values).sum() == 27


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        # Clipped to 0, 0, 4 and 6, minus 2, over 4.
        (channel("ct", mean=2, std=4, low=0, high=6), [-0.5, -0.5, 0.5, 1]),
        # Mean 3, deviations -5, -3, 1 and 7: √(84/4).
        (channel("zscore"), np.array([-5, -3, 1, 7]) / 21**0.5),
        # Without the zero: mean 4, deviations -6, 0 and 6: √(72/3).
        (channel("nonzero"), np.array([-6, 0, 0, 6]) / 24**0.5),
        (channel("none"), [-2, 0, 4, 10]),
    ],
)
def test_channels_are_normalised_by_their_scheme(scheme, expected):
    found = preprocessing.normalize(one_channel([-2, 0, 4, 10]), [scheme])
    np.testing.assert_array_equal(found.ravel(), np.array(expected, np.float32))


def test_a_channel_that_does_not_vary_becomes_zero():
    # 0.1 in float32, added up, is not the same number times its count.
    values = np.full((3, 7, 11, 2), 0.1, np.float32)
    found = preprocessing.normalize(values, [channel("zscore"), channel("ct", 0.1, 0, 0, 1)])
    assert not found.any()


def test_small_variations_about_large_values_are_not_lost():
    values = one_channel([2.0**24, 2.0**24 + 2])
    found = preprocessing.normalize(values, [channel("zscore")])
    assert found.ravel().tolist() == [-1, 1]


def test_a_volume_is_cropped_then_normalised_then_resampled():
    values = np.zeros((1, 1, 6, 1), np.int16)
    values[0, 0, 1:3, 0] = (2, 6)
    found = Preprocessing([channel("zscore")], (1.0, 1.0, 0.5)).apply(values, (1, 1, 1))
    assert found.box.tolist() == [[0, 1], [0, 1], [1, 3]]
    assert preprocessing.sides_of(found.box) == (1, 1, 2)
    assert found.values.shape == (1, 1, 4, 1)
    # A spline through -1 and 1 is as steep on both sides, and odd.
    left, right = found.values[0, 0, :2, 0], found.values[0, 0, 2:, 0]
    rounding.assert_close(left, -right[::-1], operations=3)


def test_without_a_spacing_volumes_keep_their_own():
    values = np.arange(24, dtype=np.int16).reshape(2, 3, 4, 1)
    found = Preprocessing([channel("none")], None).apply(values, (9, 1, 1))
    np.testing.assert_array_equal(found.values, values)


def test_a_flat_voxel_is_not_interpolated_along_its_long_side():
    axis = preprocessing.coarse_axis
    assert [axis((1, 1, 3)), axis((1, 1, 3.5)), axis((4, 1, 1)), axis((4, 4, 1))] == [
        *(None, 2, 0, None)
    ]
    # That of the volume comes first, then that of the target.
    assert Preprocessing([], (1, 5, 1)).coarse_axis((4, 1, 1)) == 0
    assert Preprocessing([], (1, 5, 1)).coarse_axis((1, 1, 1)) == 1


def test_the_target_has_as_many_voxels_as_fill_the_volume():
    assert preprocessing.target_shape((10, 10, 1), (2.5, 0.7, 1), (5, 0.7, 9)) == (5, 10, 1)


def test_the_target_spacing_is_the_median_except_along_a_flat_axis_of_few_voxels():
    spacings = np.array([(z, 0.5, 0.6) for z in (2, 3, 4, 5, 6)])
    few, many = np.array([(20, 256, 256)] * 5), np.array([(90, 256, 256)] * 5)
    assert preprocessing.target_spacing(spacings, many) == (4, 0.5, 0.6)
    # A tenth of the way through 2, 3, 4, 5, 6 is at 0.4 of the first step.
    assert preprocessing.target_spacing(spacings, few) == pytest.approx((2.4, 0.5, 0.6))
    # Coarser than the other axes, if by little.
    fine = np.array([(0.5, 1, 1), (0.5, 1, 1), *[(4, 1, 1)] * 4])
    assert preprocessing.target_spacing(fine, np.array([(20, 256, 256)] * 6)) == (1 + 1e-5, 1, 1)


def test_what_is_known_of_the_grid_comes_back_to_the_original():
    rng = np.random.default_rng(0)
    values = np.zeros((9, 8, 10, 1), np.float32)
    values[2:8, 1:7, 3:] = rng.uniform(1, 2, (6, 6, 7, 1))
    preprocess = Preprocessing([channel("none")], (1.0, 1.0, 1.0))
    spacing = (2.0, 1.5, 0.5)
    prepared = preprocess.apply(values, spacing)
    assert prepared.values.shape == (12, 9, 4, 1)

    slabs = ((z, prepared.values[z : z + 5]) for z in range(0, 12, 5))
    parts = preprocess.restore_logits(slabs, prepared.box, spacing)
    slabs = preprocessing.uncrop(parts, prepared.box, values.shape[:3], outside=-1)
    at, found = zip(*slabs, strict=True)
    assert list(at) == np.cumsum([0, *map(len, found)])[:-1].tolist()
    found = np.concatenate(found)
    assert found.shape == values.shape
    np.testing.assert_array_equal(found == -1, values == 0)
    # The mean of uniform noise in [1, 2], smoothed, stays near it.
    assert found[found > 0].mean() == pytest.approx(values[values > 0].mean(), abs=0.05)


def test_a_mask_comes_to_the_grid_of_its_volume():
    values = np.zeros((2, 2, 6, 1))
    values[..., 1:5, :] = 1
    ids = np.zeros((2, 2, 6), np.uint8)
    ids[..., 3:] = 2
    preprocess = Preprocessing([channel("none")], (1.0, 1.0, 0.5))
    box = preprocess.apply(values, (1, 1, 1)).box
    found = preprocess.apply_to_mask(ids, box, (1, 1, 1))
    assert found[0, 0].tolist() == [0, 0, 0, 0, 2, 2, 2, 2]


def test_a_volume_that_gets_too_large_by_its_spacing_is_refused():
    whole = np.array([[0, 10], [0, 20], [0, 30]])
    made = Preprocessing([], (1.0, 0.5, 0.5))
    made.check_size("scan", whole, (1.0, 1.0, 1.0), 10 * 40 * 60)
    with pytest.raises(InputError) as error:
        made.check_size("scan", whole, (1.0, 1.0, 1.0), 10 * 40 * 60 - 1)
    assert str(error.value) == (
        "scan has voxels of 1×1×1 mm, and of 1×0.5×0.5 mm it has 10×40×60, more than "
        "--max_pixels=23999 or 65535 along an axis; correct the spacing in its header or the one "
        "to which it is resampled, or raise --max_pixels."
    )
    with pytest.raises(InputError, match="it has 70000×1×1, more than"):
        made.check_size("scan", np.array([[0, 70], [0, 1], [0, 1]]), (1000.0, 0.5, 0.5), 2**28)
