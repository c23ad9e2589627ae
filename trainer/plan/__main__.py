"""`python -m trainer.plan --data_dir=DATA`: chooses settings and writes them with reasons."""

import os

from absl import logging

from trainer import cli, config
from trainer.data import demo
from trainer.data.dataset import schema
from trainer.data.planning import fingerprint, nnunet_flags, nnunet_rules, plan_file, topology_flags
from trainer.data.planning.fingerprint import Fingerprint
from trainer.data.planning.plan_file import Choice
from trainer.storage import files


def main(settings: config.Plan) -> None:
    """Writes a plan and says how to train by it."""
    files.register_stores(settings.data_dir, settings.output)
    path = settings.output or default_path(settings.data_dir)
    files.check_folder("output", os.path.dirname(path) or ".")
    plan_file.check(path)
    data_dir = settings.data_dir or demo.folder()
    manifest = schema.read_manifest(data_dir)
    data = fingerprint.of_manifest(manifest, data_dir)
    title, choices = _of_nnunet(settings, manifest, data)
    choices = [*_folders(settings.data_dir), *choices]
    plan_file.job_of(choices)  # whose rules the plan keeps
    plan_file.write(path, plan_file.text_of([*fingerprint.told(data), *title], choices))
    logging.info("Wrote %s. Train by it: python -m trainer.task --flagfile=%s", path, path)


def default_path(data_dir: str) -> str:
    """Returns the plan's path: in the data folder, or here where --flagfile cannot read it."""
    is_here = data_dir and not files.is_remote(data_dir)
    return os.path.join(data_dir, plan_file.NAME) if is_here else plan_file.NAME


def _folders(data_dir: str) -> list[Choice]:
    if not data_dir:
        return []
    name = os.path.basename(os.path.normpath(data_dir))
    return [
        Choice("data_dir", data_dir, "The data that this plan is for."),
        Choice("run_dir", f"runs/{name}", "Named after the data."),
    ]


def _of_nnunet(
    settings: config.Plan, manifest: schema.Manifest, data: Fingerprint
) -> tuple[list[str], list[Choice]]:
    """Returns what is said of nnU-Net's plan, and its flags.

    Raises:
        InputError: training volumes were cut into blocks that are smaller than its patch.
    """
    plans = nnunet_rules.plan(data, settings.memory_gb)
    found = topology_flags.of_data(plans, data.rank)
    topology_flags.check_blocks(manifest, found.topology.patch)
    title = [*nnunet_flags.DIFFERENCES, *nnunet_flags.told(plans)]
    return title, nnunet_flags.choices(data, plans, settings.memory_gb)


if __name__ == "__main__":
    cli.run(config.Plan, main)
