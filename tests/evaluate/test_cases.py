"""The cases that are drawn."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from tests.evaluations import evaluator_of, pointwise_model
from trainer.data.dataset import schema
from trainer.evaluate import cases
from trainer.evaluate.cases import CaseSelector


def test_the_worst_cases_come_worst_first():
    worst = CaseSelector(worst=2)
    for index, dice in enumerate([0.9, 0.2, 0.5, 0.4]):
        worst.add(cases.Case(index, dice, *[np.zeros(0)] * 5, ()))
    assert [case.index for case in worst.cases("worst")] == [1, 3]


def test_the_best_cases_come_best_first_and_the_first_in_order():
    selected = CaseSelector(first=2, best=2)
    for index, dice in [(1, 0.9), (0, 0.2), (3, 0.5), (2, 0.95)]:
        selected.add(cases.Case(index, dice, *[np.zeros(0)] * 5, ()))
    assert [case.index for case in selected.cases("best")] == [2, 1]
    assert [case.index for case in selected.cases("first")] == [0, 1]
    assert selected.cases("worst") == []


@pytest.mark.parametrize("normalize", ["image", "dataset", "none"])
def test_cases_are_shown_as_they_are_stored(data, normalize):
    stored = {}
    for path in sorted(pathlib.Path(data[0]).glob("val*")):
        for record in tf.data.TFRecordDataset(str(path)):
            example = schema.decode(record, data[1])
            stored[example["name"].numpy().decode()] = example["image"].numpy()
    selected = CaseSelector(first=7)
    evaluator_of(data, pointwise_model(), normalize=normalize)("val", selected.add)
    for case in selected.cases("first"):
        name = data[1].splits["val"].cases[case.index]
        np.testing.assert_array_equal(case.image, stored[name])


def test_a_perfect_case_without_foreground_has_dice_1():
    assert cases.mean_dice(np.array([[9, 9, 9], [0, 0, 0]])) == 1.0
    assert cases.mean_dice(np.array([[9, 9, 9], [2, 2, 1]])) == 0.5


def test_a_large_volume_is_kept_with_fewer_voxels():
    maps = np.arange(2 * 700 * 4).reshape(2, 700, 4)
    case = cases.Case(0, 1.0, maps[..., None], maps, maps > 0, maps, maps, (3.0, 1.0, 0.5))
    selector = cases.CaseSelector(first=1)
    selector.add(case)
    (kept,) = selector.cases("first")
    np.testing.assert_array_equal(kept.labels, maps[::3, ::3, ::3])
    assert kept.image.shape == (1, 234, 2, 1)
    assert kept.spacing == (9.0, 3.0, 1.5)
