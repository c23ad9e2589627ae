"""Sums that are exact, against Python's own of fractions."""

import math
from fractions import Fraction

import numpy as np
import pytest

from trainer.evaluate import exact_sum

VALUES = [0.1, -1e300, 2.5, 1e300, 5e-324, -0.1, 1 / 3, np.nan, -7e-310, 2.0**-1022, 1e16, 1.0]


def sums_of(*values):
    return exact_sum.exact_sum(np.array(values, float))


@pytest.mark.parametrize("values", [VALUES, VALUES[::-1], VALUES[3:], [0.0], [-5e-324] * 3])
def test_a_sum_and_a_mean_are_the_floats_next_to_the_exact_ones(values):
    defined = [Fraction(value) for value in values if not math.isnan(value)]
    assert exact_sum.total(sums_of(*values)) == float(sum(defined))
    assert exact_sum.mean(sums_of(*values)) == float(sum(defined) / len(defined))


def test_the_largest_floats_are_added_beyond_their_range():
    largest = np.finfo(float).max
    assert exact_sum.mean(sums_of(largest, largest, largest)) == largest


def test_the_sums_of_parts_are_that_of_the_whole_in_any_division():
    values = np.random.default_rng(0).normal(size=(500, 2, 3)) * 10.0 ** np.arange(3) ** 3
    values[::7, 0] = np.nan
    whole = exact_sum.exact_sum(values)
    parts = [exact_sum.exact_sum(values[k::4]) for k in range(4)]
    np.testing.assert_array_equal(sum(parts), whole)
    expected = [[math.fsum(x[~np.isnan(x)]) for x in column.T] for column in values.swapaxes(0, 1)]
    np.testing.assert_array_equal(exact_sum.total(whole), expected)


def test_what_has_no_sum_is_said_as_numpy_does():
    inf = float("inf")
    assert np.isnan(exact_sum.mean(sums_of()))
    assert np.isnan(exact_sum.total(sums_of(np.nan)))
    assert exact_sum.mean(sums_of(1.0, inf)) == inf
    assert exact_sum.total(sums_of(1.0, -inf)) == -inf
    assert np.isnan(exact_sum.mean(sums_of(inf, -inf)))
