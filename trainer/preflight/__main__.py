"""`python -m trainer.preflight --accelerator=v5e [flags of trainer.task]`."""

import functools
import sys
from typing import Any

from absl import logging

from trainer import cli, config, json_text
from trainer.errors import InputError
from trainer.preflight import compilation
from trainer.preflight.accelerators import ACCELERATORS, GIB, Accelerator, Gpu, Tpu
from trainer.storage import files

DOES_NOT_FIT = 3  # exit status
WORTH_SAYING = 0.05  # more images/s


def main(settings: config.Preflight) -> None:
    """Compiles, tells, and exits with DOES_NOT_FIT where the step does not fit."""
    accelerator = ACCELERATORS[settings.target.accelerator]
    batch_size = batch_per_replica(settings, accelerator)
    compilation.check_installed(accelerator)
    with cli.importing():  # TensorFlow, only once the flags are found to be good
        from trainer.preflight import lowering

    files.register_stores(settings.job.data.data_dir)

    @functools.cache
    def compiled_step(batch_size: int) -> tuple[lowering.Lowered, compilation.Compiled]:
        replicas = settings.target.chips * accelerator.replicas
        lowered = lowering.lower(settings.job, accelerator, batch_size, replicas)
        program = lowered.program
        return lowered, compilation.compile_program(program, accelerator, settings.target.cache_dir)

    if settings.target.find_batch:
        batch_size = largest_batch(settings, accelerator, compiled_step, batch_size)
    lowered, compiled = compiled_step(batch_size)
    if not fits(compiled, accelerator):
        refuse(settings, accelerator, lowered, compiled)
    tell(settings, accelerator, lowered, compiled)


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


def fits(compiled: compilation.Compiled, accelerator: Accelerator) -> bool:
    """Says whether a program and its memory go into a chip."""
    total = compiled.total
    return compiled.memory is not None and total is not None and total <= accelerator.usable


def largest_batch(
    settings: config.Preflight, accelerator: Tpu | Gpu, compiled_step: Any, start: int
) -> int:
    """Returns the largest batch per replica that fits, or the smallest there is if none does.

    Says of each that was compiled what it needs, and which would be the fastest.
    """
    from trainer.preflight import batch, estimate

    multiple = settings.job.optimization.accumulate_steps
    speeds: dict[int, float] = {}  # images/s of a replica, of batches that fit

    def measure(batch_size: int) -> batch.Trial:
        lowered, compiled = compiled_step(batch_size)
        trial = batch.Trial(batch_size, fits(compiled, accelerator), compiled.total)
        need = "too much" if trial.total is None else f"{trial.total / GIB:.2f}"
        verdict = "does not fit"
        if trial.fits:
            operations = estimate.estimate(compiled.module, accelerator, lowered.layers)
            speeds[batch_size] = batch_size / sum(operation.seconds for operation in operations)
            verdict = f"fits, {speeds[batch_size]:.0f} images/s by estimate"
        logging.info(
            "batch %d per replica: %s of %.2f GiB, %s (%s)",
            batch_size,
            need,
            accelerator.usable / GIB,
            verdict,
            "from the cache" if compiled.cached else f"{compiled.seconds:.0f} s",
        )
        return trial

    found = batch.find_largest(measure, start, accelerator.usable, multiple)
    if found is None:
        return multiple
    fastest = max(speeds, key=lambda size: (speeds[size], size))
    gain = speeds[fastest] / speeds[found.batch_size] - 1
    if gain > WORTH_SAYING:
        logging.info(
            "batch %d per replica has %.0f%% more images/s than the largest by estimate: where "
            "memory is short, the compiler lets the step compute some of it again.",
            fastest,
            100 * gain,
        )
    return found.batch_size


def refuse(
    settings: config.Preflight,
    accelerator: Accelerator,
    lowered: Any,
    compiled: compilation.Compiled,
) -> None:
    """Says in one line that the step does not fit, and exits."""
    from trainer.preflight import report

    write(
        settings.target.json,
        report.as_json_without_room(accelerator, settings.target.chips, compiled, lowered),
    )
    replicas = settings.target.chips * accelerator.replicas
    need = "more" if compiled.total is None else f"{compiled.total / GIB:.1f} GiB"
    print(
        f"--batch_size={lowered.batch_size * replicas} does not fit: {lowered.batch_size} images "
        f"per replica need {need}, its compiler says, and {accelerator.title} has "
        f"{accelerator.usable / GIB:.2f} GiB; use --find_batch, a smaller --batch_size, more "
        "--chips or --accumulate_steps.",
        file=sys.stderr,
    )
    sys.exit(DOES_NOT_FIT)


def tell(
    settings: config.Preflight,
    accelerator: Tpu | Gpu,
    lowered: Any,
    compiled: compilation.Compiled,
) -> None:
    """Prints and writes all that is known about a step that fits."""
    from trainer.preflight import advice, estimate, memory, report, scaling

    operations = estimate.estimate(compiled.module, accelerator, lowered.layers)
    chips = dict.fromkeys([settings.target.chips, *scaling.CHIPS])
    scalings = [
        scaling.scale(
            accelerator,
            number,
            batch_size=lowered.batch_size,
            step_seconds=sum(operation.seconds for operation in operations),
            reduced=lowered.reduced,
            collectives=lowered.collectives,
        )
        for number in chips
    ]
    padding = memory.padding(compiled)
    found = report.Findings(
        job=settings.job,
        accelerator=accelerator,
        chips=settings.target.chips,
        lowered=lowered,
        compiled=compiled,
        padding=padding,
        operations=operations,
        scalings=scalings,
        advice=advice.advise(
            settings.job,
            accelerator,
            precision=lowered.precision,
            total=compiled.total or 0,
            padding=padding,
            scaling=scalings[0],
        ),
    )
    print(report.as_text(found))
    write(settings.target.json, report.as_json(found))


def write(path: str, figures: dict[str, Any]) -> None:
    """Writes the figures to a file, if one is named."""
    if path:
        files.write_whole(path, json_text.dumps(figures, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    cli.run(config.Preflight, main)
