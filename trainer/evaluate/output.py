"""The files of an evaluation: cases.csv, summary.json and pictures of the worst and best cases."""

import csv
import io
import json
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from trainer import json_text
from trainer.data.dataset import schema
from trainer.drawing import panels
from trainer.errors import InputError
from trainer.evaluate.cases import CaseSelector, panel_of
from trainer.evaluate.scores import Scores, per_case
from trainer.storage import files

SUMMARY, CASES = "summary.json", "cases.csv"
MOST_LETTERS = 60  # of a case in a file's name; four bytes each are less than the 255 of most disks
PICTURE = re.compile(r"\d{2,}-.*\.png", re.DOTALL)  # of a case; what else is beside them stays


def write(
    folder: str, scores: Scores, selected: CaseSelector, manifest: schema.Manifest, split: str
) -> None:
    """Writes cases.csv, summary.json and pictures of the worst and best cases into `folder`."""
    files.make_folder(folder)
    write_json(os.path.join(folder, SUMMARY), scores.summary)  # first: it says whose the rest is
    files.write_whole(os.path.join(folder, CASES), cases_csv(scores, manifest, split))
    for kind in ("worst", "best"):
        pictures = os.path.join(folder, kind)
        for name in filter(PICTURE.fullmatch, files.list_folder(pictures)):
            files.remove(os.path.join(pictures, name))
        for rank, case in enumerate(selected.cases(kind), 1):
            files.make_folder(pictures)
            name = _file_name(manifest.splits[split].cases[case.index])
            with files.writing(f"{pictures}/{rank:02d}-{name}.png", "wb") as file:
                file.write(panels.encode_png(panel_of(case, manifest, split)))


def check_output(folder: str) -> None:
    """Raises InputError if an evaluation cannot be written to a folder, or would replace others'.

    Files with our names are ours if the summary is.
    """
    files.check_folder("output", folder)
    taken = sorted({CASES, SUMMARY, "worst", "best"} & set(files.list_folder(folder)))
    path = os.path.join(folder, SUMMARY)
    try:
        found = json.loads(files.read_text(path)) if SUMMARY in taken else None
    except ValueError:
        found = None
    if taken and not (isinstance(found, dict) and {"dice", "classes", "images"} <= found.keys()):
        raise InputError(
            f"--output={folder} holds {', '.join(taken)} that no evaluation wrote, which would be "
            "replaced; name another folder."
        )


def _file_name(case: str) -> str:
    """Returns a case's name as part of a file's: the end of it, which any file system takes."""
    plain = (c if c.isprintable() and c not in "/\\" else "_" for c in case)
    return "".join(plain)[-MOST_LETTERS:]


def cases_csv(scores: Scores, manifest: schema.Manifest, split: str) -> str:
    """Returns a table with a line per image and class; a score that is undefined is left empty.

    An unreadable image has no line.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    values = per_case(scores.counts, scores.measured)
    table.writerow(["case", "class", "truth", "prediction", "intersection", *values])
    cases = manifest.splits[split].cases
    for n in np.flatnonzero(scores.evaluated):
        for k, entry in enumerate(manifest.classes):
            found = (float(value[n, k]) for value in values.values())
            cells = ("" if np.isnan(value) else f"{value:.6f}" for value in found)
            table.writerow([cases[n], entry.name, *scores.counts[n, k], *cells])
    return text.getvalue()


def write_json(path: str, content: Mapping[str, Any]) -> None:
    """Writes JSON for people to read, too."""
    files.write_whole(path, json_text.dumps(content, indent=1) + "\n")
