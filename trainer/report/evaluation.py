"""What a report says of an evaluation beside its summary: intervals, histogram, confusions."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from trainer.errors import InputError
from trainer.evaluate import bootstrap, case_tables, confusion

BINS = 20  # of the histogram, over 0 … 1
FEW = 10  # cases, below which an interval is too narrow


@dataclasses.dataclass(frozen=True)
class Cases:
    """The Dice of N cases and K foreground classes.

    Attributes:
        classes: the K names.
        dice: float64 [N, K], NaN where undefined.
        intervals: [K + 1, 2], of each class's mean, and last of the mean over classes.
    """

    classes: Sequence[str]
    dice: np.ndarray
    intervals: np.ndarray

    def of_cases(self) -> np.ndarray:
        """Returns the mean over its classes of each case that has any: float64 [M], M ≤ N."""
        defined = ~np.isnan(self.dice)
        sums, counts = np.where(defined, self.dice, 0).sum(axis=1), defined.sum(axis=1)
        return sums[counts > 0] / counts[counts > 0]

    def histogram(self) -> list[int]:
        """Returns how many cases have a Dice in each of BINS equal parts of 0 … 1."""
        return np.histogram(self.of_cases(), BINS, (0, 1))[0].tolist()


def read(folder: str) -> tuple[Cases | None, np.ndarray | None]:
    """Returns the cases of an evaluation and its confusions, int64 [K, K]; None where it has none.

    Raises:
        InputError: a file is damaged.
    """
    try:
        table = case_tables.read(folder, ["dice"])
    except InputError:  # of an earlier release, or without pyarrow
        return None, confusion.read(folder)
    dice = table.columns["dice"][:, 1:]
    cases = Cases(table.classes[1:], dice, bootstrap.intervals(dice)) if len(dice) else None
    return cases, confusion.read(folder)
