"""The multiplications of networks, counted by hand."""

import keras
import pytest

from trainer import models
from trainer.errors import InputError
from trainer.preflight import arithmetic


def test_the_arithmetic_of_a_network_is_that_of_its_convolutions_in_three_passes():
    images = keras.Input((None, None, 2))
    x = keras.layers.Conv2D(4, 3, padding="same")(images)
    x = keras.layers.Activation("relu")(x)
    x = keras.layers.Conv2DTranspose(3, 2, strides=2)(x)
    x = keras.layers.Conv2D(5, 3, strides=2, padding="valid")(x)
    network = keras.Model(images, x)
    # 4×4 pixels to 4×4, each of them to four, and 8×8 to 3×3.
    products = 16 * 9 * 2 * 4 + 16 * 4 * 4 * 3 + 9 * 9 * 3 * 5
    assert arithmetic.training_flops(network, (4, 4, 2), 1) == 3 * 2 * products
    assert arithmetic.training_flops(network, (4, 4, 2), 7) == 7 * 3 * 2 * products


def test_the_arithmetic_of_an_encoder_within_a_network_counts():
    images = keras.Input((None, None, 2))
    encoder = keras.Model(
        images, keras.layers.DepthwiseConv2D(3, strides=2, padding="same")(images)
    )
    network = keras.Model(images, keras.layers.Conv2D(3, 1)(encoder(images)))
    # 2×2 pixels, each of 9 products for each of two channels, and of 2×3.
    assert arithmetic.training_flops(network, (4, 4, 2), 1) == 3 * 2 * (4 * 9 * 2 + 4 * 2 * 3)


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.EinsumDense("bhwc,cd->bhwd", (8, 8, 3), name="own"),
        keras.layers.SeparableConv2D(3, 3, name="own"),  # whose kernels have other names
    ],
)
def test_a_layer_whose_arithmetic_is_not_known_is_refused_in_a_line(layer):
    images = keras.Input((8, 8, 2))
    with pytest.raises(InputError) as error:
        arithmetic.training_flops(keras.Model(images, layer(images)), (8, 8, 2), 1)
    assert str(error.value) == (
        f"Layer own: the arithmetic of a {type(layer).__name__} is not known; build the network of "
        "convolutions, depthwise and transposed ones, and dense layers, or add the class to "
        "trainer/preflight/arithmetic.py."
    )


@pytest.mark.parametrize("name", models.MODELS)
def test_the_arithmetic_of_every_model_is_known(name):
    model = models.MODELS[name]((None, None, 2), 4, 1, depth=1)
    assert arithmetic.training_flops(model, (16, 16, 2), 3) > 0
