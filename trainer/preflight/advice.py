"""Advice, one line each, on settings that are certainly better."""

from collections.abc import Iterator

from trainer.preflight.accelerators import Accelerator, Gpu

# From these compute capabilities on, a GPU's matrix units multiply the type.
MATRIX_UNITS = {"float16": (7, 0), "bfloat16": (8, 0)}
FILLED_BY = 8  # channels, of types of two bytes


def advise(accelerator: Accelerator, *, precision: str, filters: int, total: int) -> Iterator[str]:
    """Yields the lines for a step that fits.

    Args:
        accelerator: the chip.
        precision: that the layers compute in.
        filters: of the network's first level.
        total: bytes of memory that the step takes.
    """
    yield from _precision(accelerator, precision)
    if isinstance(accelerator, Gpu) and filters % FILLED_BY and _has_units(accelerator, precision):
        yield (
            f"--filters={filters} is not a multiple of {FILLED_BY}, by which this GPU's matrix "
            f"units multiply; {-(-filters // FILLED_BY) * FILLED_BY} fills them."
        )
    if total < 0.5 * accelerator.usable:
        yield (
            f"The step takes {total / accelerator.usable:.0%} of the memory; --find_batch doubles "
            "--batch_size while it fits."
        )


def _precision(accelerator: Accelerator, precision: str) -> Iterator[str]:
    best = "bfloat16" if _has_units(accelerator, "bfloat16") else "float16"
    if precision == "float32":
        yield f"--precision={best} stores each activation in two bytes in place of four."
    elif not _has_units(accelerator, precision):
        yield (
            f"This GPU's matrix units multiply {best} and not {precision}; use --precision={best}."
        )


def _has_units(accelerator: Accelerator, precision: str) -> bool:
    """Returns whether matrix units multiply values of a type; those of TPUs multiply all."""
    if not isinstance(accelerator, Gpu):
        return True
    return accelerator.capability >= MATRIX_UNITS.get(precision, (99, 0))
