"""Reads what a run folder says, whether its run has ended or not."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainer.checkpointing import run_metadata
from trainer.errors import InputError
from trainer.evaluate import confusion
from trainer.report import evaluation
from trainer.storage import files

SPLITS = ("test", "val", "train")  # the evaluation that is shown is the first that there is


@dataclasses.dataclass(frozen=True)
class Run:
    """What is shown of a run.

    Attributes:
        folder: its name.
        metadata: the content of run.json.
        lines: of metrics.jsonl.
        split: that was evaluated; empty if none was.
        summary: of that evaluation.
        pictures: kind → (name, PNG) of its cases.
        cases: Dice of its cases; None where there is no table of them.
        confusions: int64 [K, K] of its pixels, truth by prediction; None where there are none.
    """

    folder: str
    metadata: Mapping[str, Any]
    lines: Sequence[Mapping[str, Any]]
    split: str
    summary: Mapping[str, Any]
    pictures: Mapping[str, Sequence[tuple[str, bytes]]]
    cases: evaluation.Cases | None = None
    confusions: np.ndarray | None = None

    def curve(self, split: str, name: str) -> list[tuple[float, float]]:
        """Returns (step, figure) of a split, where it is defined."""
        return [
            (line["step"], line[name])
            for line in self.lines
            if line["split"] == split and line.get(name) is not None  # null: no finite number
        ]


def read(folder: str, num_cases: int) -> Run:
    """Returns the run of a folder, with so many pictures of each kind.

    Raises:
        InputError: the folder holds no run, or its files are damaged.
    """
    metadata = run_metadata.find(folder)
    if metadata is None:
        raise InputError(
            f"{folder} has no {run_metadata.NAME}; name a folder that trainer.task wrote."
        )
    path = os.path.join(folder, "metrics.jsonl")
    text = files.read_text(path) if files.exists(path) else ""
    complete = text[: text.rfind("\n") + 1]  # a running job may be writing the last line
    lines = [_line(path, line) for line in complete.split("\n") if line.strip()]
    for split in SPLITS:
        place = os.path.join(folder, "evaluation", split)
        path = os.path.join(place, "summary.json")
        if files.exists(path):
            pictures = {k: _pictures(place, k, num_cases) for k in ("worst", "best")}
            return Run(
                folder,
                metadata,
                lines,
                split,
                _summary(path),
                pictures,
                evaluation.read_cases(place),
                confusion.read(place),
            )
    return Run(folder, metadata, lines, "", {}, {})


def _line(path: str, text: str) -> dict[str, Any]:
    """Returns a line of metrics.jsonl; everything except the split is a number or null."""
    line = _json(path, text)
    figures = dict(line) if isinstance(line, dict) else {}
    whole = isinstance(figures.pop("split", None), str) and isinstance(figures.get("step"), int)
    if not whole or not all(isinstance(x, int | float | None) for x in figures.values()):
        raise InputError(f"{path} has a line that is not one of figures: {text[:80]}; restore it.")
    return line


def _summary(path: str) -> dict[str, Any]:
    """Returns the summary of an evaluation, with all that the page shows."""
    summary = _json(path, files.read_text(path))
    try:
        for entry in summary["classes"].values():
            for group in ("per_image", "pooled"):
                entry[group]["dice"]
        summary["images"]
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a summary of trainer.evaluate ({error!r}); evaluate again."
        ) from None
    return summary


def _json(path: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not JSON ({error}); restore it.") from None


def _pictures(place: str, kind: str, number: int) -> list[tuple[str, bytes]]:
    folder = os.path.join(place, kind)
    found = []
    names = [name for name in files.list_folder(folder) if name.endswith(".png")]
    for name in names[:number]:
        with files.open_file(os.path.join(folder, name), "rb") as file:
            found.append((name.removesuffix(".png"), file.read()))
    return found
