"""Runs as one page that opens offline: `python -m trainer.report RUN [RUN …]`.

A job writes its own at its end, from `write`.
"""

import dataclasses
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from absl import logging

from trainer import commands
from trainer.errors import first_line
from trainer.storage import files

if TYPE_CHECKING:
    from trainer.report.runs import Run

CASES = 4  # of each kind
COMPARED = "compared.html"  # of several runs
PAGE, RESULTS, CONFUSION = "report.html", "results.png", "confusion.png"


def drawings(runs: Sequence["Run"]) -> dict[str, tuple[Callable[[], bytes], Collection[str]]]:
    """Returns what draws each file of a report, and the marks it has, by the file's name.

    A single run has pictures beside its page.
    """
    from trainer.report import page, pictures  # jinja2, which no step waits for

    drawn: dict[str, tuple[Callable[[], bytes], Collection[str]]] = {
        PAGE: (lambda: page.draw(runs).encode(), page.MARKS)
    }
    if len(runs) == 1:
        drawn[RESULTS] = lambda: pictures.results(runs[0]), pictures.MARKS
        if runs[0].confusions is not None:
            drawn[CONFUSION] = lambda: pictures.confusion(runs[0]), pictures.MARKS
    return drawn


def write_drawn(path: str, draw: Callable[[], bytes]) -> None:
    """Draws a file of a report, and then writes it, all of it or nothing."""
    content = draw()
    with files.writing(path, "wb") as file:
        file.write(content)


def write(run_dir: str, metadata: Mapping[str, Any]) -> None:
    """Writes the page of a run that ends, and its pictures, into its folder.

    What goes wrong is a warning: the run itself is complete. Files of others stay.

    Args:
        run_dir: the run folder, local or gs://.
        metadata: what run.json will have.
    """
    name = PAGE
    try:
        from trainer.report import runs

        run = runs.read(run_dir, CASES)
        run = dataclasses.replace(run, metadata={**run.metadata, **metadata})
        for name, (draw, marks) in drawings([run]).items():
            path = os.path.join(run_dir, name)
            files.check_replaceable("run_dir", path, marks)
            write_drawn(path, draw)
    except Exception as error:  # of whatever kind, it must not end the job
        logging.warning(
            "%s cannot be written (%s); try %s",
            os.path.join(run_dir, name),
            first_line(error),
            commands.line("trainer.report", run_dir),
        )
