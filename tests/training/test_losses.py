"""Losses, against numbers worked out by hand."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tests import rounding
from trainer.errors import InputError
from trainer.training import losses

# Some twelve operations, on numbers up to five times their result.
CLOSE = rounding.tolerance(operations=12, magnitude=5)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_class_weights_change_every_loss(name):
    labels, valid = tf.constant([[[0, 0, 1, 2]]]), tf.ones([1, 1, 4])
    logits = tf.constant([[[[2.0, 0, 0], [1.0, 0, 0], [1.0, 0, 1.0], [0, 0, 0.5]]]])

    def value(class_weights):
        given = labels, valid, tf.constant(class_weights)
        weights = losses.weights(losses.LOSSES[name], *given)
        return losses.sums(losses.LOSSES[name], labels, logits, *given[1:]) / weights

    changes = np.abs(value([1.0, 9.0, 1.0]) - value([1.0, 1.0, 1.0]))
    coefficients = [term.coefficient for term in losses.LOSSES[name]]
    assert np.all(changes > 0.01 * np.array(coefficients))


def test_the_terms_of_every_loss_have_names_of_their_own():
    for terms in losses.LOSSES.values():
        assert list(losses.parts(terms, range(len(terms)))) == [term.name for term in terms]
    # By which metrics.jsonl has reported them since 0.1.0.
    assert [term.name for term in losses.LOSSES["ce_dice"]] == ["cross_entropy", "soft_dice"]


def test_two_terms_of_one_function_are_told_apart():
    sharp = losses.Term("sharp", 1.0, losses.tversky, "image")
    soft = losses.Term("soft", 2.0, losses.tversky, "image")
    assert losses.parts((sharp, soft), [0.5, 0.25]) == {"sharp": 0.5, "soft": 0.25}
    with pytest.raises(AssertionError, match="two terms of one name"):
        losses.parts((sharp, sharp), [0.5, 0.25])


@pytest.mark.parametrize("name", losses.LOSSES)
@pytest.mark.parametrize("scale", [0.0, 1e4])
@pytest.mark.parametrize("channels", [1, 3])
def test_gradients_are_finite(name, scale, channels):
    terms = losses.LOSSES[name]
    labels = tf.constant([[[0, 1], [1, 0]], [[0, 0], [0, 0]]])
    valid = tf.constant([[[1.0, 1.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]])
    logits = tf.Variable(scale * np.random.default_rng(0).normal(size=(2, 2, 2, channels)))
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(losses.sums(terms, labels, logits, valid))
    assert np.isfinite(total)
    assert np.all(np.isfinite(tape.gradient(total, logits)))


def test_weights_count_valid_pixels_and_images_that_have_any():
    labels = tf.constant([[[0, 1, 1]], [[0, 0, 0]]])
    valid = tf.constant([[[1.0, 1.0, 0.0]], [[0.0, 0.0, 0.0]]])
    terms = losses.LOSSES["ce_dice"]
    np.testing.assert_array_equal(losses.weights(terms, labels, valid), [2, 1])
    weighted = losses.weights(terms, labels, valid, tf.constant([0.5, 3.0]))
    np.testing.assert_array_equal(weighted, [3.5, 1])


def test_sums_weigh_pixels_by_their_class():
    labels = tf.constant([[[0, 1, 1]]])
    logits = tf.zeros([1, 1, 3, 1])  # cross-entropy log 2 each
    valid = tf.constant([[[1.0, 1.0, 0.0]]])
    total = losses.sums(
        losses.LOSSES["cross_entropy"], labels, logits, valid, tf.constant([0.5, 3.0])
    )
    np.testing.assert_allclose(total, [3.5 * math.log(2)], rtol=CLOSE)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_two_halves_of_a_split_equal_the_whole(name):
    terms = losses.LOSSES[name]
    random = np.random.default_rng(1)
    labels = random.integers(0, 3, (4, 5, 5)).astype(np.int32)
    logits = random.normal(size=(4, 5, 5, 3)).astype(np.float32)
    valid = (random.random((4, 5, 5)) < 0.5).astype(np.float32)
    valid[3] = 0
    class_weights = tf.constant([0.2, 1.0, 3.0])

    def found(part):
        batch = labels[part], logits[part], valid[part], class_weights
        return losses.statistics(terms, *batch).numpy()

    whole = found(slice(None))
    assert len(whole) == losses.num_statistics(terms, 3)
    apart = rounding.tolerance(operations=4 * 5 * 5 * 3, magnitude=np.abs(whole).max())
    np.testing.assert_allclose(found(slice(0, 1)) + found(slice(1, 4)), whole, atol=apart)
    # In a batch of all, a loss is that of its training step.
    sums = losses.sums(terms, labels, logits, valid, class_weights)
    weights = losses.weights(terms, labels, valid, class_weights)
    values = losses.values(terms, whole, 3, class_weights)
    np.testing.assert_allclose(values, sums / weights, atol=apart)


def test_a_loss_of_nothing_is_0():
    for terms in losses.LOSSES.values():
        nothing = np.zeros(losses.num_statistics(terms, 2))
        assert losses.values(terms, nothing, 2) == [0] * len(terms)


# Distances are none of planes side by side.
@pytest.mark.parametrize("name", [name for name in losses.LOSSES if "boundary" not in name])
def test_a_volume_has_the_loss_of_its_planes_side_by_side(name):
    terms = losses.LOSSES[name]
    random = np.random.default_rng(1)
    labels = random.integers(0, 3, (2, 3, 4, 5)).astype(np.int32)
    logits = random.normal(size=(2, 3, 4, 5, 3)).astype(np.float32)
    valid = (random.random((2, 3, 4, 5)) < 0.5).astype(np.float32)
    flat = [x.reshape(2, 12, *x.shape[3:]) for x in (labels, logits, valid)]
    apart = rounding.tolerance(operations=2 * 3 * 4 * 5 * 3)
    ours, theirs = losses.sums(terms, labels, logits, valid), losses.sums(terms, *flat)
    np.testing.assert_allclose(ours, theirs, rtol=apart)
    weights = losses.weights(terms, labels, valid)
    np.testing.assert_array_equal(weights, losses.weights(terms, flat[0], flat[2]))


def test_coarse_labels_are_those_of_the_pixels_nearest_to_a_place():
    labels = tf.reshape(tf.range(32), (1, 4, 8))
    # Of two pixels the second; of four, the third.
    found, valid = losses.coarse(labels, tf.ones((1, 4, 8)), (2, 4))
    assert found.numpy().tolist() == [[[10, 14], [26, 30]]]
    assert valid.shape == (1, 2, 2)
    assert losses.coarse(labels, valid, (1, 1)) == (labels, valid)


def test_outputs_count_by_their_resolution():
    assert losses.output_weights([(1, 1)]) == [1]
    assert losses.output_weights([(2, 2), (1, 1)]) == [1 / 3, 2 / 3]
    assert losses.output_weights([(1, 1, 1), (1, 2, 2), (2, 4, 4)]) == [4 / 7, 2 / 7, 1 / 7]


def test_the_loss_of_several_outputs_is_the_mean_that_their_resolutions_weigh():
    # Of one logit 0 the cross-entropy is log 2; the coarse output is sure and right: 0.
    labels, valid = tf.ones((1, 2, 2), tf.int32), tf.ones((1, 2, 2))
    outputs = {"half": tf.fill((1, 1, 1, 1), 100.0), "logits": tf.zeros((1, 2, 2, 1))}
    terms = losses.LOSSES["cross_entropy"]
    value = losses.partial_losses(terms, [[1.0], [4.0]], labels, outputs, valid)
    np.testing.assert_allclose(value, [2 / 3 * math.log(2)], rtol=CLOSE)


def test_losses_are_float32_of_bfloat16_logits():
    labels, valid = tf.zeros([1, 2, 2], tf.int32), tf.ones([1, 2, 2])
    logits = tf.ones([1, 2, 2, 1], tf.bfloat16)
    for terms in losses.LOSSES.values():
        assert losses.sums(terms, labels, logits, valid).dtype == tf.float32


def test_balanced_class_weights_give_every_class_the_same_share():
    assert losses.balanced_class_weights([90, 10]) == [100 / 180, 5.0]
    # An absent class weighs nothing, and the mean over pixels stays 1.
    assert losses.balanced_class_weights([30, 0, 10]) == [40 / 60, 0.0, 2.0]


def test_balanced_class_weights_need_pixels():
    with pytest.raises(InputError) as error:
        losses.balanced_class_weights([0, 0])
    assert str(error.value) == (
        "class_weights=balanced needs labelled pixels, and the training split has none;"
        " use class_weights=none or check the masks."
    )


def test_class_weights_are_one_each_unless_balanced():
    np.testing.assert_array_equal(losses.class_weights("none", [90, 10]), [1, 1])
    np.testing.assert_allclose(losses.class_weights("balanced", [90, 10]), [5 / 9, 5])
