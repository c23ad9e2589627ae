"""What is asked of a network from anywhere, and which of its outputs is the prediction."""

import keras
import numpy as np
import pytest

from trainer.errors import InputError
from trainer.models import functional


def outputs_of(structure, size=8, name="net"):
    """Returns a network whose outputs are those of the structure, at 1/1, 1/2, … of the size."""
    images = keras.Input((size, size, 1))
    full = keras.layers.Conv2D(3, 1, name="logits")(images)
    half = keras.layers.AveragePooling2D(2, name="half")(full)
    return keras.Model(images, structure(full, half), name=name)


@pytest.mark.parametrize(
    "structure",
    [
        lambda full, half: full,
        lambda full, half: [full, half],
        lambda full, half: (full, half),
        lambda full, half: {"half": half, "logits": full},
        lambda full, half: {"logits": full},
    ],
)
def test_the_prediction_is_the_only_output_or_the_first_or_the_one_named_logits(structure):
    model = outputs_of(structure)
    predicting = functional.prediction_model(model)
    images = np.ones((1, 8, 8, 1), np.float32)
    assert predicting(images).shape == (1, 8, 8, 3)
    np.testing.assert_array_equal(
        predicting(images), functional.prediction(model(images, training=False))
    )
    assert [layer.name for layer in predicting.layers][-1] == "logits"  # the rest is left out
    assert predicting.layers[-1] is model.get_layer("logits")


def test_a_network_of_one_output_is_its_own_prediction():
    model = outputs_of(lambda full, half: full)
    assert functional.prediction_model(model) is model


def test_strides_are_pixels_to_a_place_of_each_output():
    model = outputs_of(lambda full, half: {"logits": full, "half": half}, size=None)
    # Keras orders the outputs of a dict as they stand in it.
    assert set(functional.strides(model, (6, 8))) == {(1, 1), (2, 2)}
    assert functional.strides(outputs_of(lambda full, half: full, size=None), (6, 8)) == [(1, 1)]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: keras.Sequential(
                [keras.Input((8, 8, 1)), keras.layers.Conv2D(3, 1)], name="net"
            ),
            "The network net is no functional model of one input; "
            "return keras.Model(images, logits).",
        ),
        (
            lambda: outputs_of(lambda full, half: {"full": full, "half": half}),
            "The network has the outputs full, half, and none is named logits; give the full "
            "resolution that name.",
        ),
        (
            lambda: outputs_of(lambda full, half: keras.layers.GlobalAveragePooling2D()(full)),
            "The network net has an output of shape (None, 3); the logits of such data have 2 "
            "spatial axes and 3 channels.",
        ),
        (
            lambda: outputs_of(lambda full, half: [full, half[..., :1]]),
            "The network net has an output of shape (None, 4, 4, 1); the logits of such data have "
            "2 spatial axes and 3 channels.",
        ),
    ],
)
def test_what_is_no_network_for_the_data_is_refused(build, message):
    with pytest.raises(InputError) as error:
        functional.check(build(), 3)
    assert str(error.value) == message


def test_outputs_that_no_labels_fit_are_refused():
    coarse = outputs_of(lambda full, half: [half, full], size=None)
    with pytest.raises(InputError) as error:
        functional.strides(coarse, (8, 8))
    assert str(error.value) == (
        "The network net predicts 4×4 pixels of images of 8×8; give the prediction the size of the "
        "image."
    )
    with pytest.raises(InputError) as error:
        functional.strides(outputs_of(lambda full, half: [full, half], size=None), (7, 8))
    assert str(error.value) == (
        "The network has an output of 3×4 for images of 7×8, which is no whole number of pixels; "
        "use a crop that the strides of all outputs divide."
    )


def test_layers_within_layers_are_found():
    inner = outputs_of(lambda full, half: full, name="inner")
    images = keras.Input((8, 8, 1))
    model = keras.Model(images, keras.layers.ReLU(name="outer")(inner(images)))
    names = [layer.name for layer in functional.layers_of(model)]
    assert names[1] == "inner"
    assert {"logits", "outer"} < set(names)
    flat = outputs_of(lambda full, half: half)
    assert list(functional.layers_of(flat)) == flat.layers
