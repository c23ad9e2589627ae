"""Evaluations with figures that a test gives."""

import csv
import json

import numpy as np


def write_evaluation(
    folder,
    cases,
    *,
    split="test",
    classes=("class1", "class2"),
    better="higher",
    meaning="2 both / (truth + prediction)",
    tolerance=None,
    data_fingerprint="0123456789abcdef",
):
    """Writes the evaluation of a run: Dice of each foreground class in each case, None: undefined.

    Args:
        folder: of the run.
        cases: name → values of the foreground classes.
        split: the evaluation's name.
        classes: the first of their names are taken.
        better: which values are.
        meaning: of the metric, as summary.json has it.
        tolerance: likewise.
        data_fingerprint: likewise.
    """
    place = folder / "evaluation" / split
    place.mkdir(parents=True, exist_ok=True)
    names = ["background", *classes[: len(next(iter(cases.values())))]]
    with open(place / "cases.csv", "w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["case", "class", "truth", "prediction", "intersection", "dice"])
        for case, values in cases.items():
            for name, value in zip(names, [1.0, *values], strict=True):
                undefined = value is None or np.isnan(value)
                table.writerow([case, name, 0, 0, 0, "" if undefined else f"{value:.6f}"])
    convention = {"meaning": meaning, "absent": "undefined", "better": better, "unit": ""}
    summary = {
        "classes": {name: {} for name in names},
        "metrics": {"dice": convention},
        "tolerance": tolerance,
        "data_fingerprint": data_fingerprint,
    }
    (place / "summary.json").write_text(json.dumps(summary))
