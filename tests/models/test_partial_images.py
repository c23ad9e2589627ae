"""Images that fill a part of their tensor: the results that they have in one of their own size."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import rounding
from trainer import config, models
from trainer.models import build, channel_packing, partial_images

# Of four images in one tensor: one fills it, one a row or a column of it, one only a corner.
PARTS = np.array([(2, 3), (1, 3), (2, 1), (1, 1)])


def drawn(model):
    """Gives a network weights none of which is special."""
    random = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(variable + random.normal(size=variable.shape) * 0.1)
    for variable in model.non_trainable_variables:
        variable.assign(variable + random.uniform(size=variable.shape) * 0.1)
    return model


def assert_same(model, lane_width=1, turn=lambda images: images, side=16):
    """Asserts that each image has the results that it has alone, and that it matters.

    Args:
        model: a network.
        lane_width: see `channel_packing.packed`.
        turn: turns images, and undoes it.
        side: by which those of PARTS are multiplied.
    """
    assert partial_images.is_known(model)
    sizes = side * PARTS
    shape = len(sizes), *sizes[0], model.inputs[0].shape[-1]
    images = tf.random.stateless_normal(shape, (0, 0)) + 1.0  # what is beyond is no zero
    inside = turn(partial_images.inside(images, tf.constant(sizes, tf.int32)))
    forward = tf.function(channel_packing.predicting(model, lane_width), autograph=False)
    found = turn(forward(turn(images), inside=inside))
    unlike = turn(model(turn(images), training=False))
    for n, (height, width) in enumerate(sizes.tolist()):
        here = np.s_[n : n + 1, :height, :width]
        expected = turn(model(turn(images[here]), training=False)).numpy()
        rounding.assert_close(found[here], expected, rounding.operations_of(model))
        if n:
            assert np.abs(unlike[here] - expected).max() > 1e-2 * np.abs(expected).max()


@pytest.mark.parametrize(
    "options",
    [
        {"norm": "batch", "activation": "silu"},
        {"norm": "instance"},
        {"norm": "group", "residual": True, "dropout": 0.3},
        {"norm": "none", "attention": True},
        {"upsampling": "bilinear", "kernel_size": 5},
        {"encoder_blocks": (1, 2, 1), "strides": [(1, 2), 2]},
        {"build": models.MODELS["unet_plus_plus"]},
    ],
)
@pytest.mark.parametrize("lane_width", [1, pytest.param(16, marks=pytest.mark.slow)])
def test_an_image_has_the_results_that_it_has_alone(options, lane_width):
    build_network = {"build": models.build_unet, **options}["build"]
    options = {name: value for name, value in options.items() if name != "build"}
    shape = {"input_shape": (None, None, 2), "n_filters": 4, "num_classes": 3, "depth": 2}
    model = drawn(build_network(**{**shape, **options}))
    assert_same(model, lane_width)
    assert_same(model, lane_width, turn=lambda images: tf.reverse(images, (1, 2)))


# Zeros padded by a layer of their own, a pooling of what they are put around, and the mean over an
# image; padding by the convolution, and a mean; layers of Keras without a public name.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet50", "efficientnetb0", "convnexttiny"])
def test_so_it_has_of_an_encoder(name):
    settings = config.Model(encoder=name, filters=4)
    assert_same(drawn(build.build_model(settings, 3, 2)), side=32)


def test_an_image_of_which_nothing_is_there_gives_numbers():
    model = drawn(models.build_unet((None, None, 1), 4, depth=1, norm="instance"))
    inside = tf.zeros((1, 8, 8, 1), tf.bool)
    found = channel_packing.predicting(model)(tf.ones((1, 8, 8, 1)), inside=inside)
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: [keras.layers.MaxPooling2D(3, 2, padding="same")],  # pads with what is no largest
        lambda: [keras.layers.AveragePooling2D(3, 1, padding="same")],  # counts what it has
        lambda: [keras.layers.Conv2D(1, 3, padding="valid")],  # gives fewer pixels
        lambda: [keras.layers.ZeroPadding2D(1), keras.layers.Activation("relu")],
        lambda: [keras.layers.Lambda(lambda x: x)],
        lambda: [keras.Sequential([keras.Input((None, None, 1)), keras.layers.Conv2D(1, 1)])],
    ],
)
def test_a_layer_of_other_results_is_not_known(make):
    x = images = keras.Input((None, None, 1))
    for layer in make():
        x = layer(x)
    assert not partial_images.is_known(keras.Model(images, x))
