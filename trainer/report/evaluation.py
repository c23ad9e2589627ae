"""What a report says of an evaluation beside its summary: intervals, histogram, confusions."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from trainer.evaluate import bootstrap, case_tables

BINS = 20  # of the histogram, over 0 … 1
FEW = 10  # cases, with fewer of which an interval is too narrow
DRAWS = 2 * 10**7  # cases that are drawn for an interval at most, which takes a second
FEWEST_SAMPLES = 200


@dataclasses.dataclass(frozen=True)
class Cases:
    """The Dice of N cases.

    Attributes:
        classes: names of the K foreground classes.
        dice: float64 [N, K], NaN where undefined.
        intervals: [K + 1, 2], of each class's mean, and last of the mean over classes.
        samples: resamples of which they are.
    """

    classes: Sequence[str]
    dice: np.ndarray
    intervals: np.ndarray
    samples: int

    def of_cases(self) -> np.ndarray:
        """Returns the mean over its classes of each case that has any: float64 [M], M ≤ N."""
        means = bootstrap.mean_of_defined(self.dice)
        return means[~np.isnan(means)]

    def histogram(self) -> list[int]:
        """Returns how many cases have a Dice in each of BINS equal parts of 0 … 1."""
        return np.histogram(self.of_cases(), BINS, (0, 1))[0].tolist()


def read_cases(folder: str) -> Cases | None:
    """Returns the cases of an evaluation; None if an earlier release wrote no table.

    Raises:
        InputError: the table is damaged, or pyarrow is missing.
    """
    if not case_tables.is_there(folder):
        return None
    table = case_tables.read(folder, ["dice"])
    dice = table.columns["dice"][:, 1:]
    samples = min(max(DRAWS // len(dice), FEWEST_SAMPLES), bootstrap.SAMPLES)
    return Cases(table.classes[1:], dice, bootstrap.intervals(dice, samples), samples)
