"""Paired differences and their bootstrap intervals."""

import itertools

import numpy as np
import pytest

from trainer.compare import paired

NAN = np.nan


def compare(a, b, groups=None, samples=2000, seed=0):
    a, b = np.array(a, float), np.array(b, float)
    groups = np.arange(len(a)) if groups is None else np.array(groups)
    return paired.compare(a, b, groups, samples, seed)


def test_the_difference_is_that_of_the_cases_which_both_define():
    (one, _) = compare([[0.5], [0.25], [NAN], [1.0], [0.5]], [[0.75], [0.25], [0.5], [NAN], [0.0]])
    assert (one.mean_a, one.mean_b) == (pytest.approx(1.25 / 3), pytest.approx(1 / 3))
    assert one.difference == pytest.approx((0.25 + 0 - 0.5) / 3)
    assert (one.wins, one.ties, one.losses) == (1, 1, 1)
    assert (one.pairs, one.only_a, one.only_b) == (3, 1, 1)


def test_the_mean_over_classes_weighs_a_rare_class_like_a_common_one():
    *_, mean = compare([[0.5, NAN], [0.5, 0.5]], [[0.6, NAN], [0.6, 0.9]])
    assert mean.difference == pytest.approx((0.1 + 0.4) / 2)
    assert mean.pairs == 2


def test_the_interval_is_that_of_all_resamples():
    # Of three cases with differences 0, 3 and 6 each of the 27 resamples is equally likely.
    means = [sum(draw) / 3 for draw in itertools.product((0, 3, 6), repeat=3)]
    low, high = np.quantile(means, [0.025, 0.975], method="inverted_cdf")
    (one, _) = compare([[0], [0], [0]], [[0], [3], [6]], samples=20_000)
    assert (one.low, one.high) == (low, high) == (0, 6)
    assert one.winner == ""


def test_equal_differences_have_no_spread_and_say_who_is_better():
    (one, _) = compare([[0.5]] * 4, [[0.75]] * 4)
    assert (one.low, one.high, one.winner) == (0.25, 0.25, "b")
    (one, _) = compare([[0.75]] * 4, [[0.5]] * 4)
    assert (one.low, one.high, one.winner) == (-0.25, -0.25, "a")


def test_the_same_seed_gives_the_same_figures_in_any_order_of_summation():
    rng = np.random.default_rng(1)
    a, b = rng.uniform(size=(2, 50, 2)).round(6)
    assert compare(a, b) == compare(a, b)
    first, other = compare(a, b), compare(a, b, seed=1)
    assert [one.difference for one in first] == [one.difference for one in other]
    assert [one.low for one in first] != [one.low for one in other]
    exact = [round(1e6 * float(x)) for x in (b - a)[:, 0]]
    assert first[0].difference == sum(exact) * 1e-6 / 50


def test_cases_of_a_group_are_drawn_together():
    a, b = np.zeros((40, 1)), np.repeat([[0.1], [-0.1], [0.1], [-0.1]], 10, axis=0)
    apart = compare(a, b)[0]
    together = compare(a, b, groups=np.repeat(np.arange(4), 10))[0]
    assert together.high - together.low > 2 * (apart.high - apart.low)
    assert together.difference == apart.difference


def test_a_class_that_no_pair_has_is_left_out_of_the_mean():
    none, some, mean = compare([[NAN, 0.5], [NAN, 0.5]], [[0.5, 0.75], [NAN, 0.75]])
    assert np.isnan([none.difference, none.low, none.high]).all()
    assert (none.pairs, none.only_b, none.winner) == (0, 1, "")
    assert mean.difference == some.difference == 0.25


def test_a_class_of_one_case_or_one_group_has_no_interval_and_no_winner():
    a, b = [[0.5], [NAN], [0.5]], [[0.75], [0.5], [0.75]]
    for one in (*compare(a[:2], b[:2]), *compare(a, b, groups=[0, 1, 0])):
        assert one.difference == 0.25
        assert np.isnan([one.low, one.high]).all()
        assert one.winner == ""
    assert compare(a, b)[0].winner == "b"
