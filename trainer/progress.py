"""What a run must remember beside its variables, kept in every checkpoint."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from trainer.errors import InputError


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        evaluated_step: of the last evaluation of the val split.
        best: the best score; None before the first evaluation.
        best_step: its step.
        worse: evaluations since then.
        unreported: the figures of each step since the last report, name → one number a step.
        seconds: see `goodput.Goodput`.
    """

    evaluated_step: int = 0
    best: float | None = None
    best_step: int = 0
    worse: int = 0
    unreported: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def after(self, step: int, metric: str, figures: Mapping[str, float]) -> "Progress":
        """Returns the progress after one more evaluation; an undefined score is the worst."""
        sign = -1 if metric == "loss" else 1
        score = figures.get(metric, -sign * float("inf"))
        if self.best is None or sign * score > sign * self.best:
            return dataclasses.replace(
                self, evaluated_step=step, best=score, best_step=step, worse=0
            )
        return dataclasses.replace(self, evaluated_step=step, worse=self.worse + 1)

    def exhausted(self, patience: int) -> bool:
        """Says whether `patience` evaluations in a row were no better; patience 0 is endless."""
        return 0 < patience <= self.worse

    def to_dict(self) -> dict[str, Any]:
        """Returns what JSON can hold; `Progress(**…)` is its inverse."""
        return dataclasses.asdict(self)


class Series:
    """The figures of single steps, until they are reported as means.

    They are kept one by one, so that a mean does not depend on how many steps were taken at once,
    nor on whether the run was stopped between them.
    """

    def __init__(self, unreported: Mapping[str, Sequence[float]]):
        """Goes on from what `values()` returned."""
        self._values = {name: list(numbers) for name, numbers in unreported.items()}

    def add(self, figures: Mapping[str, np.ndarray]) -> None:
        """Appends name → float32 [number of steps]."""
        for name, numbers in figures.items():
            self._values.setdefault(name, []).extend(numbers.tolist())

    def values(self) -> dict[str, list[float]]:
        """Returns name → numbers."""
        return {name: list(numbers) for name, numbers in self._values.items()}

    def take_means(self) -> dict[str, float]:
        """Returns name → mean, and forgets the numbers."""
        means = {name: float(np.mean(numbers)) for name, numbers in self._values.items()}
        self._values = {}
        return means


def check_finite(
    figures: Mapping[str, np.ndarray],
    first_step: int,
    precision: str,
    saved_steps: Callable[[], Sequence[int]],
) -> None:
    """Raises InputError if training has left the finite numbers.

    The gradient counts too, for it spoils the weights one step before the loss shows it; except in
    float16, where steps with an infinite gradient are left out and the loss scale is lowered.

    Args:
        figures: `loss` and `gradient_norm`, float32 [number of steps].
        first_step: number of the first of them.
        precision: of the layers.
        saved_steps: returns the steps of the checkpoints.
    """
    names = ["loss"] if precision == "float16" else ["loss", "gradient_norm"]
    for name in names:
        wrong = np.flatnonzero(~np.isfinite(figures[name]))
        if len(wrong):
            saved = saved_steps()
            kept = (
                f"the checkpoint of step {saved[-1]} is kept"
                if saved
                else "there is no checkpoint yet"
            )
            raise InputError(
                f"The {name} is {figures[name][wrong[0]]} at step {first_step + wrong[0]}; {kept}. "
                "Try a lower --learning_rate, more --warmup_steps, a lower --clip_norm, or "
                "--precision=float32."
            )
