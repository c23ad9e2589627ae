"""What all folds say together: of every case, by the model that did not see it."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainer import json_text, text_table
from trainer.data.dataset import schema
from trainer.errors import InputError, one_line
from trainer.evaluate import case_tables, metrics, scores
from trainer.evaluate.case_rows import CaseRows
from trainer.evaluate.case_tables import SUMMARY
from trainer.storage import files

MEAN = "mean, foreground"


@dataclasses.dataclass(frozen=True)
class OutOfFold:
    """The cases of all folds, fold by fold.

    Attributes:
        cases: N names.
        folds: int [N], of each case.
        counts: int64 [N, K, 3], see `metrics.score`.
        measured: float64 [N, K] by name, of the metrics that need the maps of a case.
        summary: of all cases, see `scores.summarize`, with each fold's means and their spread.
    """

    cases: tuple[str, ...]
    folds: np.ndarray
    counts: np.ndarray
    measured: Mapping[str, np.ndarray]
    summary: dict[str, Any]


def read(run_dirs: Sequence[str], manifest: schema.Manifest, tolerance: float) -> OutOfFold:
    """Returns the cases that the folds were evaluated on.

    Args:
        run_dirs: of the folds, in their order.
        manifest: of the data folder.
        tolerance: up to which two surfaces agreed.

    Raises:
        InputError: an evaluation is damaged.
    """
    classes = [entry.name for entry in manifest.classes]
    tables = [_table(run_dir, classes) for run_dir in run_dirs]
    cases = tuple(case for names, _, _ in tables for case in names)
    numbers = np.repeat(np.arange(len(tables)), [len(names) for names, _, _ in tables])
    counts = np.concatenate([counts for _, counts, _ in tables])
    measured = {
        name: np.concatenate([values[name] for _, _, values in tables]) for name in tables[0][2]
    }
    # What a soft Dice is made of is in no table: those scores are null.
    soft = np.full(counts.shape, np.nan)
    summary = scores.summarize(
        counts,
        soft,
        classes,
        measured,
        length="mm" if manifest.rank == 3 else "px",
        tolerance=tolerance,
    )
    values = scores.per_case(counts, measured)
    summary |= _of_folds(values, numbers, classes)
    return OutOfFold(cases, numbers, counts, measured, summary)


def write(run_dir: str, found: OutOfFold, data_fingerprint: str) -> None:
    """Writes summary.json and the tables of a cross-validation, as of an evaluation of val.

    They have a column of folds at their end.
    """
    folder = os.path.join(run_dir, "evaluation", "val")
    files.make_folder(folder)
    content = {**found.summary, "data_fingerprint": data_fingerprint}
    files.write_whole(os.path.join(folder, SUMMARY), json_text.dumps(content, indent=1) + "\n")
    soft = np.full(found.counts.shape, np.nan)
    rows = CaseRows(np.arange(len(found.cases)), found.counts, soft, found.measured)
    case_tables.write(folder, found.cases, list(found.summary["classes"]), rows, fold=found.folds)


def table(found: OutOfFold) -> str:
    """Returns the tracked metrics of each class: mean, and its spread over cases and over folds."""
    parts, spread = found.summary["folds"], found.summary["spread"]
    names = list(found.summary["classes"])[1:]
    groups = [*names, MEAN] if len(names) > 1 else names
    heads = ["", "class", "mean", "± cases", "± folds", *(f"fold {k}" for k in range(len(parts)))]
    rows = [heads]
    for name, metric in metrics.tracked().items():
        for group in groups:
            shown = [_mean_of(found.summary, group, name), *spread[group][name].values()]
            shown += [part[group][name] for part in parts]
            figures = ["–" if value is None else f"{value:{metric.form}}" for value in shown]
            rows.append([name, one_line(group), *figures])
    of_folds = ", ".join(str(part["images"]) for part in parts)
    head = (
        f"Out-of-fold, {len(found.cases)} cases in folds of {of_folds}: mean over cases, ± the "
        "standard deviation of cases, and of the folds' means."
    )
    return "\n".join([head, "", *text_table.folded(rows, right=range(2, len(heads)), first=2)])


def _of_folds(
    values: Mapping[str, np.ndarray], numbers: np.ndarray, classes: Sequence[str]
) -> dict[str, Any]:
    """Returns each fold's means of every class and of the foreground, and the spread of all.

    Args:
        values: [N, K] of each metric; NaN where it is undefined.
        numbers: int [N], the fold of each case.
        classes: K names.
    """
    columns = {
        group: {name: _column(value, k) for name, value in values.items()}
        for k, group in enumerate([*classes[1:], MEAN], 1)
    }
    parts, found = [], []
    for fold in range(int(numbers.max()) + 1):
        mine = numbers == fold
        means = {
            name: [_mean(value[mine][:, k]) for k in range(1, len(classes))]
            for name, value in values.items()
        }
        found.append(
            {
                group: {name: means[name][k] for name in values}
                for k, group in enumerate(classes[1:])
            }
            | {MEAN: {name: _mean(means[name]) for name in values}}
        )
        parts.append({"fold": fold, "images": int(mine.sum()), **_nullable(found[-1])})
    spread = {
        group: {
            name: {
                "cases": _none_if_nan(_deviation(columns[group][name])),
                "folds": _none_if_nan(_deviation([part[group][name] for part in found])),
            }
            for name in values
        }
        for group in columns
    }
    return {"folds": parts, "spread": spread}


def _column(value: np.ndarray, k: int) -> np.ndarray:
    """Returns a class's values [N]; of the one after the last, each case's mean over classes."""
    if k < value.shape[1]:
        return value[:, k]
    return np.array([_mean(row) for row in value[:, 1:]])


def _mean_of(summary: Mapping[str, Any], group: str, name: str) -> float | None:
    if group == MEAN:
        return summary["per_image"]["foreground"][name]
    return summary["classes"][group]["per_image"][name]


def _mean(values: Sequence[float] | np.ndarray) -> float:
    """Returns the mean of the defined values; NaN if there are none."""
    defined = np.asarray(values, np.float64)
    defined = defined[~np.isnan(defined)]
    return float(defined.mean()) if defined.size else float("nan")


def _deviation(values: Sequence[float] | np.ndarray) -> float:
    """Returns the standard deviation of the defined values, with n - 1; NaN of fewer than two."""
    defined = np.asarray(values, np.float64)
    defined = defined[~np.isnan(defined)]
    return float(defined.std(ddof=1)) if defined.size > 1 else float("nan")


def _none_if_nan(value: float) -> float | None:
    return None if np.isnan(value) else value


def _nullable(means: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float | None]]:
    return {
        group: {name: _none_if_nan(value) for name, value in of_group.items()}
        for group, of_group in means.items()
    }


def _table(
    run_dir: str, classes: Sequence[str]
) -> tuple[tuple[str, ...], np.ndarray, dict[str, np.ndarray]]:
    """Returns the cases of a fold, counts [N, K, 3], and the metrics that need maps, [N, K]."""
    folder = os.path.join(run_dir, "evaluation", "val")
    of_maps = metrics.of_maps(is_final=True)
    found = case_tables.read(folder, case_tables.COUNTS, of_maps, remedy="remove it")
    if found.classes != tuple(classes):
        raise InputError(f"The table in {folder} has other classes than the data; remove it.")
    counts = np.stack([found.columns[name] for name in case_tables.COUNTS], axis=-1)
    measured = {name: found.columns[name] for name in of_maps if name in found.columns}
    return found.cases, counts.astype(np.int64), measured
