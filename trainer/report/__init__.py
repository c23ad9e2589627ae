"""Runs as one page that opens offline: `python -m trainer.report RUN [RUN …]`.

A job writes its own at its end, from `write`.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging

from trainer.storage import files

CASES = 4  # of each kind
PAGE, RESULTS, CONFUSION = "report.html", "results.png", "confusion.png"


def write(run_dir: str, ending: Mapping[str, Any]) -> None:
    """Writes the page of a run that ends, and its pictures, into its folder.

    What goes wrong is a warning: the run itself is complete.

    Args:
        run_dir: the run folder, local or gs://.
        ending: what run.json will say of the end.
    """
    try:
        _write(run_dir, ending)
    except Exception as error:  # of whatever kind, it must not end the job
        logging.warning(
            "%s cannot be written (%s); try python -m trainer.report %s.",
            os.path.join(run_dir, PAGE),
            " ".join(str(error).split()) or type(error).__name__,
            run_dir,
        )


def _write(run_dir: str, ending: Mapping[str, Any]) -> None:
    from trainer.report import page, pictures, runs  # jinja2, which no step waits for

    run = runs.read(run_dir, CASES)
    run = dataclasses.replace(run, metadata={**run.metadata, **ending})
    drawn: dict[str, tuple[bytes, Sequence[str]]]
    drawn = {PAGE: (page.draw([run]).encode(), page.MARKS)}
    drawn[RESULTS] = pictures.results(run), pictures.MARKS
    if run.confusions is not None:
        drawn[CONFUSION] = pictures.confusion(run), pictures.MARKS
    for name, (content, marks) in drawn.items():
        path = os.path.join(run_dir, name)
        files.check_replaceable("run_dir", path, marks)
        with files.writing(path, "wb") as file:
            file.write(content)
