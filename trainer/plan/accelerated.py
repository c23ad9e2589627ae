"""Chooses the batch for an accelerator, by its own compiler."""

from collections.abc import Callable, Iterator
from typing import Any

from absl import logging

from trainer import cli, config
from trainer.data.planning import auto_rules, plan_file
from trainer.data.planning.auto_rules import Setup
from trainer.data.planning.fingerprint import Fingerprint
from trainer.data.planning.plan_file import Choice
from trainer.errors import InputError
from trainer.preflight import compilation
from trainer.preflight.accelerators import ACCELERATORS, Accelerator

SHARE = 0.7  # of the time for steps; the rest is for start, input and evaluation, by experience

Compile = Callable[[config.Job, int], dict[str, Any]]


def fit(settings: config.Plan, data: Fingerprint, head: list[Choice]) -> tuple[Setup, int, str]:
    """Returns the setup whose batch fits into the accelerator, the steps, and why so many.

    Args:
        settings: of the command.
        data: the fingerprint.
        head: flags of the folders.

    Raises:
        InputError: the compiler is not installed, or not even the smallest batch fits.
    """
    accelerator = ACCELERATORS[settings.accelerator]
    compilation.check_installed(accelerator)
    with cli.importing():
        from trainer.preflight import lowering, report

    def compile_step(job: config.Job, replicas: int) -> dict[str, Any]:
        lowered = lowering.lower(job, accelerator, job.data.batch_size // replicas, replicas)
        compiled = compilation.compile_program(lowered.program, accelerator, "")
        return report.figures(job, accelerator, settings.chips, lowered, compiled)

    return choose(settings, accelerator, data, head, compile_step)


def choose(
    settings: config.Plan,
    accelerator: Accelerator,
    data: Fingerprint,
    head: list[Choice],
    compile_step: Compile,
) -> tuple[Setup, int, str]:
    """Returns what `fit` does, with what compiles a job for so many replicas given."""
    replicas = settings.chips * accelerator.replicas
    setup, most = auto_rules.for_accelerator(data, replicas)
    for batch_size in batches(most, replicas):
        trial = setup.with_batch(
            batch_size,
            f"The largest that fits into the {accelerator.title}, by its compiler, of {replicas} × "
            f"1, 2, 4 … up to {most}, a twentieth of the training pixels.",
        )
        rows = [*head, *trial.choices(), *auto_rules.training(data, trial, 1000, "", 1)]
        found = compile_step(plan_file.job_of(rows), replicas)
        logging.info("Batch %d: %s.", batch_size, "fits" if found["fits"] else "does not fit")
        if found["fits"]:
            return trial, *_steps(settings, data, trial, found)
    raise InputError(
        f"--accelerator={settings.accelerator}: not even a batch of {replicas} fits into it, with "
        f"{auto_rules.times(setup.topology.patch)} and {setup.filters} filters; choose a larger "
        "one."
    )


def batches(most: int, replicas: int) -> Iterator[int]:
    """Yields the batches to try, the largest first: as many on each replica, a power of two."""
    each = 1
    while 2 * each * replicas <= most:
        each *= 2
    while each:
        yield each * replicas
        each //= 2


def _steps(
    settings: config.Plan, data: Fingerprint, setup: Setup, found: dict[str, Any]
) -> tuple[int, str]:
    rate = found["images_per_second_estimate"]
    if not settings.minutes:
        return auto_rules.steps_by_passes(data, setup)
    if rate is None:
        raise InputError(
            f"--minutes={settings.minutes:g} needs to know how long a step takes, and the compiler "
            f"of --accelerator={settings.accelerator} does not say it; drop --minutes, or run this "
            "command on that machine without --accelerator."
        )
    steps = max(1, int(SHARE * 60 * settings.minutes * rate / setup.batch_size))
    return steps, (
        f"{rate:.0f} examples a second by the estimate of the compiler, for {SHARE:.0%} of "
        f"{settings.minutes:g} min; the rest is for start, input and evaluation."
    )
