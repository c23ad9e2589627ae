"""Which predictions to look at first: those whose masks are expected to have the lowest Dice.

Of a class with the probability p and the mask m at each pixel, the expected Dice is
2 Σ p m / (Σ p + Σ m) over all pixels: the soft Dice confidence (Borges et al., 2024,
arXiv:2402.10665). It is of the mask before post-processing, whose probabilities are known.
"""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence

import numpy as np

from trainer.errors import one_line

NAME = "review.csv"
SHOWN = 5  # lines of the terminal
DIGITS = 6


@dataclasses.dataclass(frozen=True)
class Expected:
    """The expected Dice of a prediction.

    Attributes:
        mean: over the foreground classes in the mask; if none is there, how sure that is: 1 less
            the largest probability of any.
        classes: of each foreground class; None if it is not in the mask.
    """

    mean: float
    classes: Sequence[float | None]


def sums_of(probabilities: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Returns what the expected Dice of some pixels is made of.

    Args:
        probabilities: float32 [..., K]; of two classes only the second's, K = 1.
        ids: uint8 [...], class ids, the most probable ones.

    Returns:
        float64 [foreground classes, 4]: Σ p, Σ m, Σ p m, and the largest p.
    """
    foreground = probabilities[..., 1:] if probabilities.shape[-1] > 1 else probabilities
    sums = np.zeros((foreground.shape[-1], 4))
    for k, of_class in enumerate(sums):
        own, mask = foreground[..., k], ids == k + 1
        of_class[:] = own.sum(dtype=np.float64), mask.sum(), own[mask].sum(dtype=float), own.max()
    return sums


class Sums:
    """What the expected Dice of an image or volume is made of, while its parts come."""

    def __init__(self, num_classes: int):
        """Has seen nothing."""
        self._sums = np.zeros((num_classes - 1, 3))  # of p, m and p m, of each foreground class
        self._highest = 0.0

    def add(self, part: np.ndarray) -> None:
        """Takes a part, see `sums_of`."""
        self._sums += part[:, :3]
        self._highest = max(self._highest, float(part[:, 3].max()))

    def expected(self) -> Expected:
        """Returns the expected Dice of all parts together."""
        found = [2 * both / (p + m) for p, m, both in self._sums if m]
        each = iter(round(dice, DIGITS) for dice in found)
        classes = [next(each) if m else None for _, m, _ in self._sums]
        mean = float(np.mean(found)) if found else 1 - self._highest
        return Expected(round(mean, DIGITS), classes)


def to_csv(found: Mapping[str, Expected], classes: Sequence[str]) -> str:
    """Returns a line for each mask, that of the lowest expected Dice first.

    Args:
        found: of each mask, by its file.
        classes: K names, background first.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_header(classes))
    for name in _ordered(found):
        one = found[name]
        cells = ("" if dice is None else f"{dice:.{DIGITS}f}" for dice in one.classes)
        writer.writerow([one_line(name), f"{one.mean:.{DIGITS}f}", *cells])
    return text.getvalue()


def is_ours(text: str, classes: Sequence[str]) -> bool:
    """Whether a file with our name is such a table of these classes."""
    return next(csv.reader(io.StringIO(text, newline="")), None) == _header(classes)


def described(found: Mapping[str, Expected], path: str) -> str:
    """Returns the first lines for a terminal."""
    lines = [f"{found[name].mean:.4f}  {one_line(name)}" for name in _ordered(found)[:SHOWN]]
    return "\n".join([f"Look at these first, by their expected Dice; {path} has all:", *lines])


def _ordered(found: Mapping[str, Expected]) -> list[str]:
    return sorted(found, key=lambda name: (found[name].mean, name))


def _header(classes: Sequence[str]) -> list[str]:
    return ["mask", "expected_dice", *(f"expected_dice/{name}" for name in classes[1:])]
