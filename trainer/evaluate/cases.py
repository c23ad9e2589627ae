"""The cases of an evaluation, and which of them are drawn."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.data.dataset import schema
from trainer.distributed import strategies
from trainer.drawing import panels, volumes
from trainer.evaluate import metrics


@dataclasses.dataclass(frozen=True)
class Case:
    """One evaluated image.

    Attributes:
        index: its place in the split's `cases`.
        dice: its mean Dice over the foreground classes that occur in it or in its prediction;
            1 if none does.
        image: [*S, C], as it is stored.
        labels: integers [*S].
        valid: float32 [*S].
        predicted: uint8 [*S].
        confidence: uint8 [*S], the probability of what is predicted, 255 for 1.
        spacing: of the pixels, along each axis: mm of volumes, 1 of images.
    """

    index: int
    dice: float
    image: np.ndarray
    labels: np.ndarray
    valid: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    spacing: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Scored:
    """What comparing some cases with their truth gave.

    Attributes:
        totals: of all of them, all that `eval_step.score` gives beside `OF_CASE`.
        cases: each, with its `counts` and its `soft` sums, [K, 3], see `eval_step.score`.
    """

    totals: Mapping[str, np.ndarray]
    cases: list[tuple[Case, np.ndarray, np.ndarray]]


# Kind → rank of a case of some index and Dice; of equal cases, the first in the split comes first.
ORDERS: Mapping[str, Callable[[int, float], Any]] = {
    "first": lambda index, dice: index,
    "worst": lambda index, dice: (dice, index),
    "best": lambda index, dice: (-dice, index),
}


class CaseSelector:
    """The cases of an evaluation that are drawn: its first ones, and by their Dice."""

    def __init__(self, *, first: int = 0, worst: int = 0, best: int = 0):
        """Selects so many of each kind."""
        self._numbers = {"first": first, "worst": worst, "best": best}
        self._cases: dict[str, list[Case]] = {kind: [] for kind in ORDERS}

    def add(self, case: Case) -> None:
        """Keeps the case where it is among those of a kind so far."""
        case = reduced(case)
        for kind, number in self._numbers.items():
            found = [*self._cases[kind], case]
            found.sort(key=lambda one: ORDERS[kind](one.index, one.dice))
            self._cases[kind] = found[:number]

    def cases(self, kind: str) -> list[Case]:
        """Returns the cases that are `first`, `worst` or `best`, in this order."""
        return list(self._cases[kind])

    def ranked(self, kind: str, strategy: tf.distribute.Strategy) -> dict[int, Case]:
        """Returns this worker's cases among those of a kind of all workers, by rank from 1.

        All workers must call it.
        """
        worker, num_workers = strategies.worker_of(strategy)
        mine = self._cases[kind]
        found = np.zeros((num_workers, self._numbers[kind], 3))
        for place, case in enumerate(mine):
            found[worker, place] = 1, case.index, case.dice
        there = strategies.sum_over_workers(strategy, found).reshape(-1, 3)
        of_all = sorted(
            ((int(index), dice) for is_there, index, dice in there if is_there),
            key=lambda one: ORDERS[kind](*one),
        )
        ranks = {index: rank for rank, (index, _) in enumerate(of_all[: self._numbers[kind]], 1)}
        return {ranks[case.index]: case for case in mine if case.index in ranks}


def reduced(case: Case) -> Case:
    """Returns a case as it is kept to be drawn: of large volumes every second, third … voxel."""
    step = -(-max(case.labels.shape) // volumes.LONGEST)
    if case.labels.ndim != 3 or step == 1:
        return case
    maps = ("image", "labels", "valid", "predicted", "confidence")
    part = (slice(None, None, step),) * 3
    return dataclasses.replace(
        case,
        spacing=tuple(step * length for length in case.spacing),
        **{name: getattr(case, name)[part].copy() for name in maps},
    )


def case_of(
    batch: Mapping[str, np.ndarray], row: int, found: Mapping[str, np.ndarray], dtype: str
) -> Case:
    """Returns a case of a batch.

    Args:
        batch: see `pipeline.evaluation_batches`, as arrays.
        row: of the case in the batch.
        found: of what `eval_step.score` returned, that of the case.
        dtype: of the stored images.
    """
    height, width = batch["size"][row]
    here = np.s_[row, :height, :width]
    return Case(
        index=int(batch["case"][row]),
        dice=mean_dice(found["counts"]),
        image=_stored(batch["images"][here], batch["offset"][row], batch["scale"][row], dtype),
        labels=batch["labels"][here].copy(),  # a view would hold the whole batch
        valid=batch["valid"][here].copy(),
        predicted=found["predicted"][:height, :width],
        confidence=found["confidence"][:height, :width],
        spacing=(1.0, 1.0),
    )


def _stored(image: np.ndarray, offset: np.ndarray, scale: np.ndarray, dtype: str) -> np.ndarray:
    """Returns a normalised image as it is stored, to be shown."""
    values = image * scale + offset
    if not np.issubdtype(dtype, np.integer):
        return values
    return np.clip(np.rint(values), 0, np.iinfo(dtype).max).astype(dtype)


def mean_dice(counts: np.ndarray) -> float:
    """Returns the mean Dice of counts [K, 3] over the foreground that occurs; 1 if none does."""
    dice = metrics.METRICS["dice"].compute(counts)[1:]
    return float(np.nanmean(dice)) if not np.isnan(dice).all() else 1.0


def panel_of(case: Case, manifest: schema.Manifest, split: str) -> np.ndarray:
    """Draws a case: truth, prediction, errors and confidence, uint8 [H, W, 3]."""
    name = manifest.splits[split].names[case.index]
    caption = f"{name}   Dice {case.dice:.3f}"
    classes = [entry.name for entry in manifest.classes]
    maps = case.image, case.labels, case.predicted, case.valid, case.confidence
    if manifest.rank == 3:
        return volumes.draw_comparison(*maps, case.spacing, caption, classes)
    return panels.draw_panel(*maps, caption, classes)
