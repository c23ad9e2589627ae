"""Advice, one line each, on what is sure to be better another way."""

from collections.abc import Iterator

from trainer import config
from trainer.preflight.accelerators import GIB, Accelerator, Gpu, peak_of
from trainer.preflight.memory import Padding
from trainer.preflight.scaling import Scaling

HALF_TYPES = {"bfloat16": "bf16", "float16": "f16"}


def advise(
    job: config.Job,
    accelerator: Accelerator,
    *,
    precision: str,
    total: int,
    padding: Padding,
    scaling: Scaling,
) -> list[str]:
    """Returns the lines for a step that fits.

    Args:
        job: the settings.
        accelerator: the chip.
        precision: that the layers compute in.
        total: bytes of memory that the step takes.
        padding: of these, what is waste.
        scaling: training on the chips that were asked for.
    """
    return [
        *_precision(accelerator, precision),
        *_channels(job, accelerator, precision, total, padding),
        *_batch(accelerator, total, scaling),
    ]


def _precision(accelerator: Accelerator, precision: str) -> Iterator[str]:
    best = max(HALF_TYPES, key=lambda name: peak_of(accelerator, HALF_TYPES[name]))
    gain = peak_of(accelerator, HALF_TYPES[best]) / peak_of(
        accelerator, HALF_TYPES.get(precision, "f32")
    )
    if precision == "float32":
        faster = f" and multiplies up to {gain:.0f} times as fast" if gain > 1 else ""
        yield f"--precision={best} halves the activations in memory{faster}."
    elif gain > 1:
        yield f"--precision={best} multiplies up to {gain:.0f} times as fast as {precision} there."


def _channels(
    job: config.Job, accelerator: Accelerator, precision: str, total: int, padding: Padding
) -> Iterator[str]:
    filters, largest = job.model.filters, padding.largest
    waste = padding.arguments + padding.temporary
    is_much = waste > max(0.2 * total, 0.05 * accelerator.usable)
    if is_much and largest and largest.minor_to_major[:1] == (len(largest.dims) - 1,):
        lanes = largest.tile[-1]
        yield (
            f"{waste / GIB:.1f} GiB of the memory is padding: the largest of it fills up the "
            f"{largest.dims[-1]} channels of {largest} to {-(-largest.dims[-1] // lanes) * lanes}; "
            f"multiples of {lanes} channels have none."
        )
    if isinstance(accelerator, Gpu):
        multiple = 4 if precision == "float32" else 8
        if filters % multiple:
            up = -(-filters // multiple) * multiple
            yield (
                f"--filters={filters} is not a multiple of {multiple}, in which this GPU's matrix "
                f"units compute; {up} costs no more."
            )


def _batch(accelerator: Accelerator, total: int, scaling: Scaling) -> Iterator[str]:
    if total < 0.5 * accelerator.usable:
        yield (
            f"The step takes {total / accelerator.usable:.0%} of the memory; --find_batch finds "
            "the largest --batch_size that fits."
        )
    if scaling.efficiency < 0.8:
        yield (
            f"Summing the gradients takes {1 - scaling.efficiency:.0%} of the step on "
            f"{scaling.chips} chips; a larger --batch_size makes that less."
        )
