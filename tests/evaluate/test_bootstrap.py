"""Intervals over cases."""

import numpy as np
import pytest

from trainer.evaluate import bootstrap


def test_an_interval_of_few_cases_is_that_of_all_their_resamples():
    # Of two cases, four resamples: both the first, both the second, and twice one of each.
    low, high = bootstrap.intervals(np.array([[0.25], [0.75]]))[0]
    assert (low, high) == (0.25, 0.75)


def test_an_interval_of_many_cases_is_as_wide_as_the_normal_one():
    values = np.random.default_rng(1).normal(0.8, 0.1, (400, 1))
    low, high = bootstrap.intervals(values)[0]
    error = values.std() / np.sqrt(400)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)


def test_classes_without_a_case_have_no_interval_and_do_not_count_for_the_mean():
    nan = np.nan
    found = bootstrap.intervals(np.array([[0.5, nan, nan], [0.5, 0.7, nan]]))
    assert found[0].tolist() == [0.5, 0.5]
    assert np.isnan(found[1:3]).all()
    assert found[3].tolist() == [0.5, pytest.approx(0.6)]


def test_one_case_has_no_interval():
    assert np.isnan(bootstrap.intervals(np.array([[0.5, 0.7]]))).all()
