"""Reads what an evaluation wrote of each case, and says whether two of them may be compared."""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from trainer.checkpointing import run_metadata
from trainer.errors import InputError, one_line
from trainer.evaluate import case_tables
from trainer.evaluate.case_tables import SUMMARY
from trainer.storage import files


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One metric of each case and class of a run on a split.

    Attributes:
        folder: of the run.
        split: the evaluation's name in the run folder.
        cases: their names, sorted.
        classes: their names, the background first.
        values: float64 [N, K]; NaN where the metric is undefined.
        convention: of the metric, from summary.json.
        tolerance: of surfaces, likewise.
        data_fingerprint: of the data folder that was evaluated.
    """

    folder: str
    split: str
    cases: tuple[str, ...]
    classes: tuple[str, ...]
    values: np.ndarray
    convention: Mapping[str, Any]
    tolerance: Mapping[str, Any] | None
    data_fingerprint: str

    @property
    def better(self) -> str:
        """Which values are better: "higher", "lower" or "near 0"."""
        return self.convention["better"]

    def of_foreground(self) -> np.ndarray:
        """Returns the values of the foreground classes [N, K - 1] so that larger ones are better.

        Where those near 0 are better, their absolute values count.
        """
        values = self.values[:, 1:]
        if self.better == "higher":
            return values
        return -np.abs(values) if self.better == "near 0" else -values


def read(folder: str, split: str, metric: str) -> Evaluation:
    """Returns a metric of every case that a run was evaluated on.

    Args:
        folder: of the run.
        split: the evaluation's name in it, such as test.
        metric: a column of its tables.

    Raises:
        InputError: there is no such evaluation, or its files are damaged.
    """
    place = os.path.join(folder, "evaluation", split)
    path = os.path.join(place, SUMMARY)
    if not files.exists(path):
        _refuse_missing(folder, split)
    summary = _parse(path)
    known = summary.get("metrics", {})
    if metric not in known:
        raise InputError(
            f"--metric={metric} is not in {path}, which has {', '.join(known) or 'none'}; name one "
            "of them, or evaluate again."
        )
    table = case_tables.read(place, [metric])
    if list(table.classes) != list(summary["classes"]):
        raise InputError(f"{path} and the table beside it differ in their classes; evaluate again.")
    order = sorted(range(len(table.cases)), key=table.cases.__getitem__)
    return Evaluation(
        folder,
        split,
        tuple(table.cases[n] for n in order),
        table.classes,
        table.columns[metric][order],
        known[metric],
        summary.get("tolerance"),
        summary.get("data_fingerprint") or _fingerprint_of(folder),
    )


def check_comparable(a: Evaluation, b: Evaluation) -> None:
    """Raises InputError unless both measured the same of the same cases."""
    again = "evaluate both on the same data with the same release"
    if a.data_fingerprint != b.data_fingerprint:
        raise InputError(
            f"{a.folder} was evaluated on data with fingerprint {a.data_fingerprint[:12]} and "
            f"{b.folder} on data with {b.data_fingerprint[:12]}; {again}."
        )
    if a.classes != b.classes:
        raise InputError(
            f"{a.folder} has the classes {', '.join(a.classes)} and {b.folder} "
            f"{', '.join(b.classes)}; {again}."
        )
    if dict(a.convention) != dict(b.convention):
        raise InputError(
            f"{a.folder} and {b.folder} measured another metric by the same name, as their "
            f"{SUMMARY} say; {again}."
        )
    if a.tolerance != b.tolerance:
        raise InputError(
            f"{a.folder} and {b.folder} were evaluated with another --tolerance_mm; {again}."
        )
    if a.cases != b.cases:
        only = sorted(set(a.cases) ^ set(b.cases))
        holder = a.folder if only[0] in a.cases else b.folder
        raise InputError(
            f"{a.folder} has {len(a.cases)} cases and {b.folder} {len(b.cases)}, and they do not "
            f"match: {one_line(only[0])} is only in {holder}; {again}."
        )


def _refuse_missing(folder: str, split: str) -> None:
    """Raises InputError: a run has no evaluation of that name."""
    there = [
        name
        for name in files.list_folder(os.path.join(folder, "evaluation"))
        if files.exists(os.path.join(folder, "evaluation", name, SUMMARY))
    ]
    if there:
        raise InputError(
            f"{folder} has no evaluation --split={split}, only {', '.join(there)}; name one that "
            "both runs have, or evaluate it."
        )
    raise InputError(
        f"{folder} has no evaluation; name a run folder that trainer.task finished, or evaluate it."
    )


def _parse(path: str) -> dict[str, Any]:
    try:
        found = json.loads(files.read_text(path))
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); evaluate again.") from None
    if not isinstance(found, dict) or not isinstance(found.get("classes"), dict):
        raise InputError(f"{path} is not a summary of trainer.evaluate; evaluate again.")
    return found


def _fingerprint_of(folder: str) -> str:
    """Returns the fingerprint of a run's data, for an evaluation of a release that wrote none."""
    metadata = run_metadata.find(folder)
    return metadata["data_fingerprint"] if metadata else ""
