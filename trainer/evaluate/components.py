"""Post-processing of masks: only the largest component, of the foreground or of a class, is kept.

Whether that helps is decided on validation data, by nnU-Net's rule (Isensee et al., 2021): of the
whole foreground if the mean Dice improves and no class gets worse; then of each class whose own
Dice improves. A component is connected by sides, or faces; of two equally large ones the first is
kept.
"""

import csv
import dataclasses
import io
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging
from scipy import ndimage

from trainer import json_text
from trainer.errors import InputError
from trainer.evaluate import metrics, scores
from trainer.storage import files

NAME = "postprocessing.json"  # in the folder of a run, or of a cross-validation
COUNTS = "components.csv"  # beside the cases.csv of the evaluation that decides
# What is kept in each form of a prediction that is measured: all, the largest component of the
# foreground, that of each class, and that of each class after that of the foreground.
FORMS = ("all", "foreground", "class", "foreground, class")


@dataclasses.dataclass(frozen=True)
class Decision:
    """Of what only the largest component is kept.

    Attributes:
        foreground: whether of all classes other than the background together.
        classes: ids of those of which it is kept, after that.
    """

    foreground: bool = False
    classes: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        """Returns whether anything is changed."""
        return self.foreground or bool(self.classes)

    def apply(self, ids: np.ndarray) -> np.ndarray:
        """Returns a prediction, uint8 [*S], with background in place of what is not kept."""
        if self.foreground:
            ids = np.where(_largest(ids > 0), ids, np.uint8(0))
        for k in self.classes:
            own = ids == k
            ids = np.where(own & ~_largest(own), np.uint8(0), ids)
        return ids

    def described(self, classes: Sequence[str]) -> str:
        """Returns it in words; empty if nothing is changed."""
        parts = ["the foreground"] if self.foreground else []
        parts += [classes[k] for k in self.classes]
        return f"only the largest component of {', of '.join(parts)} is kept" if parts else ""


ALL = Decision()  # every component is kept


def count(labels: np.ndarray, predicted: np.ndarray, valid: np.ndarray, num: int) -> np.ndarray:
    """Counts the pixels of each class in truth, in a prediction and in both.

    Args:
        labels: integers [*S], class ids.
        predicted: integers [*S], class ids.
        valid: [*S], 0 where a pixel does not count.
        num: number of classes, K.

    Returns:
        int64 [K, 3], as `counting.count_pixels` counts them.
    """
    return counts_of(count_confusions(labels, predicted, valid, num))


def counts_of(confusions: np.ndarray) -> np.ndarray:
    """Returns the pixels of each class in truth, in the prediction and in both, int64 [K, 3]."""
    found = confusions.sum(axis=1), confusions.sum(axis=0), confusions.diagonal()
    return np.stack(found, axis=-1)


def count_confusions(
    labels: np.ndarray, predicted: np.ndarray, valid: np.ndarray, num: int
) -> np.ndarray:
    """Counts the pixels of each true class by the class that is predicted, see `count`.

    Returns:
        int64 [K, K], as `counting.count_confusions` counts them.
    """
    here = np.asarray(valid) > 0
    pairs = labels[here].astype(np.int32) * num + predicted[here]
    return np.bincount(pairs, minlength=num**2).reshape(num, num).astype(np.int64)


def measure(labels: np.ndarray, predicted: np.ndarray, valid: np.ndarray, num: int) -> np.ndarray:
    """Counts the pixels of each form of a prediction, int64 [len(FORMS), K, 3]; see `count`."""
    every = tuple(range(1, num))
    decisions = (
        ALL,
        Decision(foreground=True),
        Decision(classes=every),
        Decision(foreground=True, classes=every),
    )
    return np.stack([count(labels, one.apply(predicted), valid, num) for one in decisions])


class Measured:
    """What `measure` counts in each case of a split.

    Attributes:
        counts: int64 [N, len(FORMS), K, 3]; 0 of cases that were not added.
    """

    def __init__(self, num_cases: int, num_classes: int):
        """Has counted nothing."""
        self.counts = np.zeros((num_cases, len(FORMS), num_classes, 3), np.int64)

    def add(self, index: int, labels: np.ndarray, predicted: np.ndarray, valid: np.ndarray) -> None:
        """Counts a case."""
        self.counts[index] = measure(labels, predicted, valid, self.counts.shape[2])


def decide(counts: np.ndarray) -> Decision:
    """Returns what is kept, by the counts of validation cases, int64 [N, len(FORMS), K, 3]."""
    dice = dict(zip(FORMS, np.moveaxis(_dice(counts)[..., 1:], 1, 0), strict=True))
    means = {form: _over_cases(values) for form, values in dice.items()}
    every, of_foreground = means["all"], means["foreground"]
    worse = np.nan_to_num(of_foreground) < np.nan_to_num(every)
    foreground = _mean(of_foreground) > _mean(every) and not worse.any()
    base = means["foreground" if foreground else "all"]
    own = means["foreground, class" if foreground else "class"]
    better = np.nan_to_num(own, nan=-1.0) > np.nan_to_num(base, nan=np.inf)
    return Decision(foreground, tuple(int(k) + 1 for k in np.flatnonzero(better)))


def after(counts: np.ndarray, decision: Decision) -> np.ndarray:
    """Returns the counts of a decision, int64 [N, K, 3], of those of `measure`.

    The background's are those of the first form, which no score of the foreground needs.
    """
    place = FORMS.index("foreground") if decision.foreground else 0
    found = counts[:, place].copy()
    for k in decision.classes:
        found[:, k] = counts[:, place + 2, k]
    found[:, 0] = counts[:, 0, 0]
    return found


def settle(folder: str, counts: np.ndarray, classes: Sequence[str], **facts: Any) -> str:
    """Decides for a run or cross-validation, and writes postprocessing.json into its folder.

    Args:
        folder: of the run or cross-validation.
        counts: of its validation cases, see `decide`.
        classes: K names.
        **facts: what they were, for the file.

    Returns:
        A line that says what was decided.
    """
    decision, names = decide(counts), list(classes[1:])
    before, later = (
        _over_cases(_dice(values)[:, 1:]) for values in (counts[:, 0], after(counts, decision))
    )
    content = {
        "keep_largest": {
            "foreground": decision.foreground,
            "classes": [classes[k] for k in decision.classes],
        },
        "decided_on": {**facts, "cases": len(counts)},
        "dice": {
            "before": dict(zip(names, before.tolist(), strict=True)),
            "after": dict(zip(names, later.tolist(), strict=True)),
        },
    }
    files.write_whole(os.path.join(folder, NAME), json_text.dumps(content, indent=1) + "\n")
    if not decision:
        return "Post-processing: no largest component is better than all of them; all are kept."
    return (
        f"Post-processing: {decision.described(classes)}; validation Dice {_mean(before):.4f} → "
        f"{_mean(later):.4f}. {folder}/{NAME} has it for evaluate and predict."
    )


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


def read(folder: str, classes: Sequence[str]) -> Decision:
    """Returns what was decided for a run or cross-validation; nothing if there is no decision.

    Raises:
        InputError: the file is damaged, or of other classes.
    """
    path = os.path.join(folder, NAME)
    if not files.exists(path):
        return ALL
    try:
        found = json.loads(files.read_text(path))["keep_largest"]
        foreground, names = found["foreground"], found["classes"]
        if not isinstance(foreground, bool):
            raise TypeError("foreground is neither true nor false")
        return Decision(foreground, tuple(list(classes).index(name, 1) for name in names))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} does not say what is kept ({error}); decide again by trainer.evaluate "
            "--components=decide, or remove it."
        ) from None


def of_ensemble(folders: Sequence[str], classes: Sequence[str]) -> Decision:
    """Returns what is kept of the mean of some runs, or of a cross-validation: their one decision.

    Where theirs differ, all components are kept, with a warning.

    Raises:
        InputError: as for `read`.
    """
    found = {read(folder, classes) for folder in folders}
    if len(found) == 1:
        return found.pop()
    logging.warning(
        "Warning: %s were decided for differently on what is kept of a mask, as the %s of each "
        "says; all components are kept. Predict by a cross-validation, or by one run, to apply it.",
        ", ".join(folders),
        NAME,
    )
    return ALL


def to_csv(counts: np.ndarray, cases: Sequence[str], classes: Sequence[str]) -> str:
    """Returns the counts of `measure` as a table, a line for each case, form and class."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["case", "kept", "class", "truth", "prediction", "intersection"])
    for case, of_case in zip(cases, counts, strict=True):
        for form, of_form in zip(FORMS, of_case, strict=True):
            for name, of_class in zip(classes, of_form, strict=True):
                table.writerow([case, form, name, *of_class])
    return text.getvalue()


def from_csv(text: str, path: str, num_classes: int) -> np.ndarray:
    """Returns the counts of a table, int64 [N, len(FORMS), K, 3].

    Raises:
        InputError: it is damaged.
    """
    try:
        rows = list(csv.reader(io.StringIO(text, newline="")))[1:]
        numbers = np.array([[int(cell) for cell in row[3:]] for row in rows], np.int64)
        return numbers.reshape(-1, len(FORMS), num_classes, 3)
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}); remove it to evaluate again.") from None


def _largest(mask: np.ndarray) -> np.ndarray:
    """Returns the largest component of a mask, bool [*S]."""
    places = np.nonzero(mask.any(axis=tuple(range(1, mask.ndim))))[0]
    if not places.size:
        return mask
    here = slice(places[0], places[-1] + 1)  # labels take four bytes a pixel
    labels, number = ndimage.label(mask[here])
    if number == 1:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    found = np.zeros_like(mask)
    found[here] = labels == sizes.argmax()
    return found


def _dice(counts: np.ndarray) -> np.ndarray:
    return metrics.METRICS["dice"].compute(counts)


def _over_cases(values: np.ndarray) -> np.ndarray:
    return scores.mean_over_images(values)
