"""Tiles, their weights, and images put together from them."""

import numpy as np
import pytest
import tensorflow as tf

from tests import rounding
from trainer import config
from trainer.errors import InputError
from trainer.evaluate import sliding_window
from trainer.models import build


def test_halo_covers_the_receptive_field_of_the_classic_unet():
    # 3×3 kernels, depth 4: 2·(3·16 - 2) + 2·16 = 124 pixels, 128 in multiples of 16.
    assert sliding_window.halo_of(config.Model(depth=4).levels(rank=2)) == (128, 128)
    # Depth 1: 2·(3·2 - 2) + 2·2 = 12, a multiple of 2 already.
    assert sliding_window.halo_of(config.Model(depth=1).levels(rank=2)) == (12, 12)


def test_halo_along_each_axis_is_that_of_its_strides_and_kernels():
    # Down and up, two convolutions each: 4 half kernels at the top and below, 2 at the bottom.
    # Axis 1: 0 at the top, 1 at 1 pixel a place, 1 at 2: 4·1 + 2·2 + 2·2 = 12.
    # Axis 2: 1 at 1 pixel a place, 1 at 2, 1 at 4: 4·1 + 4·2 + 2·4 + 2·4 = 28.
    network = config.Model(depth=2, strides="1,2/2", kernels="1,3/3/3")
    assert sliding_window.halo_of(network.levels(rank=2)) == (12, 28)
    # A kernel of 2 reaches one pixel to the right: as far as one of 3.
    assert sliding_window.halo_of(config.Model(depth=1, kernel_size=2).levels(rank=2)) == (12, 12)


def test_halo_covers_what_the_residual_encoder_sees():
    # 3×3 kernels: 4 convolutions at 1 pixel a place, 7 at 2, 8 at 4: 50, and twice the stride.
    network = config.Model(
        depth=2, filters=2, model="residual_encoder_unet", norm="none", activation="silu"
    )
    (halo, _) = sliding_window.halo_of(network.levels(rank=2))
    assert halo == 60
    model = build.build_model(network, 1, 2)
    images = tf.zeros((1, 256, 256, 1))
    with tf.GradientTape() as tape:
        tape.watch(images)
        logit = model(images)[0, 130, 130, 0]
    rows = np.flatnonzero(np.any(tape.gradient(logit, images)[0] != 0, axis=(1, 2)))
    assert 130 - halo <= rows.min() < 130 < rows.max() <= 130 + halo


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


def test_windows_are_evenly_spread_and_at_most_half_a_window_apart():
    assert list(sliding_window.window_weights(40, 40)) == [0]
    assert list(sliding_window.window_weights(100, 40)) == [0, 20, 40, 60]
    # 50 more than a window take three steps of at most 20: of 50/3.
    assert list(sliding_window.window_weights(90, 40)) == [0, 17, 33, 50]


def test_windows_count_by_a_normal_distribution_about_their_middle():
    # Two windows of 16 on 24: deviation 2, so where one's middle is 3.5 away, the other's is 4.5.
    first, second = sliding_window.window_weights(24, 16).values()
    e = [np.exp(-0.5 * (away / 2) ** 2) for away in (3.5, 4.5)]
    assert first[11] == np.float32(e[0] / sum(e))
    np.testing.assert_array_equal(first[:8], np.ones(8))
    rounding.assert_close(first[8:] + second[:8], np.ones(8), operations=2)
    assert first.min() > 0


@pytest.mark.parametrize("batch_size", [1, 5])
def test_slabs_of_windows_come_in_order_and_are_the_whole(batch_size):
    volume = np.random.default_rng(0).random((30, 5, 20, 2), np.float32)
    sizes = []

    def predict(parts):
        sizes.append(parts.shape)
        return parts[..., :1] * 2

    found = sliding_window.predict_windows(volume, predict, box=(12, 8, 12), batch_size=batch_size)
    first, slab = next(found)
    # Along the first axis windows begin at 0, 6, 12 and 18: 6 slices are done when the second
    # comes. The second axis is mirrored up to 8. Along the third there are 0, 4 and 8.
    assert (first, slab.shape) == (0, (6, 5, 20, 1))
    assert len(sizes) == {1: 4, 5: 1}[batch_size]
    slabs = [(first, slab), *found]
    assert [first for first, _ in slabs] == [0, 6, 12, 18]
    whole = np.concatenate([slab for _, slab in slabs])
    rounding.assert_close(whole, volume[..., :1] * 2, operations=8)
    assert set(sizes) == {(batch_size, 12, 8, 12, 2)}


def test_a_volume_smaller_than_a_window_is_mirrored_as_training_crops_are():
    seen = []

    def predict(parts):
        seen.append(parts)
        return parts

    volume = np.arange(3, dtype=np.float32).reshape(1, 1, 3, 1)
    ((_, found),) = sliding_window.predict_windows(volume, predict, box=(2, 2, 6), batch_size=1)
    assert seen[0][0, 1, 1, :, 0].tolist() == [0, 1, 2, 1, 0, 1]
    np.testing.assert_array_equal(found, volume)
