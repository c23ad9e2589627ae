"""The rows of an evaluation: what was counted and measured in each case."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

BLOCK = 4096  # cases whose rows are put together before they are added up and handed on


@dataclasses.dataclass(frozen=True)
class CaseRows:
    """What was counted and measured in N cases of K classes.

    Attributes:
        cases: int64 [N], their places in the split's `cases`.
        counts: int64 [N, K, 3], see `counting.count_pixels`.
        soft: float64 [N, K, 3], see `counting.soft_sums`.
        measured: float64 [N, K] by name, of the metrics that need the maps of a case.
    """

    cases: np.ndarray
    counts: np.ndarray
    soft: np.ndarray
    measured: Mapping[str, np.ndarray]


def empty(num_classes: int, names: Collection[str]) -> CaseRows:
    """Returns the rows of no case, with these metrics that need maps."""
    sums, values = np.zeros((0, num_classes, 3)), np.zeros((0, num_classes))
    cases, counts = np.zeros(0, np.int64), sums.astype(np.int64)
    return CaseRows(cases, counts, sums, dict.fromkeys(names, values))


def of_case(
    case: int, counts: np.ndarray, soft: np.ndarray, measured: Mapping[str, np.ndarray]
) -> CaseRows:
    """Returns the row of one case: counts and soft sums [K, 3], metrics [K]."""
    values = {name: np.asarray(value, np.float64)[np.newaxis] for name, value in measured.items()}
    return CaseRows(
        np.array([case]),
        np.asarray(counts, np.int64)[np.newaxis],
        np.asarray(soft, np.float64)[np.newaxis],
        values,
    )


def concatenate(parts: Sequence[CaseRows]) -> CaseRows:
    """Returns the rows of several parts of a split, of which there is one at least."""
    return CaseRows(
        np.concatenate([part.cases for part in parts]),
        np.concatenate([part.counts for part in parts]),
        np.concatenate([part.soft for part in parts]),
        {
            name: np.concatenate([part.measured[name] for part in parts])
            for name in parts[0].measured
        },
    )


def gather(
    rows: CaseRows, num_cases: int, sum_over_workers: Callable[[np.ndarray], np.ndarray]
) -> CaseRows:
    """Returns the rows of all workers, in the order of the split; all of them must call it.

    Every worker then has all rows, and sends as much: it is for small splits.
    """

    def of_all(values: np.ndarray) -> np.ndarray:
        found = np.zeros((num_cases, *values.shape[1:]), values.dtype)
        found[rows.cases] = values
        return sum_over_workers(found)

    seen = np.flatnonzero(of_all(np.ones(len(rows.cases), np.int32)))
    return CaseRows(
        seen,
        of_all(rows.counts)[seen],
        of_all(rows.soft)[seen],
        {name: of_all(values)[seen] for name, values in rows.measured.items()},
    )
