"""What a run must remember beside its variables, kept in every checkpoint."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from trainer.errors import InputError


@dataclasses.dataclass(frozen=True)
class Progress:
    """The progress of a run.

    Attributes:
        evaluated_step: of the last evaluation of the val split.
        best: the best score; None before the first evaluation, and where it is undefined.
        best_loss: the val loss beside it.
        best_step: their step.
        worse: evaluations since then.
        total_steps: of the run; 0 in checkpoints that earlier releases wrote.
        unreported: the figures of each step since the last report, name → one number a step.
        seconds: see `goodput.Goodput`.
    """

    evaluated_step: int = 0
    best: float | None = None
    best_loss: float | None = None
    best_step: int = 0
    worse: int = 0
    total_steps: int = 0
    unreported: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def after(
        self, step: int, metric: str, figures: Mapping[str, float], higher_is_better: bool = True
    ) -> "Progress":
        """Returns the progress after one more evaluation.

        The score decides whether it is the best. Where that is undefined, then or now, or equal,
        the loss does: a val split without foreground has no Dice, and a run that has not found any
        yet has 0.

        Args:
            step: that was evaluated.
            metric: the figure that is compared: a score, or "loss", which is better where lower.
            figures: of the evaluation.
            higher_is_better: whether a higher score is better.
        """
        score, loss = _finite(figures.get(metric)), _finite(figures.get("loss"))
        best = _finite(self.best)
        best_loss = best if metric == "loss" else _finite(self.best_loss)
        if not self.best_step:
            is_better = True
        elif metric == "loss" or score is None or best is None or score == best:
            is_better = loss is not None and (best_loss is None or loss < best_loss)
            if metric != "loss":
                said = "undefined" if score is None else f"{score:.4g}"
                before = "undefined" if best is None else f"{best:.4g}"
                logging.info(
                    "Step %d: val %s is %s, and %s at step %d, the best so far; the lower loss "
                    "decides: step %d.",
                    *(step, metric, said, before, self.best_step),
                    step if is_better else self.best_step,
                )
        else:
            is_better = score > best if higher_is_better else score < best
        if not is_better:
            return dataclasses.replace(self, evaluated_step=step, worse=self.worse + 1)
        return dataclasses.replace(
            self, evaluated_step=step, best=score, best_loss=loss, best_step=step, worse=0
        )

    def exhausted(self, patience: int) -> bool:
        """Returns whether `patience` evaluations in a row were no better; patience 0 is endless."""
        return 0 < patience <= self.worse

    def to_dict(self) -> dict[str, Any]:
        """Returns a dict for JSON; `Progress(**…)` is its inverse."""
        return dataclasses.asdict(self)


def _finite(number: float | None) -> float | None:
    """Returns a number that can be compared; None where it is not defined."""
    return number if number is not None and math.isfinite(number) else None


class Series:
    """The figures of single steps, until they are reported as means.

    They are kept one by one, so that a mean does not depend on how many steps were taken at once,
    nor on whether the run was stopped between them.
    """

    def __init__(self, unreported: Mapping[str, Sequence[float]]):
        """Continues from what `values()` returned."""
        self._values = {
            name: [math.nan if number is None else number for number in numbers]  # null in JSON
            for name, numbers in unreported.items()
        }

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
    """Raises InputError if a loss or gradient is not finite.

    The gradient counts too: it spoils the weights one step before the loss shows it; except in
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
