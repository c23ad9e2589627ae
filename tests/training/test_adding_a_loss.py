"""A loss from outside the package, with parameters: how to add one."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from trainer.training import losses


def squared_error(labels, logits, exponent=2.0):
    """Returns the distance of the truth's probability from 1, to a power: float32 [B, *S]."""
    return (1.0 - tf.exp(-losses.cross_entropy(labels, logits))) ** exponent


BRIER = (
    losses.Term("square", 1.0, squared_error, "pixel"),
    losses.Term("fourth", 0.5, functools.partial(squared_error, exponent=4.0), "pixel"),
    losses.Term("recall", 1.0, functools.partial(losses.tversky, alpha=0.0, beta=1.0), "image"),
)


@pytest.mark.parametrize("space", [(2, 2), (2, 1, 2)])
def test_terms_are_told_apart_by_their_rows_and_take_their_parameters(space):
    # Every probability is 1/2; half of the pixels are of class 1.
    labels = tf.reshape(tf.constant([0, 0, 1, 1]), (1, *space))
    logits, valid = tf.zeros((1, *space, 1)), tf.ones((1, *space))
    sums = losses.sums(BRIER, labels, logits, valid)
    weights = losses.weights(BRIER, labels, valid)
    found = losses.parts(BRIER, (sums / weights).numpy())
    # Of each class TP is 1 and FN is 1: of truth, half is missed.
    assert found == pytest.approx({"square": 1 / 4, "fourth": 1 / 16, "recall": 1 / 2})
    np.testing.assert_array_equal(weights, [4, 4, 1])
