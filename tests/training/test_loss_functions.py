"""What losses are made of, against numbers worked out by hand."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tests import rounding
from trainer.training import loss_functions as functions

LOG3 = math.log(3.0)  # the logit of probability 3/4
# Some twelve operations, on numbers up to five times their result.
CLOSE = rounding.tolerance(operations=12, magnitude=5)


def test_one_logit_becomes_zero_and_itself():
    logits = tf.constant([[[[2.0], [-1.0]]]], tf.bfloat16)
    wide = functions.two_class_logits(logits)
    assert wide.dtype == tf.float32
    np.testing.assert_array_equal(wide, [[[[0, 2], [0, -1]]]])


def test_cross_entropy_is_minus_the_logarithm_of_the_probability_of_the_truth():
    logits = tf.constant([[[[LOG3], [LOG3], [0.0]]]])
    values = functions.cross_entropy(tf.constant([[[1, 0, 1]]]), logits)
    expected = [[[-math.log(3 / 4), -math.log(1 / 4), math.log(2)]]]
    np.testing.assert_allclose(values, expected, rtol=CLOSE)


def test_one_logit_equals_two_with_the_same_difference():
    labels = tf.constant([[[1, 0, 1]]])
    valid = tf.ones([1, 1, 3])
    one = tf.constant([[[[2.0], [0.5], [-3.0]]]])
    two = tf.concat([one * 0 + 5.0, one + 5.0], axis=-1)
    for function in (functions.cross_entropy, functions.focal):
        np.testing.assert_allclose(function(labels, one), function(labels, two), rtol=CLOSE)
    for function in (functions.soft_dice, functions.tversky):
        np.testing.assert_allclose(
            function(labels, one, valid), function(labels, two, valid), rtol=CLOSE
        )


def test_focal_scales_cross_entropy_by_the_square_of_the_missing_probability():
    logits = tf.constant([[[[LOG3], [LOG3]]]])
    values = functions.focal(tf.constant([[[1, 0]]]), logits)
    expected = [[[-((1 / 4) ** 2) * math.log(3 / 4), -((3 / 4) ** 2) * math.log(1 / 4)]]]
    np.testing.assert_allclose(values, expected, rtol=CLOSE)


def test_soft_dice_is_that_of_the_hand():
    # Probabilities of class 1: 3/4 and 1/2; truth 1 and 0.
    logits = tf.constant([[[[LOG3], [0.0]]]])
    value = functions.soft_dice(tf.constant([[[1, 0]]]), logits, tf.ones([1, 1, 2]))
    foreground = 2 * (3 / 4) / (9 / 16 + 1 / 4 + 1)
    background = 2 * (1 / 2) / (1 / 16 + 1 / 4 + 1)
    np.testing.assert_allclose(value, [1 - (foreground + background) / 2], rtol=CLOSE)


def test_tversky_is_that_of_the_hand():
    logits = tf.constant([[[[LOG3], [0.0]]]])
    value = functions.tversky(tf.constant([[[1, 0]]]), logits, tf.ones([1, 1, 2]))
    # Class 1: TP 3/4, FP 1/2, FN 1/4. Class 0: TP 1/2, FP 1/4, FN 1/2.
    foreground = 0.75 / (0.75 + 0.3 * 0.5 + 0.7 * 0.25)
    background = 0.5 / (0.5 + 0.3 * 0.25 + 0.7 * 0.5)
    np.testing.assert_allclose(value, [1 - (foreground + background) / 2], rtol=CLOSE)


@pytest.mark.parametrize("function", [functions.soft_dice, functions.tversky])
def test_classes_absent_from_an_image_do_not_count(function):
    # Sure and right everywhere: class 2 occurs nowhere, and must not pull the mean up to 1/3.
    labels = tf.constant([[[0, 1]]])
    logits = 100.0 * tf.one_hot(labels, 3)
    np.testing.assert_allclose(function(labels, logits, tf.ones([1, 1, 2])), [0], atol=CLOSE)


@pytest.mark.parametrize("function", [functions.soft_dice, functions.tversky])
def test_classes_weigh_in_the_mean_over_those_present(function):
    # Class 0 has three of its four pixels and class 1 its own and one more; class 2 is absent.
    labels = tf.constant([[[0, 0, 0, 0, 1]]])
    logits = 100.0 * tf.one_hot([[[0, 0, 0, 1, 1]]], 3)
    valid = tf.ones([1, 1, 5])
    background, cell = (
        1 - function(labels, logits, valid, tf.one_hot(k, 3)).numpy() for k in range(2)
    )
    if function is functions.soft_dice:
        np.testing.assert_allclose([background, cell], [[6 / 7], [2 / 3]], rtol=1e-6)
    else:  # TP 3, FN 1; TP 1, FP 1
        np.testing.assert_allclose([background, cell], [[3 / 3.7], [1 / 1.3]], rtol=1e-6)
    weighted = function(labels, logits, valid, tf.constant([1.0, 3.0, 5.0]))
    np.testing.assert_allclose(weighted, 1 - (background + 3 * cell) / 4, rtol=1e-5)
    alike = function(labels, logits, valid, tf.fill([3], 2.0))
    np.testing.assert_allclose(alike, function(labels, logits, valid), rtol=1e-6)
    assert function(labels, logits, valid, tf.constant([0.0, 0.0, 1.0])) == [0]


@pytest.mark.parametrize("function", [functions.soft_dice, functions.tversky])
def test_invalid_pixels_do_not_count(function):
    labels = tf.constant([[[0, 1, 0]]])
    logits = tf.constant([[[[-1.0], [2.0], [50.0]]]])
    valid = tf.constant([[[1.0, 1.0, 0.0]]])
    expected = function(labels[:, :, :2], logits[:, :, :2], valid[:, :, :2])
    np.testing.assert_allclose(function(labels, logits, valid), expected, rtol=CLOSE)
    np.testing.assert_array_equal(function(labels, logits, 0 * valid), [0])


def test_linear_dice_is_nnunets_formula_over_the_foreground():
    # Probabilities of class 1: 3/4 and 1/2; truth 1 and 0. The background does not count.
    logits = tf.constant([[[[LOG3], [0.0]]]])
    value = functions.linear_dice(tf.constant([[[1, 0]]]), logits, tf.ones([1, 1, 2]))
    dice = (2 * 0.75 + 1e-5) / (0.75 + 0.5 + 1 + 1e-5)
    np.testing.assert_allclose(value, [1 - dice], rtol=CLOSE)


def test_linear_dice_counts_absent_classes_and_ignores_invalid_pixels():
    # Classes 1 and 2 of three: 1 is right, 2 occurs nowhere and has the probability 1 in a pixel.
    labels, logits = tf.constant([[[1, 0, 2]]]), 100.0 * tf.one_hot([[[1, 2, 1]]], 3)
    valid = tf.constant([[[1.0, 1.0, 0.0]]])
    absent = 1e-5 / (1 + 1e-5)
    np.testing.assert_allclose(
        functions.linear_dice(labels, logits, valid), [1 - (1 + absent) / 2], rtol=CLOSE
    )
    weighted = functions.linear_dice(labels, logits, valid, tf.constant([9.0, 3.0, 1.0]))
    np.testing.assert_allclose(weighted, [1 - (3 + absent) / 4], rtol=CLOSE)
    np.testing.assert_array_equal(functions.linear_dice(labels, logits, 0 * valid), [0])


def test_dice_over_the_batch_adds_up_all_images_before_it_divides():
    # Image 0 has two pixels of class 1, found; image 1 has none, and one is predicted.
    labels = tf.constant([[[1, 1, 0]], [[0, 0, 0]]])
    logits = tf.constant([[[[99.0], [99.0], [-99.0]]], [[[99.0], [-99.0], [-99.0]]]])
    sums = functions.dice_sums(labels, logits, tf.ones([2, 1, 3]))
    np.testing.assert_allclose(sums, [[3, 2], [3, 3], [4, 2]], rtol=CLOSE)
    np.testing.assert_allclose(
        functions.dice_of_sums(sums), 1 - (4 + 1e-5) / (5 + 1e-5), rtol=CLOSE
    )
    # Image by image it is the mean of 0 and nearly 1.
    by_image = functions.linear_dice(labels, logits, tf.ones([2, 1, 3]))
    np.testing.assert_allclose(by_image, [0, 1 / (1 + 1e-5)], atol=CLOSE)


def test_top_k_is_the_mean_over_the_hardest_tenth_of_the_valid_pixels():
    # Twelve valid pixels of cross-entropy log 2 but for two, of log 4: a tenth of them, rounded up.
    labels = tf.constant([[[1] * 10 + [0] * 4]])
    logits = tf.constant([[[0.0] * 10 + [LOG3, LOG3, 9.0, 9.0]]])[..., tf.newaxis]
    valid = tf.constant([[[1.0] * 12 + [0.0] * 2]])
    np.testing.assert_allclose(functions.top_k(labels, logits, valid), [math.log(4)], rtol=CLOSE)
    # Three quarters are nine, and all that are as hard as the ninth count: twelve.
    mean = (2 * math.log(4) + 10 * math.log(2)) / 12
    found = functions.top_k(labels, logits, valid, share=0.75)
    np.testing.assert_allclose(found, [mean], rtol=CLOSE)
    # By weight, the pixels of class 1 are harder.
    weighted = functions.top_k(labels, logits, valid, tf.constant([0.1, 3.0]))
    np.testing.assert_allclose(weighted, [3 * math.log(2)], rtol=CLOSE)
    np.testing.assert_array_equal(functions.top_k(labels, logits, 0 * valid), [0])


def test_the_gradient_of_top_k_is_that_of_the_pixels_that_count():
    labels, valid = tf.ones([1, 1, 10], tf.int32), tf.ones([1, 1, 10])
    logits = tf.Variable(tf.reshape(tf.range(10.0), (1, 1, 10, 1)))  # the first is the hardest
    with tf.GradientTape() as tape:
        value = functions.top_k(labels, logits, valid)
    gradient = tf.convert_to_tensor(tape.gradient(value, logits))
    np.testing.assert_allclose(gradient[0, 0, :, 0], [-0.5] + [0] * 9, rtol=CLOSE)


@pytest.mark.parametrize("space", [(1, 4), (1, 1, 4)])
def test_boundary_is_the_probability_times_the_distance_from_the_class(space):
    # Distances from class 1: 2, 1, then inside 0 and, to the nearest pixel outside, 1 - 2.
    labels = tf.reshape(tf.constant([0, 0, 1, 1]), (1, *space))
    logits = tf.fill((1, *space, 1), LOG3)
    values = functions.boundary(labels, logits)
    np.testing.assert_allclose(tf.reshape(values, [-1]), 0.75 * np.array([2, 1, 0, -1]), rtol=CLOSE)


def test_boundary_adds_up_the_classes_but_the_background():
    labels = tf.constant([[[0, 1, 2]]])
    values = functions.boundary(labels, tf.zeros([1, 1, 3, 3]))
    # From class 1: 1, 0, 1; from class 2: 2, 1, 0.
    np.testing.assert_allclose(values, [[[3 / 3, 1 / 3, 1 / 3]]], rtol=CLOSE)
