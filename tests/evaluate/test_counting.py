"""Counts and curves, against numbers worked out by hand."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tests import rounding
from trainer.evaluate import counting

LOG3 = math.log(3.0)  # the logit of probability 3/4


def test_one_logit_of_zero_is_foreground():
    labels = counting.predict_labels(tf.constant([[[[-0.5], [0.0], [0.5]]]]))
    np.testing.assert_array_equal(labels, [[[0, 1, 1]]])


def test_pixels_are_counted_per_image_and_class():
    labels = tf.constant([[[0, 1, 2, 2]], [[0, 0, 0, 1]]])
    logits = tf.one_hot([[[0, 2, 2, 1]], [[0, 0, 1, 1]]], 3)
    valid = tf.constant([[[1.0, 1.0, 1.0, 1.0]], [[1.0, 1.0, 1.0, 0.0]]])
    counts = counting.count_pixels(labels, logits, valid, 3)
    assert counts.dtype == tf.int32
    np.testing.assert_array_equal(
        counts, [[[1, 1, 1], [1, 1, 0], [2, 2, 1]], [[3, 2, 2], [0, 1, 0], [0, 0, 0]]]
    )


@pytest.mark.parametrize("function", [counting.count_pixels, counting.soft_sums])
def test_a_volume_is_counted_as_its_planes_side_by_side(function):
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, (2, 3, 4, 5)).astype(np.int32)
    logits = random.normal(size=(2, 3, 4, 5, 3)).astype(np.float32)
    valid = (random.random((2, 3, 4, 5)) < 0.7).astype(np.float32)
    flat = [x.reshape(2, 12, *x.shape[3:]) for x in (labels, logits, valid)]
    found = function(labels, logits, valid, 3)
    assert found.shape == (2, 3, 3)
    rounding.assert_close(found, function(*flat, 3), operations=60)


def test_one_logit_counts_two_classes():
    labels = tf.constant([[[0, 1, 1]]])
    logits = tf.constant([[[[3.0], [3.0], [-3.0]]]])
    counts = counting.count_pixels(labels, logits, tf.ones([1, 1, 3]), 2)
    np.testing.assert_array_equal(counts, [[[1, 1, 0], [2, 2, 1]]])


def test_counts_are_exact_beyond_the_integers_of_float32():
    side = 4097  # side * side is odd and larger than 2 ** 24
    labels = tf.zeros([1, side, side], tf.int32)
    counts = counting.count_pixels(
        labels, -tf.ones([1, side, side, 1]), tf.ones([1, side, side]), 2
    )
    np.testing.assert_array_equal(counts, [[[side**2] * 3, [0, 0, 0]]])


def test_counts_equal_numpy_on_random_images():
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, (3, 7, 9)).astype(np.int32)
    logits = random.normal(size=(3, 7, 9, 4)).astype(np.float32)
    valid = (random.random((3, 7, 9)) < 0.7).astype(np.float32)
    prediction = logits.argmax(-1)
    counts = counting.count_pixels(labels, logits, valid, 4).numpy()
    for image in range(3):
        for label in range(4):
            keep = valid[image] > 0
            truth, predicted = (x[image][keep] == label for x in (labels, prediction))
            expected = [truth.sum(), predicted.sum(), (truth & predicted).sum()]
            assert counts[image, label].tolist() == expected


def test_soft_sums_are_those_of_the_hand():
    # Probabilities of class 1: 3/4, 1/2, and an ignored pixel; truth 1 and 0.
    logits = tf.constant([[[[LOG3], [0.0], [9.0]]]])
    valid = tf.constant([[[1.0, 1.0, 0.0]]])
    sums = counting.soft_sums(tf.constant([[[1, 0, 0]]]), logits, valid, 2)
    expected = [[[1 / 2, 1 / 16 + 1 / 4, 1], [3 / 4, 9 / 16 + 1 / 4, 1]]]
    np.testing.assert_allclose(sums, expected, rtol=rounding.tolerance(operations=12))


def test_confusions_are_counted_where_pixels_are_valid():
    labels = tf.constant([[[0, 1, 2, 2]]])
    logits = tf.one_hot([[[0, 2, 2, 1]]], 3)
    valid = tf.constant([[[1.0, 1.0, 1.0, 0.0]]])
    found = counting.count_confusions(labels, logits, valid, 3)
    np.testing.assert_array_equal(found, [[1, 0, 0], [0, 0, 1], [0, 0, 1]])


def test_probabilities_are_counted_by_hundredths_and_truth():
    labels = tf.constant([[[0, 1, 1, 1]]])
    logits = tf.constant([[[[-LOG3], [LOG3], [200.0], [LOG3]]]])  # 1/4, 3/4, 1, 3/4
    valid = tf.constant([[[1.0, 1.0, 1.0, 0.0]]])
    found = counting.count_probabilities(labels, logits, valid, 2).numpy()
    assert found.shape == (1, 101, 2)
    places = {tuple(place): int(found[tuple(place)]) for place in np.argwhere(found)}
    quarter = [b for _, b, true in places if not true]
    assert quarter == [25] or quarter == [24]  # 1 - 3/4 rounds either way
    assert places == {(0, quarter[0], 0): 1, (0, 75, 1): 1, (0, 100, 1): 1}


def test_probabilities_of_three_classes_are_counted_apart():
    logits = tf.math.log([[[[0.605, 0.295, 0.1], [0.205, 0.095, 0.7]]]])
    found = counting.count_probabilities(tf.constant([[[1, 2]]]), logits, tf.ones([1, 1, 2]), 3)
    assert [tuple(place) for place in np.argwhere(found.numpy())][:2] == [(0, 9, 0), (0, 29, 1)]
    assert int(found[1, 70, 1] + found[1, 69, 1]) == 1


def test_precision_and_recall_at_every_threshold():
    counts = np.zeros((101, 2), int)
    counts[25] = 3, 1  # three pixels of others and one of the class, at 0.25
    counts[75] = 1, 2
    found = counting.precision_recall(counts)
    for threshold, row in ((0, (3, 4, 0, 0)), (50, (2, 1, 3, 1)), (76, (0, 0, 4, 3))):
        names = ("true_positive", "false_positive", "true_negative", "false_negative")
        assert tuple(int(found[name][threshold]) for name in names) == row
    assert found["precision"][[0, 50, 76]] == pytest.approx([3 / 7, 2 / 3, 1.0])
    assert found["recall"][[0, 50, 76]] == pytest.approx([1.0, 2 / 3, 0.0])


def test_precision_and_recall_equal_a_plain_count():
    random = np.random.default_rng(1)
    truth = random.integers(0, 2, 999)
    logits = random.normal(size=999).astype(np.float32)
    counts = counting.count_probabilities(
        tf.constant(truth[None, None], tf.int32),
        logits[None, None, :, None],
        np.ones((1, 1, 999)),
        2,
    )
    found = counting.precision_recall(counts[0])
    probability = tf.sigmoid(logits).numpy()
    for threshold in (10, 50, 90):
        positive = probability >= threshold / 100
        assert found["true_positive"][threshold] == np.sum(positive & (truth == 1))
        assert found["false_positive"][threshold] == np.sum(positive & (truth == 0))


def test_calibration_compares_given_and_true_shares():
    counts = np.zeros((101, 2), int)
    counts[10] = 3, 1
    counts[19] = 4, 0
    counts[100] = 0, 2
    mean, share, pixels = counting.calibration(counts)
    assert pixels.tolist() == [0, 8, 0, 0, 0, 0, 0, 0, 0, 2]
    assert [mean[1], share[1]] == pytest.approx([(0.105 + 0.195) / 2, 1 / 8])
    assert [mean[9], share[9]] == pytest.approx([0.995, 1.0])
    assert np.isnan(mean[0])


def test_confidence_is_that_of_the_most_probable_class():
    logits = tf.constant([[[[-LOG3], [0.0], [200.0]]]])
    assert counting.confidence(logits).numpy().tolist() == [[[191, 128, 255]]]
