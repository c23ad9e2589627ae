"""The files of an evaluation: summary.json, its tables, pictures of the worst and best cases."""

import functools
import json
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from trainer import json_text
from trainer.data.dataset import schema
from trainer.distributed import preemption, strategies
from trainer.drawing import panels
from trainer.errors import InputError
from trainer.evaluate import case_rows, case_tables, confusion
from trainer.evaluate.case_tables import SUMMARY, CaseTables
from trainer.evaluate.cases import CaseSelector, panel_of
from trainer.evaluate.scores import Scores
from trainer.storage import files

KINDS = ("worst", "best")  # of cases, each with a folder of pictures
MOST_LETTERS = 60  # of a case in a file's name; four bytes each are less than the 255 of most disks
PICTURE = re.compile(r"\d{2,}-.*\.png", re.DOTALL)  # of a case; what else is beside them stays


@preemption.uninterrupted()
def write(
    folder: str,
    scores: Scores,
    tables: CaseTables,
    selected: CaseSelector,
    manifest: schema.Manifest,
    split: str,
    strategy: tf.distribute.Strategy,
) -> None:
    """Writes summary.json, the tables and pictures of the worst and best cases into `folder`.

    All workers must call it. The chief writes what is of all cases; each worker its own table in
    Parquet, if all have pyarrow, and the pictures of its own cases.
    """
    worker, num_workers = strategies.worker_of(strategy)
    every = functools.partial(strategies.sum_over_workers, strategy)
    cases, classes = manifest.splits[split].names, [entry.name for entry in manifest.classes]
    rows = tables.rows
    rows = None if rows is None else case_rows.gather(rows, len(cases), every)
    in_parquet = int(every(np.array(case_tables.has_parquet(), np.int32))) == num_workers
    ranked = {kind: selected.ranked(kind, strategy) for kind in KINDS}
    if worker == 0:
        files.make_folder(folder)
        write_json(os.path.join(folder, SUMMARY), scores.summary)  # first: says whose the rest is
        text = None if rows is None else case_tables.to_csv(cases, classes, rows)
        case_tables.replace(folder, text)
        confusion.write(folder, scores.confusions, classes)
        for kind in KINDS:
            pictures = os.path.join(folder, kind)
            for name in filter(PICTURE.fullmatch, files.list_folder(pictures)):
                files.remove(os.path.join(pictures, name))
    strategies.wait_for_workers(strategy)  # until nothing of a former evaluation is there
    if in_parquet:
        tables.save(os.path.join(folder, case_tables.file_name(worker, num_workers)))
    for kind, mine in ranked.items():
        for rank, case in mine.items():
            files.make_folder(os.path.join(folder, kind))
            name = f"{kind}/{rank:02d}-{_file_name(cases[case.index])}.png"
            with files.writing(os.path.join(folder, name), "wb") as file:
                file.write(panels.encode_png(panel_of(case, manifest, split)))
    written = int(every(np.array(in_parquet + sum(map(len, ranked.values())), np.int32)))
    if worker == 0 and (there := _count(folder)) < written:
        logging.warning(
            "Warning: %d of %d tables and pictures of the evaluation are not in %s: each worker "
            "writes its own; name a folder that all workers share.",
            written - there,
            written,
            folder,
        )


def _count(folder: str) -> int:
    """Returns how many tables in Parquet and pictures of cases a folder has."""
    names = {place: files.list_folder(os.path.join(folder, place)) for place in ("", *KINDS)}
    tables = sum(case_tables.PARQUET.fullmatch(name) is not None for name in names[""])
    return tables + sum(PICTURE.fullmatch(name) is not None for k in KINDS for name in names[k])


def check_output(folder: str) -> None:
    """Raises InputError if an evaluation cannot be written to a folder, or would replace others'.

    Files with our names are ours if the summary is.
    """
    files.check_folder("output", folder)
    there = files.list_folder(folder)
    taken = sorted(
        name
        for name in there
        if name in (SUMMARY, confusion.NAME, *KINDS) or case_tables.is_table(name)
    )
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


def write_json(path: str, content: Mapping[str, Any]) -> None:
    """Writes JSON for people to read, too."""
    files.write_whole(path, json_text.dumps(content, indent=1) + "\n")
