"""Entry point of comparison: `python -m trainer.compare --help`. Never imports TensorFlow."""

import sys

from absl import logging

from trainer import cli, config, json_text
from trainer.checkpointing import run_metadata
from trainer.compare import paired, report
from trainer.compare.evaluations import check_comparable, read
from trainer.config import flags
from trainer.data.prepare import splitting
from trainer.errors import InputError
from trainer.storage import files

FEW = 10  # cases, or groups of them, below which the bootstrap's intervals are too narrow


def main(settings: config.Compare) -> None:
    """Compares two runs and prints the table."""
    folders = [folder.rstrip("/") for folder in run_metadata.folders(settings.runs)]
    if len(folders) != 2:
        raise InputError(
            f"--runs={settings.runs} names {len(folders)} run folders; write python -m "
            "trainer.compare RUN_A RUN_B."
        )
    files.register_stores(*folders, settings.json)
    folders = [run_metadata.chosen(folder) for folder in folders]
    a, b = (read(folder, settings.split, settings.metric) for folder in folders)
    check_comparable(a, b)
    _, groups = splitting.grouped(a.cases, settings.group_by)
    num_groups = int(groups.max()) + 1
    if num_groups < 2:
        raise InputError(
            f"{a.folder} has {len(a.cases)} case in {num_groups} group on {settings.split}; an "
            "interval takes at least two: evaluate on a larger split, or drop --group_by."
        )
    found = paired.compare(
        a.of_foreground(), b.of_foreground(), groups, settings.samples, settings.seed
    )
    if not found[-1].pairs:
        raise InputError(
            f"--metric={settings.metric} is defined in no case of {a.folder} and {b.folder} alike; "
            "name another."
        )
    cli.show(report.table(a, b, found, num_groups, settings))
    if num_groups < FEW:
        logging.warning(
            "Warning: an interval from %d %s is too narrow; evaluate on more.",
            num_groups,
            "groups" if settings.group_by else "cases",
        )
    if settings.json:
        content = report.as_dict(a, b, found, num_groups, settings)
        files.write_whole(settings.json, json_text.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    cli.run(config.Compare, main, flags.with_name(sys.argv, "runs"))
