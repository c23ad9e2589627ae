"""Entry point of reports: `python -m trainer.report --help`. Never imports TensorFlow by itself."""

import os
import sys

from absl import logging

from trainer import cli, config
from trainer.checkpointing import run_metadata
from trainer.config import flags
from trainer.errors import InputError
from trainer.report import page, runs
from trainer.storage import files


def main(settings: config.Report) -> None:
    """Writes the page."""
    folders = [folder.rstrip("/") for folder in run_metadata.folders(settings.runs)]
    if not folders:
        raise InputError("No run folder is named; write python -m trainer.report RUN [RUN …].")
    files.register_stores(*folders, settings.output)
    each = run_metadata.with_folds(folders)
    found = [runs.read(folder, settings.cases) for folder in each]
    output = settings.output or os.path.join(folders[0], "report.html")
    files.prepare_file("output", output, page.MARKS)
    files.write_whole(output, page.draw(found))
    logging.info("Written to %s", output)


if __name__ == "__main__":
    cli.run(config.Report, main, flags.with_name(sys.argv, "runs"))
