"""Runs as one page that opens offline: `python -m trainer.report RUN [RUN …]`.

A job writes its own at its end, from `write`.
"""

import dataclasses
import os
from collections.abc import Callable, Collection, Mapping
from typing import Any

from absl import logging

from trainer.storage import files

CASES = 4  # of each kind
PAGE, RESULTS, CONFUSION = "report.html", "results.png", "confusion.png"


def write(run_dir: str, metadata: Mapping[str, Any]) -> None:
    """Writes the page of a run that ends, and its pictures, into its folder.

    What goes wrong is a warning: the run itself is complete. Files of others stay.

    Args:
        run_dir: the run folder, local or gs://.
        metadata: what run.json will have.
    """
    name = PAGE
    try:
        from trainer.report import page, pictures, runs  # jinja2, which no step waits for

        run = runs.read(run_dir, CASES)
        run = dataclasses.replace(run, metadata={**run.metadata, **metadata})
        drawn: dict[str, tuple[Callable[[], bytes], Collection[str]]] = {
            PAGE: (lambda: page.draw([run]).encode(), page.MARKS),
            RESULTS: (lambda: pictures.results(run), pictures.MARKS),
        }
        if run.confusions is not None:
            drawn[CONFUSION] = lambda: pictures.confusion(run), pictures.MARKS
        for name, (draw, marks) in drawn.items():
            path = os.path.join(run_dir, name)
            files.check_replaceable("run_dir", path, marks)
            content = draw()
            with files.writing(path, "wb") as file:
                file.write(content)
    except Exception as error:  # of whatever kind, it must not end the job
        logging.warning(
            "%s cannot be written (%s); try python -m trainer.report %s.",
            os.path.join(run_dir, name),
            " ".join(str(error).split()) or type(error).__name__,
            run_dir,
        )
