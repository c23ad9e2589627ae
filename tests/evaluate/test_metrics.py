"""The metrics of a class in a case, against numbers worked out by hand."""

import numpy as np
import pytest

from tests.pages import ROOT
from trainer.evaluate import metrics


def test_scores_of_counts_are_those_of_the_hand():
    values = metrics.score([4, 2, 1])
    assert values["dice"] == 2 / 6
    assert values["iou"] == 1 / 5
    assert values["precision"] == 1 / 2
    assert values["recall"] == 1 / 4
    assert values["volume_error"] == -2 / 4


def test_scores_of_nothing_are_undefined_and_of_misses_zero():
    absent, missed, false = (metrics.score(x) for x in ([0, 0, 0], [3, 0, 0], [0, 3, 0]))
    assert all(np.isnan(value) for value in absent.values())
    assert missed["dice"] == missed["iou"] == missed["recall"] == 0
    assert missed["volume_error"] == -1
    assert np.isnan(missed["precision"])
    assert false["dice"] == false["iou"] == false["precision"] == 0
    assert np.isnan(false["recall"])
    assert np.isnan(false["volume_error"])


def test_the_page_has_every_metric_with_its_convention():
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    for name, said in metrics.conventions(metrics.METRICS).items():
        row = f"| `{name}` | {said['meaning']} | {said['better']} | {said['absent']} |"
        assert row in page.splitlines(), row


def measured(truth, prediction, num_classes=2, spacing=(3.0, 1.0, 1.0), tolerance=1.0, valid=None):
    """Returns the metrics of surfaces of class 1, or what is missed of them."""
    valid = np.ones(truth.shape) if valid is None else valid
    found = metrics.measure(truth, prediction, valid, num_classes, spacing, tolerance)
    return {name: values[1] for name, values in found.items()}


def test_surfaces_of_shifted_cubes_are_as_far_apart_as_the_hand_says():
    truth, prediction = np.zeros((2, 9, 9, 9), np.uint8)
    truth[2:5, 2:5, 2:5] = 1  # 26 voxels of surface, the middle is inside
    prediction[2:5, 2:5, 4:7] = 1
    # Columns 2, 3 and 4 of the truth have 9, 8 and 9 of them, 2, 1 and 0 from the other cube's.
    expected = {"hd95": 2.0, "assd": (9 * 2 + 8 * 1) / 26, "nsd": 17 / 26}
    assert measured(truth, prediction) == pytest.approx(expected)
    assert measured(prediction, truth) == pytest.approx(expected)
    # Along the axis of 3 mm all is three times as far.
    turned = (np.moveaxis(ids, 2, 0) for ids in (truth, prediction))
    expected = {"hd95": 6.0, "assd": (9 * 6 + 8 * 3) / 26, "nsd": 9 / 26}
    assert measured(*turned) == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(7, 6), (5, 6, 7)])
def test_surfaces_are_those_of_all_pairs_of_voxels(shape):
    random = np.random.default_rng(0)
    spacing = np.array([2.5, 0.5, 1.5])[: len(shape)]

    def surface(mask):
        wide = np.pad(mask, 1)
        inner = np.ones_like(mask)
        for axis in range(mask.ndim):
            for step in (-1, 1):
                inner &= np.roll(wide, step, axis)[(slice(1, -1),) * mask.ndim]
        return np.argwhere(mask & ~inner) * spacing

    for _ in range(5):
        maps = random.integers(0, 3, (2, *shape)).astype(np.uint8)
        points = [surface(ids == 1) for ids in maps]
        pairs = np.linalg.norm(points[0][:, np.newaxis] - points[1][np.newaxis], axis=-1)
        apart = pairs.min(axis=1), pairs.min(axis=0)
        assert measured(*maps, num_classes=3, spacing=spacing, tolerance=1.5) == pytest.approx(
            {
                "hd95": max(np.percentile(x, 95) for x in apart),
                "assd": np.concatenate(apart).mean(),
                "nsd": (np.concatenate(apart) <= 1.5).mean(),
            }
        )


def test_a_structure_in_one_map_only_counts_by_the_diagonal_and_in_neither_not_at_all():
    nothing, something = np.zeros((2, 4, 3, 8), np.uint8)
    something[1, 1, 1] = 1
    diagonal = (12**2 + 3**2 + 8**2) ** 0.5
    for maps in ((nothing, something), (something, nothing)):
        assert measured(*maps) == {"hd95": diagonal, "assd": diagonal, "nsd": 0.0}
    assert all(np.isnan(value) for value in measured(nothing, nothing).values())


def test_surfaces_are_of_what_counts_and_measured_in_the_end_only():
    truth, prediction = np.zeros((2, 1, 4, 9), np.uint8)
    truth[:, 1:3, 1:3] = prediction[:, 1:3, 1:3] = 1
    prediction[:, 1:3, 7] = 1
    assert measured(truth, prediction)["hd95"] > 4
    valid = np.ones(truth.shape)
    valid[..., 7] = 0
    expected = {"hd95": 0.0, "assd": 0.0, "nsd": 1.0}
    assert measured(truth, prediction, valid=valid) == expected
    assert measured(truth, prediction, tolerance=None) == {}
