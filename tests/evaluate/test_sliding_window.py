"""Tiles, their weights, and images put together from them."""

import numpy as np
import pytest

from tests import rounding
from trainer.errors import InputError
from trainer.evaluate import sliding_window


def test_halo_covers_the_receptive_field_of_the_classic_unet():
    # 3×3 kernels, depth 4: 2·(3·16 - 2) + 2·16 = 124 pixels, 128 in multiples of 16.
    assert sliding_window.halo_of(depth=4, kernel_size=3) == 128
    # Depth 1: 2·(3·2 - 2) + 2·2 = 12, a multiple of 2 already.
    assert sliding_window.halo_of(depth=1, kernel_size=3) == 12


def test_tiles_cover_an_axis_and_end_with_it():
    # 64 long tiles, of which 16 at each side and a ramp of 8 overlap, are 24 apart.
    assert sliding_window.starts(128, 64, 16, 8) == [0, 24, 48, 64]
    assert sliding_window.starts(64, 64, 16, 8) == [0]


def test_weights_of_neighbours_are_zero_in_the_halo_and_rise_in_a_ramp():
    weights = sliding_window.ramp(start=8, length=64, tile=32, halo=8, stride=4)
    assert weights[:8].max() == 0
    np.testing.assert_array_equal(weights[8:12], [0.25, 0.5, 0.75, 1])
    np.testing.assert_array_equal(weights, weights[::-1])


def test_an_images_own_edges_count_in_full():
    np.testing.assert_array_equal(sliding_window.ramp(0, 32, 32, 8, 4), np.ones(32))


def test_a_tile_smaller_than_its_halos_is_refused():
    with pytest.raises(InputError) as error:
        sliding_window.starts(512, 64, 128, 16)
    assert str(error.value) == (
        "--tile=64 leaves nothing between halos of 128 pixels; use at least 288."
    )


def test_a_pointwise_prediction_is_put_together_exactly():
    image = np.random.default_rng(0).random((96, 64, 2), np.float32)
    sizes = []

    def predict(parts):
        sizes.append(parts.shape)
        return parts[..., :1] * 2

    result = sliding_window.predict_tiled(
        image, predict, tile=(48, 48), halo=(8, 8), stride=(8, 8), batch_size=4
    )
    rounding.assert_close(result, image[..., :1] * 2, operations=8)  # four tiles and weights
    assert set(sizes) == {(4, 48, 48, 2)}


def test_a_volume_is_put_together_from_boxes():
    # Along the first axis one tile, thinner than the others are wide; along the others 3 and 2.
    volume = np.random.default_rng(0).random((6, 40, 24, 1), np.float32)
    sizes = []

    def predict(parts):
        sizes.append(parts.shape)
        return parts + 1

    result = sliding_window.predict_tiled(
        volume, predict, tile=(8, 16, 16), halo=(2, 4, 4), stride=(2, 4, 4), batch_size=2
    )
    rounding.assert_close(result, volume + 1, operations=8)
    # Tiles of 16 with 4 at each side and a ramp of 4 overlapping are 4 apart: 7 and 3.
    assert sizes == [(2, 6, 16, 16, 1)] * 11
