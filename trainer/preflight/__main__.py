"""`python -m trainer.preflight --accelerator=v5e [flags of trainer.task]`."""

import functools
import sys
from collections.abc import Callable
from typing import Any

from absl import logging

from trainer import cli, config, json_text
from trainer.errors import InputError
from trainer.preflight import compilation
from trainer.preflight.accelerators import ACCELERATORS, Accelerator, Gpu, Tpu
from trainer.storage import files

DOES_NOT_FIT = 3  # exit status


def main(settings: config.Preflight) -> None:
    """Compiles, prints the findings, and exits with DOES_NOT_FIT if the step does not fit."""
    job, target = settings.job, settings.target
    accelerator = ACCELERATORS[target.accelerator]
    batch_size = batch_per_replica(settings, accelerator)
    compiles = not only_exports(target, accelerator)
    if compiles:
        compilation.check_installed(accelerator)
    if target.export:
        files.prepare_file("export", target.export, ["step.json"])  # the name of its first part
    with cli.importing():  # TensorFlow, only after the flags have been checked
        from trainer.preflight import lowering, report, step_file

    files.register_stores(job.data.data_dir, target.export)
    replicas = target.chips * accelerator.replicas

    @functools.cache
    def lower(batch_size: int) -> lowering.Lowered:
        return lowering.lower(job, accelerator, batch_size, replicas)

    @functools.cache
    def figures_of(batch_size: int) -> dict[str, Any]:
        lowered = lower(batch_size)
        compiled = compilation.compile_program(lowered.program, accelerator, target.compiled_dir)
        return report.figures(job, accelerator, target.chips, lowered, compiled)

    if target.find_batch:
        batch_size = largest_batch(figures_of, batch_size, job.optimization.accumulate_steps)
    figures = figures_of(batch_size) if compiles else None
    if target.export:
        step_file.write(target.export, job, accelerator, replicas, lower(batch_size), figures)
    if figures is None:
        cli.show(
            f"{target.export} is written; {accelerator.title}'s compiler is not installed, so "
            "nothing is known of memory and time."
        )
        return
    if target.json:
        files.write_whole(
            target.json, json_text.dumps(figures, indent=1, ensure_ascii=False) + "\n"
        )
    if not figures["fits"]:
        print(too_large(figures), file=sys.stderr)
        sys.exit(DOES_NOT_FIT)
    cli.show(report.text(figures, job))


def only_exports(target: config.Target, accelerator: Tpu | Gpu) -> bool:
    """Returns whether the step is to be written alone, by jax without the chip's compiler."""
    missing = compilation.missing(accelerator)
    can_write = missing and not {"jax", "jaxlib"} & set(missing)
    return bool(target.export and can_write) and not (target.find_batch or target.json)


def batch_per_replica(settings: config.Preflight, accelerator: Accelerator) -> int:
    """Returns the images per replica.

    Raises:
        InputError: the chips do not divide the batch.
    """
    job, chips = settings.job, settings.target.chips
    replicas = chips * accelerator.replicas
    parts = replicas * job.optimization.accumulate_steps
    if job.data.batch_size % parts:
        raise InputError(
            f"--batch_size={job.data.batch_size} does not divide among {replicas} replicas "
            f"(--chips={chips}) × --accumulate_steps={job.optimization.accumulate_steps}; use a "
            f"multiple of {parts}."
        )
    return job.data.batch_size // replicas


def largest_batch(figures_of: Callable[[int], dict[str, Any]], start: int, multiple: int) -> int:
    """Returns the largest batch per replica that fits, of `start` doubled or halved.

    Args:
        figures_of: compiles the step for a batch per replica.
        start: the batch to begin with, a multiple of `multiple`.
        multiple: the smallest batch, of which the others are multiples; returned if none fits.
    """

    def fits(batch_size: int) -> bool:
        figures = figures_of(batch_size)
        logging.info("%s", trial(figures))
        return figures["fits"]

    batch_size = start
    if fits(batch_size):
        while fits(2 * batch_size):
            batch_size *= 2
        return batch_size
    while batch_size > multiple:
        batch_size = max(batch_size // 2 // multiple, 1) * multiple
        if fits(batch_size):
            break
    return batch_size


def trial(figures: dict[str, Any]) -> str:
    """Returns the line about one batch."""
    total, speed = figures["memory_gib"]["total"], figures["images_per_second_estimate"]
    need = "too much" if total is None else f"{total:.2f}"
    verdict = "fits" if figures["fits"] else "does not fit"
    return (
        f"batch {figures['batch_size']}: {need} of {figures['usable_memory_gib']:.2f} GiB, "
        + verdict
        + (f", {speed:.0f} images/s by estimate" if speed else "")
        + (" (from the cache)" if figures["cached"] else f" ({figures['compile_seconds']:.0f} s)")
    )


def too_large(figures: dict[str, Any]) -> str:
    """Returns the line about a step that does not fit."""
    total = figures["memory_gib"]["total"]
    need = "more" if total is None else f"{total:.1f} GiB"
    return (
        f"--batch_size={figures['batch_size']} does not fit: {figures['batch_size_per_replica']} "
        f"images per replica need {need}, its compiler says, and {figures['accelerator']} has "
        f"{figures['usable_memory_gib']:.2f} GiB; use --find_batch, a smaller --batch_size, more "
        "--chips or --accumulate_steps."
    )


if __name__ == "__main__":
    cli.run(config.Preflight, main)
