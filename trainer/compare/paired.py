"""The paired difference of two runs, with its bootstrap interval over cases."""

import dataclasses

import numpy as np

from trainer.evaluate import bootstrap


@dataclasses.dataclass(frozen=True)
class Difference:
    """Two runs on one class, or on the mean over classes; better is larger.

    Attributes:
        mean_a: of the cases that both runs define.
        mean_b: likewise.
        difference: mean_b - mean_a.
        low: of the interval of the difference; NaN where fewer than two groups have a pair.
        high: likewise.
        wins: cases in which b is better.
        ties: in which they are equal to six decimals.
        losses: in which a is better.
        pairs: cases that both define; the others are not compared.
        only_a: cases that a alone defines.
        only_b: likewise.
        winner: "a" or "b", whichever is better; empty where the interval holds 0 or is unknown.
    """

    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    wins: int
    ties: int
    losses: int
    pairs: int
    only_a: int
    only_b: int
    winner: str


def compare(
    a: np.ndarray, b: np.ndarray, groups: np.ndarray, samples: int, seed: int
) -> list[Difference]:
    """Returns the difference of each class, and last that of the mean over classes.

    Args:
        a: float64 [N, K], larger is better; NaN where undefined.
        b: likewise.
        groups: integers [N], 0 … G - 1; cases of one are drawn together.
        samples: resamples.
        seed: of the draw.
    """
    both = ~np.isnan(a) & ~np.isnan(b)
    whole_a, whole_b = bootstrap.whole(a, both), bootstrap.whole(b, both)
    drawn = bootstrap.resample(whole_b - whole_a, both, groups, samples, seed)
    found = [
        _difference(a[:, k], b[:, k], whole_a[:, k], whole_b[:, k], both[:, k], drawn[:, k], groups)
        for k in range(a.shape[1])
    ]
    return [*found, _over_classes(found, whole_b - whole_a, both, drawn, groups)]


def _difference(
    a: np.ndarray,
    b: np.ndarray,
    whole_a: np.ndarray,
    whole_b: np.ndarray,
    both: np.ndarray,
    drawn: np.ndarray,
    groups: np.ndarray,
) -> Difference:
    """Returns the difference of one class: all are [N], but the resamples [samples]."""
    apart = (whole_b - whole_a)[both]
    sums = np.array([whole_a.sum(), whole_b.sum(), apart.sum()])
    return _described(
        bootstrap.mean(sums, np.full(3, both.sum())),
        bootstrap.interval(drawn, both, groups),
        apart,
        pairs=int(both.sum()),
        only_a=int((~np.isnan(a) & np.isnan(b)).sum()),
        only_b=int((~np.isnan(b) & np.isnan(a)).sum()),
    )


def _over_classes(
    found: list[Difference],
    apart: np.ndarray,
    both: np.ndarray,
    drawn: np.ndarray,
    groups: np.ndarray,
) -> Difference:
    """Returns the difference of the mean over the classes that have any pair."""
    defined = [one for one in found if one.pairs]
    means = [[one.mean_a, one.mean_b, one.difference] for one in defined] or [[np.nan] * 3]
    paired = np.asarray(both.any(axis=1))
    of_case = apart.sum(axis=1)[paired]  # whose sign is that of the mean
    return _described(
        np.mean(means, axis=0),
        bootstrap.interval(bootstrap.mean_of_defined(drawn), paired, groups),
        of_case,
        pairs=len(of_case),
        only_a=sum(one.only_a for one in found),
        only_b=sum(one.only_b for one in found),
    )


def _described(
    means: np.ndarray,
    interval: tuple[float, float],
    apart: np.ndarray,
    *,
    pairs: int,
    only_a: int,
    only_b: int,
) -> Difference:
    """Returns a difference of means [3], of a, b and b - a, with its interval and its cases."""
    mean_a, mean_b, difference = means.tolist()
    low, high = interval
    return Difference(
        mean_a=mean_a,
        mean_b=mean_b,
        difference=difference,
        low=low,
        high=high,
        wins=int((apart > 0).sum()),
        ties=int((apart == 0).sum()),
        losses=int((apart < 0).sum()),
        pairs=pairs,
        only_a=only_a,
        only_b=only_b,
        winner="b" if low > 0 else "a" if high < 0 else "",
    )
