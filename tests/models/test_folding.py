"""Folding: what it folds, and what it must leave."""

import keras
import numpy as np
import pytest

from tests import rounding
from trainer.models import fold, norms


def shared_norm(x):
    norm = keras.layers.BatchNormalization()
    return keras.layers.Add()([norm(keras.layers.Conv2D(3, 1)(x)), norm(x)])


def shared_convolution(x):
    convolution = keras.layers.Conv2D(3, 1)
    return keras.layers.Add()([norms.normalize(convolution(x), "batch"), convolution(2.0 * x)])


def output_before_the_norm(x):
    x = keras.layers.Conv2D(3, 1, name="logits")(x)
    return [x, keras.layers.BatchNormalization()(x)]


def folded_pair(x):
    return keras.layers.BatchNormalization()(keras.layers.Conv2D(3, 1)(x))


@pytest.mark.parametrize(
    ("build", "left"),
    [(shared_norm, 1), (shared_convolution, 1), (output_before_the_norm, 1), (folded_pair, 0)],
)
def test_a_folded_network_computes_the_same_outputs(build, left):
    images = keras.Input((None, None, 3))
    model = keras.Model(images, build(images))
    model.build((None, 8, 8, 3))
    values = np.random.default_rng(0)
    model.set_weights([values.uniform(0.5, 1.5, w.shape) for w in model.get_weights()])
    folded = fold(model)
    inputs = values.normal(size=(1, 8, 8, 3)).astype(np.float32)
    pairs = zip(keras.tree.flatten(folded(inputs)), keras.tree.flatten(model(inputs)), strict=True)
    for found, expected in pairs:
        rounding.assert_close(found, expected, operations=10)
    remaining = [x for x in folded.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert len(remaining) == left
