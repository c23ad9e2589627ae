"""The plan that needs neither an accelerator nor a clock, and what all plans have in common."""

import os
from collections.abc import Sequence

import numpy as np
from absl import logging

from trainer import commands, config
from trainer.data.dataset import schema
from trainer.data.planning import auto_rules, fingerprint, plan_file, topology_flags
from trainer.data.planning.fingerprint import Fingerprint
from trainer.data.planning.plan_file import Choice
from trainer.storage import files

MOST_PADDING = 0.5  # of the crops, of which nothing is said


def default_path(data_dir: str) -> str:
    """Returns a plan's path: in the data folder, or here where --flagfile cannot read that."""
    is_here = data_dir and not files.is_remote(data_dir)
    return os.path.join(data_dir, plan_file.NAME) if is_here else plan_file.NAME


def folders(data_dir: str) -> list[Choice]:
    """Returns the flags of the folders of data and run; none for the demo data."""
    if not data_dir:
        return []
    name = os.path.basename(os.path.normpath(data_dir))
    return [
        Choice("data_dir", data_dir, "The data that this plan is for."),
        Choice("run_dir", f"runs/{name}", "Named after the data."),
    ]


def for_cpu(manifest: schema.Manifest, data: Fingerprint) -> tuple[list[str], list[Choice]]:
    """Returns what is said of the plan for a CPU, and its flags but those of the folders.

    Raises:
        InputError: training volumes were cut into blocks that are smaller than its patch.
    """
    setup = auto_rules.for_cpu(data)
    topology_flags.check_blocks(manifest, setup.topology.patch)
    steps = auto_rules.DEFAULT_STEPS[data.rank]
    training = auto_rules.training(
        data, setup, steps, auto_rules.WITHOUT_TIME, auto_rules.EVALUATIONS
    )
    return [auto_rules.FOR_CPU], [*setup.choices(), *training]


def save(
    path: str, data_dir: str, data: Fingerprint, title: Sequence[str], choices: Sequence[Choice]
) -> None:
    """Writes a plan and says how to train by it.

    Args:
        path: of the file.
        data_dir: the data folder; empty for the demo data.
        data: its fingerprint.
        title: what is said above the flags.
        choices: the flags but those of the folders.
    """
    every = [*folders(data_dir), *choices]
    plan_file.job_of(every)  # whose rules the plan keeps
    plan_file.write(path, plan_file.text_of([*fingerprint.told(data), *title], every))
    train = commands.line("trainer.task", f"--flagfile={path}")
    logging.info("Wrote %s. Train by it: %s", path, train)


def write_beside(data_dir: str, manifest: schema.Manifest) -> None:
    """Writes the plan of data that have just been prepared."""
    data = fingerprint.of_manifest(manifest, data_dir)
    title, choices = for_cpu(manifest, data)
    save(default_path(data_dir), data_dir, data, title, choices)


def suggestion(job: config.Job) -> str:
    """Returns what to say to who trains with the defaults on data of their own; else nothing."""
    default = config.Job()
    pairs = (
        (job.data, default.data, ("crop", "batch_size")),
        (job.model, default.model, ("filters", "depth")),
    )
    chosen = any(
        getattr(ours, n) != getattr(other, n) for ours, other, names in pairs for n in names
    )
    if chosen or not job.data.data_dir:
        return ""
    path = default_path(job.data.data_dir)
    if files.exists(path):
        return f"Crop, batch, filters and depth are the defaults; {path} has those for these data."
    return (
        "Crop, batch, filters and depth are the defaults; "
        f"{commands.line('trainer.plan', f'--data_dir={job.data.data_dir}')} chooses those for "
        "these data."
    )


def padding(data: config.Data, manifest: schema.Manifest) -> str:
    """Returns what to say if most of what a network is trained on is padding; else nothing."""
    box = np.array(data.box(manifest.rank))
    sizes = np.array(manifest.splits["train"].sizes)
    filled = np.prod(np.minimum(sizes[:, :-1], box) / box, axis=1)
    share = 1 - np.average(filled, weights=sizes[:, -1])
    if share <= MOST_PADDING:
        return ""
    return (
        f"{share:.0%} of a crop of {fingerprint.times(box)} is padding on average, as examples are "
        "smaller; a smaller --crop trains faster."
    )
