"""Scores of a split, each convention by its own name, against numbers worked out by hand."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests import rounding
from trainer.evaluate import counting
from trainer.evaluate import scores as scoring

# Two images, background and two classes: pixels of truth, prediction and both.
COUNTS = np.array(
    [
        [[6, 5, 4], [2, 4, 1], [2, 1, 1]],
        [[8, 9, 8], [2, 1, 1], [0, 0, 0]],
    ]
)
SOFT = np.zeros((2, 3, 3))


def test_the_headline_averages_over_foreground_classes_of_images_in_which_they_occur():
    summary = scoring.summarize(COUNTS, SOFT, ["background", "a", "b"])
    # Class a: 2/6 and 2/3, mean 1/2. Class b: 2/3, in the first image only.
    assert summary["dice"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    # Class a: 1/5 and 1/2. Class b: 1/2.
    assert summary["iou"] == pytest.approx((0.35 + 0.5) / 2)


def test_each_convention_has_its_own_name():
    summary = scoring.summarize(COUNTS, SOFT, ["background", "a", "b"])
    background = (8 / 11 + 16 / 17) / 2
    assert summary["images"] == 2
    assert summary["per_image"]["foreground"]["dice"] == summary["dice"]
    assert summary["per_image"]["all_classes"]["dice"] == pytest.approx(
        (background + 1 / 2 + 2 / 3) / 3
    )
    # Precision of class a: 1/4 and 1/1. Of class b: 1/1, because it is predicted in one image.
    assert summary["per_image"]["foreground"]["precision"] == pytest.approx((0.625 + 1) / 2)
    # Pooled: background 14, 14, 12; class a 4, 5, 2; class b 2, 1, 1.
    assert summary["pooled"]["foreground"]["dice"] == pytest.approx((4 / 9 + 2 / 3) / 2)
    assert summary["pooled"]["all_classes"]["iou"] == pytest.approx((12 / 16 + 2 / 7 + 1 / 2) / 3)
    assert summary["accuracy"]["per_image"] == pytest.approx((6 / 10 + 9 / 10) / 2)
    assert summary["accuracy"]["pooled"] == pytest.approx(15 / 20)


def test_each_class_has_its_own_scores():
    summary = scoring.summarize(COUNTS, SOFT, ["background", "a", "b"])
    assert list(summary["classes"]) == ["background", "a", "b"]
    assert summary["classes"]["b"] == {
        "images": 1,
        "pixels": {"truth": 2, "prediction": 1, "both": 1},
        "per_image": {
            "dice": pytest.approx(2 / 3),
            "iou": 1 / 2,
            "precision": 1.0,
            "recall": 1 / 2,
            "volume_error": -1 / 2,
            "accuracy": pytest.approx((9 / 10 + 1) / 2),  # missed in a pixel; rightly absent
        },
        "pooled": {
            "dice": pytest.approx(2 / 3),
            "iou": 1 / 2,
            "precision": 1.0,
            "recall": 1 / 2,
            "volume_error": -1 / 2,
            "accuracy": pytest.approx(19 / 20),
        },
    }
    assert summary["classes"]["a"]["images"] == 2


def test_a_class_that_occurs_nowhere_is_null_and_leaves_the_mean_alone():
    counts = COUNTS.copy()
    counts[0, 2] = 0
    summary = scoring.summarize(counts, SOFT, ["background", "a", "b"])
    assert summary["classes"]["b"]["images"] == 0
    assert summary["classes"]["b"]["per_image"]["dice"] is None
    assert summary["classes"]["b"]["pooled"]["dice"] is None
    assert summary["dice"] == pytest.approx(1 / 2)
    assert "NaN" not in json.dumps(summary)


def test_a_split_without_foreground_or_images_has_no_dice():
    nothing = np.zeros((1, 2, 3), int)
    nothing[0, 0] = 9
    assert scoring.summarize(nothing, SOFT[:1, :2], ["background", "a"])["dice"] is None
    empty = scoring.summarize(nothing[:0], SOFT[:0, :2], ["background", "a"])
    assert empty["images"] == 0
    assert empty["dice"] is None
    assert empty["accuracy"] == {"per_image": None, "pooled": None}
    assert empty["soft_dice_nvidia"] == {"per_image": None, "pooled": None}


def test_an_image_of_ignored_pixels_only_changes_nothing_but_the_number_of_images():
    filler = np.zeros((1, 3, 3), int)
    with_filler = scoring.summarize(np.concatenate([COUNTS, filler]), SOFT, ["0", "a", "b"])
    without = scoring.summarize(COUNTS, SOFT, ["0", "a", "b"])
    assert with_filler.pop("images") == without.pop("images") + 1
    assert with_filler == without


def test_soft_dice_is_nvidias_over_images_and_over_their_pool():
    # Class 0 then 1 of two images: sums of p y, p p and y y.
    soft = np.array([[[3, 4, 4], [1, 1, 3]], [[4, 4, 4], [0, 0, 0]]], float)
    value = scoring.summarize(np.zeros((2, 2, 3)), soft, ["0", "1"])["soft_dice_nvidia"]
    # A class that is neither there nor predicted counts 1.
    assert value["per_image"] == pytest.approx((6 / 8 + 2 / 4 + 1 + 1) / 4, abs=1e-5)
    assert value["pooled"] == pytest.approx((14 / 16 + 2 / 4) / 2, abs=1e-5)


def test_soft_dice_equals_nvidias_formula_on_random_images():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, (3, 8, 8)).astype(np.int32)
    logits = random.normal(size=(3, 8, 8, 2)).astype(np.float32)
    soft = counting.soft_sums(labels, logits, tf.ones([3, 8, 8]), 2)
    probability = np.asarray(tf.nn.softmax(logits)).reshape(3, 64, 2)
    truth = np.eye(2)[labels].reshape(3, 64, 2)
    intersection = (probability * truth).sum(axis=1)
    union = (probability**2 + truth**2).sum(axis=1)
    expected = ((2 * intersection + 1e-6) / (union + 1e-6)).mean()
    found = scoring.soft_dice_nvidia(soft).mean()
    assert found == pytest.approx(expected, rel=rounding.tolerance(8 * 8))


def test_figures_name_classes_and_terms(scores):
    found = scoring.figures_of(scores)
    assert list(found)[:3] == ["loss", "dice", "iou"]
    assert found["loss"] == pytest.approx(found["loss/cross_entropy"] + found["loss/soft_dice"])
    assert found["dice"] == pytest.approx((found["dice/class1"] + found["dice/class2"]) / 2)


def test_the_table_has_a_line_for_each_class_and_mean(scores):
    tracked, others = scoring.table(scores.summary).split("\n\n")
    for lines in (tracked.splitlines(), others.splitlines()):
        heads = [line.split("  ")[0] for line in lines]
        assert heads == ["class", "class0", "class1", "class2", "mean, foreground", "mean, all"]
        assert len({len(line) for line in lines[:4]}) == 1
    assert tracked.splitlines()[0].endswith("  images")


def test_the_tables_fit_into_80_columns_also_with_longer_names_of_classes(scores):
    entries = scores.summary["classes"]
    for more in ("", " of red blood cells"):
        classes = {f"{name}{more}": entry for name, entry in entries.items()}
        lines = scoring.table({**scores.summary, "classes": classes}).splitlines()
        assert max(map(len, lines)) <= 80
