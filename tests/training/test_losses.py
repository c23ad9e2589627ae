"""Losses, against numbers worked out by hand."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tests import rounding
from trainer.errors import InputError
from trainer.training import losses

LOG3 = math.log(3.0)  # the logit of probability 3/4
# Some twelve operations, on numbers up to five times their result.
CLOSE = rounding.tolerance(operations=12, magnitude=5)


def test_one_logit_becomes_zero_and_itself():
    logits = tf.constant([[[[2.0], [-1.0]]]], tf.bfloat16)
    wide = losses.two_class_logits(logits)
    assert wide.dtype == tf.float32
    np.testing.assert_array_equal(wide, [[[[0, 2], [0, -1]]]])


def test_cross_entropy_is_minus_the_logarithm_of_the_probability_of_the_truth():
    logits = tf.constant([[[[LOG3], [LOG3], [0.0]]]])
    values = losses.cross_entropy(tf.constant([[[1, 0, 1]]]), logits)
    expected = [[[-math.log(3 / 4), -math.log(1 / 4), math.log(2)]]]
    np.testing.assert_allclose(values, expected, rtol=CLOSE)


def test_one_logit_equals_two_with_the_same_difference():
    labels = tf.constant([[[1, 0, 1]]])
    valid = tf.ones([1, 1, 3])
    one = tf.constant([[[[2.0], [0.5], [-3.0]]]])
    two = tf.concat([one * 0 + 5.0, one + 5.0], axis=-1)
    for function in (losses.cross_entropy, losses.focal):
        np.testing.assert_allclose(function(labels, one), function(labels, two), rtol=CLOSE)
    for function in (losses.soft_dice, losses.tversky):
        np.testing.assert_allclose(
            function(labels, one, valid), function(labels, two, valid), rtol=CLOSE
        )


def test_focal_scales_cross_entropy_by_the_square_of_the_missing_probability():
    logits = tf.constant([[[[LOG3], [LOG3]]]])
    values = losses.focal(tf.constant([[[1, 0]]]), logits)
    expected = [[[-((1 / 4) ** 2) * math.log(3 / 4), -((3 / 4) ** 2) * math.log(1 / 4)]]]
    np.testing.assert_allclose(values, expected, rtol=CLOSE)


def test_soft_dice_is_that_of_the_hand():
    # Probabilities of class 1: 3/4 and 1/2; truth 1 and 0.
    logits = tf.constant([[[[LOG3], [0.0]]]])
    value = losses.soft_dice(tf.constant([[[1, 0]]]), logits, tf.ones([1, 1, 2]))
    foreground = 2 * (3 / 4) / (9 / 16 + 1 / 4 + 1)
    background = 2 * (1 / 2) / (1 / 16 + 1 / 4 + 1)
    np.testing.assert_allclose(value, [1 - (foreground + background) / 2], rtol=CLOSE)


def test_tversky_is_that_of_the_hand():
    logits = tf.constant([[[[LOG3], [0.0]]]])
    value = losses.tversky(tf.constant([[[1, 0]]]), logits, tf.ones([1, 1, 2]))
    # Class 1: TP 3/4, FP 1/2, FN 1/4. Class 0: TP 1/2, FP 1/4, FN 1/2.
    foreground = 0.75 / (0.75 + 0.3 * 0.5 + 0.7 * 0.25)
    background = 0.5 / (0.5 + 0.3 * 0.25 + 0.7 * 0.5)
    np.testing.assert_allclose(value, [1 - (foreground + background) / 2], rtol=CLOSE)


@pytest.mark.parametrize("function", [losses.soft_dice, losses.tversky])
def test_classes_absent_from_an_image_do_not_count(function):
    # Sure and right everywhere: class 2 occurs nowhere, and must not pull the mean up to 1/3.
    labels = tf.constant([[[0, 1]]])
    logits = 100.0 * tf.one_hot(labels, 3)
    np.testing.assert_allclose(function(labels, logits, tf.ones([1, 1, 2])), [0], atol=CLOSE)


@pytest.mark.parametrize("function", [losses.soft_dice, losses.tversky])
def test_classes_weigh_in_the_mean_over_those_present(function):
    # Class 0 has three of its four pixels and class 1 its own and one more; class 2 is absent.
    labels = tf.constant([[[0, 0, 0, 0, 1]]])
    logits = 100.0 * tf.one_hot([[[0, 0, 0, 1, 1]]], 3)
    valid = tf.ones([1, 1, 5])
    background, cell = (
        1 - function(labels, logits, valid, tf.one_hot(k, 3)).numpy() for k in range(2)
    )
    if function is losses.soft_dice:
        np.testing.assert_allclose([background, cell], [[6 / 7], [2 / 3]], rtol=1e-6)
    else:  # TP 3, FN 1; TP 1, FP 1
        np.testing.assert_allclose([background, cell], [[3 / 3.7], [1 / 1.3]], rtol=1e-6)
    weighted = function(labels, logits, valid, tf.constant([1.0, 3.0, 5.0]))
    np.testing.assert_allclose(weighted, 1 - (background + 3 * cell) / 4, rtol=1e-5)
    alike = function(labels, logits, valid, tf.fill([3], 2.0))
    np.testing.assert_allclose(alike, function(labels, logits, valid), rtol=1e-6)
    assert function(labels, logits, valid, tf.constant([0.0, 0.0, 1.0])) == [0]


@pytest.mark.parametrize("name", losses.LOSSES)
def test_class_weights_change_every_loss(name):
    labels, valid = tf.constant([[[0, 0, 0, 1]]]), tf.ones([1, 1, 4])
    logits = tf.constant([[[[-2.0], [-1.0], [1.0], [-0.5]]]])

    def value(class_weights):
        given = labels, valid, tf.constant(class_weights)
        weights = losses.weights(losses.LOSSES[name], *given)
        return losses.sums(losses.LOSSES[name], labels, logits, *given[1:]) / weights

    assert np.all(np.abs(value([1.0, 9.0]) - value([1.0, 1.0])) > 0.01)


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


@pytest.mark.parametrize("function", [losses.soft_dice, losses.tversky])
def test_invalid_pixels_do_not_count(function):
    labels = tf.constant([[[0, 1, 0]]])
    logits = tf.constant([[[[-1.0], [2.0], [50.0]]]])
    valid = tf.constant([[[1.0, 1.0, 0.0]]])
    expected = function(labels[:, :, :2], logits[:, :, :2], valid[:, :, :2])
    np.testing.assert_allclose(function(labels, logits, valid), expected, rtol=CLOSE)
    np.testing.assert_array_equal(function(labels, logits, 0 * valid), [0])


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
def test_two_halves_of_a_batch_equal_the_whole(name):
    terms = losses.LOSSES[name]
    random = np.random.default_rng(1)
    labels = random.integers(0, 3, (4, 5, 5)).astype(np.int32)
    logits = random.normal(size=(4, 5, 5, 3)).astype(np.float32)
    valid = (random.random((4, 5, 5)) < 0.5).astype(np.float32)
    valid[3] = 0
    class_weights = tf.constant([0.2, 1.0, 3.0])

    def both(part):
        sums = losses.sums(terms, labels[part], logits[part], valid[part], class_weights)
        return sums, losses.weights(terms, labels[part], valid[part], class_weights)

    (first, first_weight), (second, second_weight) = both(slice(0, 1)), both(slice(1, 4))
    whole, whole_weight = both(slice(0, 4))
    apart = rounding.tolerance(operations=4 * 5 * 5 * 3)  # of which all are positive
    np.testing.assert_allclose(first + second, whole, rtol=apart)
    np.testing.assert_allclose(first_weight + second_weight, whole_weight, rtol=apart)


@pytest.mark.parametrize("name", losses.LOSSES)
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
