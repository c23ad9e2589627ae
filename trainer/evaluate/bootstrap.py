"""Bootstrap intervals of scores over cases (Efron, 1979): percentiles of means of resamples.

A resample draws as many cases as there are, with replacement, and computes the score as the
evaluation does: the mean over classes of the mean over the cases in which a class is defined.
Every sum is of whole numbers, so figures are the same in any order of summation.
"""

import numpy as np

UNIT = 1e-6  # cases.csv has six decimals
CONFIDENCE = 0.95
SAMPLES = 10_000
AT_ONCE = 2**20  # numbers drawn at a time


def intervals(values: np.ndarray, samples: int = SAMPLES, seed: int = 0) -> np.ndarray:
    """Returns the interval of each class's mean, and last that of the mean over classes.

    Args:
        values: float64 [N, K], of N cases; NaN where undefined.
        samples: resamples.
        seed: of the draw.

    Returns:
        float64 [K + 1, 2], low and high; NaN where fewer than two cases have the class.
    """
    defined, groups = ~np.isnan(values), np.arange(len(values))
    drawn = resample(whole(values, defined), defined, groups, samples, seed)
    found = [interval(drawn[:, k], defined[:, k], groups) for k in range(values.shape[1])]
    return np.array([*found, interval(mean_of_defined(drawn), defined.any(axis=1), groups)])


def whole(values: np.ndarray, defined: np.ndarray) -> np.ndarray:
    """Returns values in whole units; 0 where they are not defined."""
    return np.where(defined, np.rint(values / UNIT), 0.0)


def resample(
    values: np.ndarray, defined: np.ndarray, groups: np.ndarray, samples: int, seed: int
) -> np.ndarray:
    """Returns the mean of each class in each resample, [samples, K], NaN where none is defined.

    Args:
        values: whole units [N, K], 0 where undefined.
        defined: bool [N, K].
        groups: integers [N], 0 … G - 1; cases of one are drawn together.
        samples: resamples.
        seed: of the draw.
    """
    num_groups = int(groups.max()) + 1
    of_group = np.zeros((2, num_groups, values.shape[1]))
    np.add.at(of_group[0], groups, values)
    np.add.at(of_group[1], groups, defined)
    rng = np.random.default_rng(seed)
    shares = np.full(num_groups, 1 / num_groups)
    step = max(1, AT_ONCE // num_groups)
    parts = []
    for first in range(0, samples, step):
        size = min(step, samples - first)
        times = rng.multinomial(num_groups, shares, size=size).astype(np.float64)
        parts.append(mean(times @ of_group[0], times @ of_group[1]))
    return np.concatenate(parts)


def interval(drawn: np.ndarray, cases: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """Returns the percentile interval of resamples.

    It is NaN where fewer than two groups have the class: the resamples of one are all the same,
    which says nothing of others.

    Args:
        drawn: float64 [samples], NaN where a resample has no such case.
        cases: bool [N], those that have the class.
        groups: integers [N], as those that were drawn.
    """
    defined = drawn[~np.isnan(drawn)]
    if len(np.unique(groups[cases])) < 2 or not defined.size:
        return np.nan, np.nan
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)


def mean(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns sums of whole units over counts; NaN where nothing was counted."""
    empty = np.full(np.shape(sums), np.nan)
    return np.divide(sums * UNIT, counts, out=empty, where=counts > 0)


def mean_of_defined(drawn: np.ndarray) -> np.ndarray:
    """Returns the mean over the classes, of [N, K], that a resample or case has: [N]."""
    defined = ~np.isnan(drawn)
    sums, counts = np.where(defined, drawn, 0).sum(axis=1), defined.sum(axis=1)
    return np.divide(sums, counts, out=np.full(len(drawn), np.nan), where=counts > 0)
