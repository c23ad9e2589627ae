"""Entry point of reports: `python -m trainer.report --help`. Never imports TensorFlow by itself."""

import os
import sys

from absl import logging

from trainer import cli, config, report
from trainer.checkpointing import run_metadata
from trainer.config import flags
from trainer.errors import InputError
from trainer.report import runs
from trainer.storage import files


def main(settings: config.Report) -> None:
    """Writes the page, and the pictures of a single run."""
    folders = [folder.rstrip("/") for folder in run_metadata.folders(settings.runs)]
    if not folders:
        raise InputError("No run folder is named; write python -m trainer.report RUN [RUN …].")
    files.register_stores(*folders, settings.output)
    each = run_metadata.with_folds(folders)
    found = [runs.read(folder, settings.cases) for folder in each]
    drawn = {os.path.join(folders[0], name): one for name, one in report.drawings(found).items()}
    output = settings.output
    if len(folders) > 1 and not output:  # the first run keeps its own page
        output = os.path.join(folders[0], report.COMPARED)
    if output:
        drawn = {output: drawn[os.path.join(folders[0], report.PAGE)]}
    for path, (_, marks) in drawn.items():
        files.prepare_file("output", path, marks)
    for path, (draw, _) in drawn.items():
        report.write_drawn(path, draw)
        logging.info("Written to %s", path)


if __name__ == "__main__":
    cli.run(config.Report, main, flags.with_name(sys.argv, "runs"))
