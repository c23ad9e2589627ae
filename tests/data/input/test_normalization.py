"""Tests of normalisation by numbers that a reader can work out."""

import numpy as np
import pytest
import tensorflow as tf

from tests import rounding
from trainer.data.input.normalization import NORMALIZATIONS, normalize

CLOSE = rounding.tolerance(operations=12)  # sums of four pixels, a root and a division
NO_MEAN, NO_STD = (0.0, 0.0), (1.0, 1.0)


def test_image_gives_each_channel_zero_mean_and_unit_variance():
    image = np.array([[[1, 10], [3, 10]], [[1, 30], [3, 30]]], np.uint8)
    values = normalize(image, "image", NO_MEAN, NO_STD).numpy()
    np.testing.assert_allclose(values[..., 0], [[-1, 1], [-1, 1]], atol=CLOSE)
    np.testing.assert_allclose(values[..., 1], [[-1, -1], [1, 1]], atol=CLOSE)


def test_a_constant_channel_becomes_zero():
    image = np.full([37, 41, 2], 0.1, np.float32)
    np.testing.assert_array_equal(normalize(image, "image", NO_MEAN, NO_STD), 0 * image)
    np.testing.assert_array_equal(normalize(image, "dataset", (0.1, 0.1), (0, 0)), 0 * image)


def test_small_variations_about_a_large_value_are_kept():
    image = (60000 + np.arange(10000) % 2).astype(np.uint16).reshape(100, 100, 1)
    values = normalize(image, "image", (0,), (1,)).numpy()
    signs = np.sign(values)
    assert set(np.unique(signs)) == {-1, 1}
    rounding.assert_close(values, signs, operations=2 * 10_000)


def test_images_of_a_batch_are_normalised_each_by_itself():
    images = np.random.default_rng(0).integers(0, 255, (3, 9, 8, 2)).astype(np.uint8)
    together = normalize(images, "image", NO_MEAN, NO_STD).numpy()
    for image, values in zip(images, together, strict=True):
        alone = normalize(image, "image", NO_MEAN, NO_STD).numpy()
        rounding.assert_close(values, alone, operations=2 * 9 * 8)
        rounding.assert_close(values.std((0, 1)), np.ones(2), operations=4 * 9 * 8)


def test_dataset_uses_the_figures_of_the_training_split():
    image = np.array([[[10, 10]]], np.uint8)
    assert normalize(image, "dataset", (4, 10), (3, 5)).numpy().tolist() == [[[2, 0]]]


@pytest.mark.parametrize(
    ("dtype", "expected"), [("uint8", 51 / 255), ("uint16", 51 / 65535), ("float32", 51.0)]
)
def test_none_scales_integers_by_their_range_only(dtype, expected):
    image = tf.cast(tf.fill([2, 2, 1], 51), dtype)
    values = normalize(image, "none", (7,), (7,)).numpy()
    np.testing.assert_allclose(values, expected, rtol=CLOSE)


@pytest.mark.parametrize("kind", NORMALIZATIONS)
def test_the_result_is_float32_and_keeps_static_channels_in_a_graph(kind):
    @tf.function(input_signature=[tf.TensorSpec([None, None, 2], tf.uint16)])
    def in_graph(image):
        values = normalize(image, kind, NO_MEAN, NO_STD)
        assert values.shape.as_list() == [None, None, 2]
        return values

    image = np.random.default_rng(0).integers(0, 65535, (5, 4, 2)).astype(np.uint16)
    values = in_graph(image)
    assert values.dtype == tf.float32
    rounding.assert_close(values, normalize(image, kind, NO_MEAN, NO_STD).numpy(), 2 * 5 * 4)
