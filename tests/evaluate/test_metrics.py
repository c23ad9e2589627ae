"""The metrics of a class in a case, against numbers worked out by hand."""

import numpy as np

from tests.pages import ROOT
from trainer.evaluate import metrics


def test_scores_of_counts_are_those_of_the_hand():
    values = metrics.score([4, 2, 1])
    assert values["dice"] == 2 / 6
    assert values["iou"] == 1 / 5
    assert values["precision"] == 1 / 2
    assert values["recall"] == 1 / 4


def test_scores_of_nothing_are_undefined_and_of_misses_zero():
    absent, missed, false = (metrics.score(x) for x in ([0, 0, 0], [3, 0, 0], [0, 3, 0]))
    assert all(np.isnan(value) for value in absent.values())
    assert missed["dice"] == missed["iou"] == missed["recall"] == 0
    assert np.isnan(missed["precision"])
    assert false["dice"] == false["iou"] == false["precision"] == 0
    assert np.isnan(false["recall"])


def test_the_page_has_every_metric_with_its_convention():
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    for name, said in metrics.conventions().items():
        row = f"| `{name}` | {said['meaning']} | {said['better']} | {said['absent']} |"
        assert row in page.splitlines(), row
