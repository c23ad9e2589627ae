"""Finds the largest batch that fits, with few compilations."""

import dataclasses
from collections.abc import Callable

MOST_TRIALS = 8


@dataclasses.dataclass(frozen=True)
class Trial:
    """What compiling the step for a batch showed.

    Attributes:
        batch_size: images per replica.
        fits: whether it does.
        total: bytes that it needs; None if the compiler only said that they are too many.
    """

    batch_size: int
    fits: bool
    total: int | None


def find_largest(
    measure: Callable[[int], Trial], start: int, usable: float, multiple: int = 1
) -> Trial | None:
    """Returns the largest batch that fits, to within a sixteenth, or None if none does.

    Memory grows with the batch nearly in a line: two compilations give the line, a third checks
    where it meets the chip's memory, and bisection mends what is not as straight.

    Args:
        measure: compiles the step for a batch.
        start: the first batch to try, a multiple of `multiple`.
        usable: bytes that a program can have.
        multiple: that batches must be of.
    """
    trials = [measure(start)]
    while len(trials) < MOST_TRIALS:
        best = max((t.batch_size for t in trials if t.fits), default=0)
        worst = min((t.batch_size for t in trials if not t.fits), default=None)
        grain = max(1, best // multiple // 16) * multiple
        if worst is not None and worst - best <= grain:
            break
        guess = _on_line(trials, usable)
        if guess is None:  # no line yet
            guess = 2 * best if worst is None else (best + worst) / 2
        guess = int(guess / multiple) * multiple
        guess = max(guess, best + grain)  # never what is known
        if worst is not None:
            guess = min(guess, worst - grain if worst - grain > best else worst - multiple)
        trials.append(measure(guess))
    return max((t for t in trials if t.fits), key=lambda t: t.batch_size, default=None)


def _on_line(trials: list[Trial], usable: float) -> float | None:
    """Returns where the line through two batches of known memory meets `usable`.

    They are the largest, and the next that is at most half of it: the compiler's plans of batches
    that are near each other differ by some percent, in either direction.
    """
    known = sorted((t.batch_size, t.total) for t in trials if t.total is not None)
    if len(known) < 2:
        return None
    second, high = known[-1]
    first, low = max([pair for pair in known if 2 * pair[0] <= second] or known[:1])
    slope = (high - low) / (second - first)
    return second + (usable - high) / slope if slope > 0 else None
