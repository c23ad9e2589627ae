"""`python -m trainer.plan --data_dir=DATA`: chooses settings and writes them with reasons."""

import os
import time

from absl import logging

from trainer import cli, config
from trainer.data import demo
from trainer.data.dataset import sample, schema
from trainer.data.planning import (
    auto_rules,
    data_plan,
    fingerprint,
    nnunet_flags,
    nnunet_rules,
    plan_file,
    topology_flags,
)
from trainer.data.planning.auto_rules import Setup
from trainer.data.planning.fingerprint import Fingerprint
from trainer.data.planning.plan_file import Choice
from trainer.plan import accelerated, timed
from trainer.storage import files

Planned = tuple[list[str], list[Choice]]


def main(settings: config.Plan) -> None:
    """Writes a plan and says how to train by it."""
    files.register_stores(settings.data_dir, settings.output)
    path = settings.output or data_plan.default_path(settings.data_dir)
    files.check_folder("output", os.path.dirname(path) or ".")
    plan_file.check(path)
    data_dir = settings.data_dir or demo.folder()
    manifest = schema.read_manifest(data_dir)
    data = fingerprint.of_manifest(manifest, data_dir)
    title, choices = RULES[settings.rules](settings, manifest, data)
    title = [*title, *auto_rules.told(data, manifest.splits["train"].sizes)]
    data_plan.save(path, settings.data_dir, data, title, choices)


def _of_nnunet(settings: config.Plan, manifest: schema.Manifest, data: Fingerprint) -> Planned:
    """Returns what is said of nnU-Net's plan, and its flags.

    Raises:
        InputError: training volumes were cut into blocks that are smaller than its patch.
    """
    plans = nnunet_rules.plan(data, settings.memory_gb)
    found = topology_flags.of_data(plans, data.rank)
    topology_flags.check_blocks(manifest, found.topology.patch)
    title = [*nnunet_flags.DIFFERENCES, *nnunet_flags.told(plans)]
    return title, nnunet_flags.choices(data, plans, settings.memory_gb)


def _automatic(settings: config.Plan, manifest: schema.Manifest, data: Fingerprint) -> Planned:
    """Returns what is said of our plan, and its flags.

    Raises:
        InputError: training volumes were cut into blocks that are smaller than its patch, or the
            accelerator's compiler is missing.
    """
    if settings.accelerator:
        return _accelerated(settings, manifest, data)
    if settings.minutes:
        return _timed(settings, manifest, data)
    return data_plan.for_cpu(manifest, data)


def _accelerated(settings: config.Plan, manifest: schema.Manifest, data: Fingerprint) -> Planned:
    """Returns the plan whose batch fits into the accelerator, by its compiler."""
    setup, _ = auto_rules.for_accelerator(data, settings.chips)
    topology_flags.check_blocks(manifest, setup.topology.patch)
    head = data_plan.folders(settings.data_dir)
    setup, steps, reason = accelerated.fit(settings, data, head)
    training = auto_rules.training(data, setup, steps, reason, auto_rules.EVALUATIONS)
    return [], [*setup.choices(), *training]


def _timed(settings: config.Plan, manifest: schema.Manifest, data: Fingerprint) -> Planned:
    """Returns the plan that suits the time on this machine, by measuring."""
    setup = auto_rules.for_cpu(data)
    topology_flags.check_blocks(manifest, setup.topology.patch)
    started = time.monotonic()
    with cli.importing():
        from trainer.plan import measure
    imports = time.monotonic() - started
    head = data_plan.folders(settings.data_dir)

    def measured(setup: Setup) -> timed.Measured:
        training = auto_rules.training(data, setup, 1000, "", 1)
        found = measure.measure(plan_file.job_of([*head, *setup.choices(), *training]))
        logging.info(
            "%d filters, batch %d: %.3g s a step.", setup.filters, setup.batch_size, found.step
        )
        return found

    last = manifest.splits.get("test", manifest.splits["val"])
    validated = sample.of_validation(manifest, config.Run().eval_images)
    final = last.examples / validated.splits["val"].examples
    found = timed.fit(setup, data.rank, settings.minutes, imports, final, measured)
    training = auto_rules.training(data, found.setup, found.steps, found.reason, found.evaluations)
    title = [found.warning] if found.warning else []
    return title, [*found.setup.choices(), *training]


RULES = {"auto": _automatic, "nnunet": _of_nnunet}


if __name__ == "__main__":
    cli.run(config.Plan, main)
