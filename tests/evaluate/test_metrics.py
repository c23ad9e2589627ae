"""Counts and scores, against numbers worked out by hand."""

import json
import math

import numpy as np
import pytest
import tensorflow as tf

from tests import rounding
from trainer.evaluate import metrics

LOG3 = math.log(3.0)  # the logit of probability 3/4

# Two images, background and two classes: pixels of truth, prediction and both.
COUNTS = np.array(
    [
        [[6, 5, 4], [2, 4, 1], [2, 1, 1]],
        [[8, 9, 8], [2, 1, 1], [0, 0, 0]],
    ]
)
SOFT = np.zeros((2, 3, 3))


def test_one_logit_of_zero_is_foreground():
    labels = metrics.predict_labels(tf.constant([[[[-0.5], [0.0], [0.5]]]]))
    np.testing.assert_array_equal(labels, [[[0, 1, 1]]])


def test_pixels_are_counted_per_image_and_class():
    labels = tf.constant([[[0, 1, 2, 2]], [[0, 0, 0, 1]]])
    logits = tf.one_hot([[[0, 2, 2, 1]], [[0, 0, 1, 1]]], 3)
    valid = tf.constant([[[1.0, 1.0, 1.0, 1.0]], [[1.0, 1.0, 1.0, 0.0]]])
    counts = metrics.count_pixels(labels, logits, valid, 3)
    assert counts.dtype == tf.int32
    np.testing.assert_array_equal(
        counts, [[[1, 1, 1], [1, 1, 0], [2, 2, 1]], [[3, 2, 2], [0, 1, 0], [0, 0, 0]]]
    )


def test_one_logit_counts_two_classes():
    labels = tf.constant([[[0, 1, 1]]])
    logits = tf.constant([[[[3.0], [3.0], [-3.0]]]])
    counts = metrics.count_pixels(labels, logits, tf.ones([1, 1, 3]), 2)
    np.testing.assert_array_equal(counts, [[[1, 1, 0], [2, 2, 1]]])


def test_counts_are_exact_beyond_the_integers_of_float32():
    side = 4097  # side * side is odd and larger than 2 ** 24
    labels = tf.zeros([1, side, side], tf.int32)
    counts = metrics.count_pixels(labels, -tf.ones([1, side, side, 1]), tf.ones([1, side, side]), 2)
    np.testing.assert_array_equal(counts, [[[side**2] * 3, [0, 0, 0]]])


def test_counts_equal_numpy_on_random_images():
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, (3, 7, 9)).astype(np.int32)
    logits = random.normal(size=(3, 7, 9, 4)).astype(np.float32)
    valid = (random.random((3, 7, 9)) < 0.7).astype(np.float32)
    prediction = logits.argmax(-1)
    counts = metrics.count_pixels(labels, logits, valid, 4).numpy()
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
    sums = metrics.soft_sums(tf.constant([[[1, 0, 0]]]), logits, valid, 2)
    expected = [[[1 / 2, 1 / 16 + 1 / 4, 1], [3 / 4, 9 / 16 + 1 / 4, 1]]]
    np.testing.assert_allclose(sums, expected, rtol=rounding.tolerance(operations=12))


def test_scores_of_counts_are_those_of_the_hand():
    values = metrics.scores([4, 2, 1])
    assert values["dice"] == 2 / 6
    assert values["iou"] == 1 / 5
    assert values["precision"] == 1 / 2
    assert values["recall"] == 1 / 4


def test_scores_of_nothing_are_undefined_and_of_misses_zero():
    absent, missed, false = (metrics.scores(x) for x in ([0, 0, 0], [3, 0, 0], [0, 3, 0]))
    assert all(np.isnan(value) for value in absent.values())
    assert missed["dice"] == missed["iou"] == missed["recall"] == 0
    assert np.isnan(missed["precision"])
    assert false["dice"] == false["iou"] == false["precision"] == 0
    assert np.isnan(false["recall"])


def test_the_headline_averages_over_foreground_classes_of_images_in_which_they_occur():
    summary = metrics.summarize(COUNTS, SOFT, ["background", "a", "b"])
    # Class a: 2/6 and 2/3, mean 1/2. Class b: 2/3, in the first image only.
    assert summary["dice"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    # Class a: 1/5 and 1/2. Class b: 1/2.
    assert summary["iou"] == pytest.approx((0.35 + 0.5) / 2)


def test_each_convention_has_its_own_name():
    summary = metrics.summarize(COUNTS, SOFT, ["background", "a", "b"])
    background = (8 / 11 + 16 / 17) / 2
    assert summary["images"] == 2
    assert summary["per_image"]["foreground"]["dice"] == summary["dice"]
    assert summary["per_image"]["all_classes"]["dice"] == pytest.approx(
        (background + 1 / 2 + 2 / 3) / 3
    )
    # Precision of class a: 1/4 and 1/1. Of class b: 1/1, for it is predicted in one image.
    assert summary["per_image"]["foreground"]["precision"] == pytest.approx((0.625 + 1) / 2)
    # Pooled: background 14, 14, 12; class a 4, 5, 2; class b 2, 1, 1.
    assert summary["pooled"]["foreground"]["dice"] == pytest.approx((4 / 9 + 2 / 3) / 2)
    assert summary["pooled"]["all_classes"]["iou"] == pytest.approx((12 / 16 + 2 / 7 + 1 / 2) / 3)
    assert summary["accuracy"]["per_image"] == pytest.approx((6 / 10 + 9 / 10) / 2)
    assert summary["accuracy"]["pooled"] == pytest.approx(15 / 20)


def test_each_class_has_its_own_scores():
    summary = metrics.summarize(COUNTS, SOFT, ["background", "a", "b"])
    assert list(summary["classes"]) == ["background", "a", "b"]
    assert summary["classes"]["b"] == {
        "images": 1,
        "pixels": {"truth": 2, "prediction": 1, "both": 1},
        "per_image": {
            "dice": pytest.approx(2 / 3),
            "iou": 1 / 2,
            "precision": 1.0,
            "recall": 1 / 2,
            "accuracy": pytest.approx((9 / 10 + 1) / 2),  # missed in a pixel; rightly absent
        },
        "pooled": {
            "dice": pytest.approx(2 / 3),
            "iou": 1 / 2,
            "precision": 1.0,
            "recall": 1 / 2,
            "accuracy": pytest.approx(19 / 20),
        },
    }
    assert summary["classes"]["a"]["images"] == 2


def test_a_class_that_occurs_nowhere_is_null_and_leaves_the_mean_alone():
    counts = COUNTS.copy()
    counts[0, 2] = 0
    summary = metrics.summarize(counts, SOFT, ["background", "a", "b"])
    assert summary["classes"]["b"]["images"] == 0
    assert summary["classes"]["b"]["per_image"]["dice"] is None
    assert summary["classes"]["b"]["pooled"]["dice"] is None
    assert summary["dice"] == pytest.approx(1 / 2)
    assert "NaN" not in json.dumps(summary)


def test_a_split_without_foreground_or_images_has_no_dice():
    nothing = np.zeros((1, 2, 3), int)
    nothing[0, 0] = 9
    assert metrics.summarize(nothing, SOFT[:1, :2], ["background", "a"])["dice"] is None
    empty = metrics.summarize(nothing[:0], SOFT[:0, :2], ["background", "a"])
    assert empty["images"] == 0
    assert empty["dice"] is None
    assert empty["accuracy"] == {"per_image": None, "pooled": None}
    assert empty["soft_dice_nvidia"] == {"per_image": None, "pooled": None}


def test_an_image_of_ignored_pixels_only_changes_nothing_but_the_number_of_images():
    filler = np.zeros((1, 3, 3), int)
    with_filler = metrics.summarize(np.concatenate([COUNTS, filler]), SOFT, ["0", "a", "b"])
    without = metrics.summarize(COUNTS, SOFT, ["0", "a", "b"])
    assert with_filler.pop("images") == without.pop("images") + 1
    assert with_filler == without


def test_soft_dice_is_nvidias_over_images_and_over_their_pool():
    # Class 0 then 1 of two images: sums of p y, p p and y y.
    soft = np.array([[[3, 4, 4], [1, 1, 3]], [[4, 4, 4], [0, 0, 0]]], float)
    value = metrics.summarize(np.zeros((2, 2, 3)), soft, ["0", "1"])["soft_dice_nvidia"]
    # A class that is neither there nor predicted counts 1.
    assert value["per_image"] == pytest.approx((6 / 8 + 2 / 4 + 1 + 1) / 4, abs=1e-5)
    assert value["pooled"] == pytest.approx((14 / 16 + 2 / 4) / 2, abs=1e-5)


def test_soft_dice_equals_nvidias_formula_on_random_images():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, (3, 8, 8)).astype(np.int32)
    logits = random.normal(size=(3, 8, 8, 2)).astype(np.float32)
    soft = metrics.soft_sums(labels, logits, tf.ones([3, 8, 8]), 2)
    probability = np.asarray(tf.nn.softmax(logits)).reshape(3, 64, 2)
    truth = np.eye(2)[labels].reshape(3, 64, 2)
    intersection = (probability * truth).sum(axis=1)
    union = (probability**2 + truth**2).sum(axis=1)
    expected = ((2 * intersection + 1e-6) / (union + 1e-6)).mean()
    assert metrics.soft_dice_nvidia(soft) == pytest.approx(expected, rel=rounding.tolerance(8 * 8))


def test_confusions_are_counted_where_pixels_are_valid():
    labels = tf.constant([[[0, 1, 2, 2]]])
    logits = tf.one_hot([[[0, 2, 2, 1]]], 3)
    valid = tf.constant([[[1.0, 1.0, 1.0, 0.0]]])
    found = metrics.count_confusions(labels, logits, valid, 3)
    np.testing.assert_array_equal(found, [[1, 0, 0], [0, 0, 1], [0, 0, 1]])


def test_probabilities_are_counted_by_hundredths_and_truth():
    labels = tf.constant([[[0, 1, 1, 1]]])
    logits = tf.constant([[[[-LOG3], [LOG3], [200.0], [LOG3]]]])  # 1/4, 3/4, 1, 3/4
    valid = tf.constant([[[1.0, 1.0, 1.0, 0.0]]])
    found = metrics.count_probabilities(labels, logits, valid, 2).numpy()
    assert found.shape == (1, 101, 2)
    places = {tuple(place): int(found[tuple(place)]) for place in np.argwhere(found)}
    quarter = [b for _, b, true in places if not true]
    assert quarter == [25] or quarter == [24]  # 1 - 3/4 rounds either way
    assert places == {(0, quarter[0], 0): 1, (0, 75, 1): 1, (0, 100, 1): 1}


def test_probabilities_of_three_classes_are_counted_apart():
    logits = tf.math.log([[[[0.605, 0.295, 0.1], [0.205, 0.095, 0.7]]]])
    found = metrics.count_probabilities(tf.constant([[[1, 2]]]), logits, tf.ones([1, 1, 2]), 3)
    assert [tuple(place) for place in np.argwhere(found.numpy())][:2] == [(0, 9, 0), (0, 29, 1)]
    assert int(found[1, 70, 1] + found[1, 69, 1]) == 1


def test_precision_and_recall_at_every_threshold():
    counts = np.zeros((101, 2), int)
    counts[25] = 3, 1  # three pixels of others and one of the class, at 0.25
    counts[75] = 1, 2
    found = metrics.precision_recall(counts)
    for threshold, row in ((0, (3, 4, 0, 0)), (50, (2, 1, 3, 1)), (76, (0, 0, 4, 3))):
        names = ("true_positive", "false_positive", "true_negative", "false_negative")
        assert tuple(int(found[name][threshold]) for name in names) == row
    assert found["precision"][[0, 50, 76]] == pytest.approx([3 / 7, 2 / 3, 1.0])
    assert found["recall"][[0, 50, 76]] == pytest.approx([1.0, 2 / 3, 0.0])


def test_precision_and_recall_equal_a_plain_count():
    random = np.random.default_rng(1)
    truth = random.integers(0, 2, 999)
    logits = random.normal(size=999).astype(np.float32)
    counts = metrics.count_probabilities(
        tf.constant(truth[None, None], tf.int32),
        logits[None, None, :, None],
        np.ones((1, 1, 999)),
        2,
    )
    found = metrics.precision_recall(counts[0])
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
    mean, share, pixels = metrics.calibration(counts)
    assert pixels.tolist() == [0, 8, 0, 0, 0, 0, 0, 0, 0, 2]
    assert [mean[1], share[1]] == pytest.approx([(0.105 + 0.195) / 2, 1 / 8])
    assert [mean[9], share[9]] == pytest.approx([0.995, 1.0])
    assert np.isnan(mean[0])


def test_confidence_is_that_of_the_most_probable_class():
    logits = tf.constant([[[[-LOG3], [0.0], [200.0]]]])
    assert metrics.confidence(logits).numpy().tolist() == [[[191, 128, 255]]]
