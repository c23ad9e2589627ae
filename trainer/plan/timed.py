"""Chooses width, batch and steps for the time at hand, by what steps take on this machine."""

import dataclasses
from collections.abc import Callable, Iterator

from absl import logging

from trainer.data.planning.auto_rules import ENOUGH_STEPS, FEW_STEPS, MANY_STEPS, WIDTHS, Setup

MARGIN = 0.95  # of the time that is left for steps: checkpoints and reports take some, too
SHORT_MINUTES = 10  # below, a run is evaluated less often
MOST_EVALUATION = 0.3  # of the time
SMALLEST_BATCH = {2: 4, 3: 2}  # by rank
LEAST_STEPS = 100  # of a plan, however short the time
SURFACES = 1.5  # that the final evaluation takes of one during the run: it measures surfaces


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """Seconds that parts of a job take.

    Attributes:
        start: until the first step is done.
        step: of a step, its input included.
        evaluation: of the val split.
        precision: that the job's layers compute in.
    """

    start: float
    step: float
    evaluation: float
    precision: str


Measure = Callable[[Setup], Measured]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fitted:
    """A setup with the steps that the time allows.

    Attributes:
        setup: what a step computes.
        steps: of the run.
        evaluations: of the val split during the run.
        reason: why so many steps.
        warning: for the user, if the time is short; empty otherwise.
    """

    setup: Setup
    steps: int
    evaluations: int
    reason: str
    warning: str = ""


def fit(
    setup: Setup, rank: int, minutes: float, imports: float, final: float, measure: Measure
) -> Fitted:
    """Returns the setup that suits the time, and its steps.

    Args:
        setup: to begin with.
        rank: of the data: 2 for images, 3 for volumes.
        minutes: from the start of trainer.task to its end.
        imports: seconds that loading TensorFlow takes.
        final: cases of the last evaluation for each of the val split.
        measure: what a setup takes.
    """
    seen: dict[tuple[int, int], Fitted] = {}
    starts: list[float] = []  # TensorFlow begins during the first, as during that of a run

    def fitted(setup: Setup) -> Fitted:
        key = (setup.filters, setup.batch_size)
        if key not in seen:
            found = measure(setup)
            starts.append(found.start)
            found = dataclasses.replace(found, start=max(starts))
            seen[key] = _with_steps(setup, 60 * minutes, imports, final, found)
        return seen[key]

    for other in _wider(setup):
        if fitted(setup).steps < MANY_STEPS or fitted(other).steps < MANY_STEPS:
            break
        setup = other
    for faster, least in zip(SHORTER[rank], (ENOUGH_STEPS, FEW_STEPS), strict=True):
        for other in faster(setup, rank, least):
            if fitted(setup).steps >= least:
                break
            setup = other
    found = dataclasses.replace(fitted(setup), setup=setup)
    if found.warning:
        logging.warning("%s", found.warning)
    return found


def _wider(setup: Setup) -> Iterator[Setup]:
    for filters in WIDTHS:
        if filters > setup.filters:
            yield setup.with_filters(
                filters, f"The widest of {WIDTHS} with which {MANY_STEPS} steps fit into the time."
            )


def _smaller(setup: Setup, rank: int, least: int) -> Iterator[Setup]:
    batch_size = setup.batch_size
    while batch_size > SMALLEST_BATCH[rank]:
        batch_size //= 2
        yield setup.with_batch(
            batch_size, f"Smaller than usual, for {least} steps do not fit otherwise."
        )


def _narrower(setup: Setup, rank: int, least: int) -> Iterator[Setup]:
    for filters in reversed(WIDTHS):
        if filters < setup.filters:
            yield setup.with_filters(
                filters, f"Narrower than usual, for {least} steps do not fit otherwise."
            )


# What makes steps shorter, by rank, first what is tried first (measured: docs/plan.md).
SHORTER = {2: (_narrower, _smaller), 3: (_smaller, _narrower)}


def _with_steps(
    setup: Setup, total: float, imports: float, final: float, found: Measured
) -> Fitted:
    """Returns how many steps fit beside start and evaluation."""
    begun, last = imports + found.start, SURFACES * final * found.evaluation
    wanted = 3 if total < 60 * SHORT_MINUTES else 5
    spare = MOST_EVALUATION * total - last
    evaluations = max(1, min(wanted, int(spare / found.evaluation)))
    left = MARGIN * (total - begun - last - evaluations * found.evaluation)
    fitting = int(left / found.step)
    steps = max(LEAST_STEPS, fitting)
    reason = (
        f"{found.step:.3g} s a step in {found.precision} on this machine, in the "
        f"{max(0.0, left):.0f} s that {begun:.0f} s to start, {evaluations} evaluations of "
        f"{found.evaluation:.3g} s and a last one of {last:.3g} s leave of {total / 60:g} min."
    )
    warning = ""
    if fitting < FEW_STEPS // 2:
        longer = (total + (steps - fitting) * found.step / MARGIN) / 60
        warning = (
            f"Warning: --minutes={total / 60:g} is short for these data on this machine: {steps} "
            f"steps take about {longer:.2g} minutes, and a network needs {FEW_STEPS}; give it more."
        )
    return Fitted(setup=setup, steps=steps, evaluations=evaluations, reason=reason, warning=warning)
