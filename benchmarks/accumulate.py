"""Measures the memory that --accumulate_steps saves.

    python -m benchmarks.accumulate [--filters=16 --crop=256 --batch_size=16 --parts=8]

One batch is computed whole, in parts, and, as the least that parts can come to, a part alone is
trained on; each in a process of its own, one after the other. What counts is the peak of each above
what it held before its first step.
"""

import dataclasses
import multiprocessing
import resource
import time
from multiprocessing.connection import Connection

from benchmarks import step, table
from trainer import cli, config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accumulate(config.Settings):
    """Measures the memory of a training step whose batch is computed in parts."""

    filters: int = config.setting(16, "Channels of the first level.", low=1)
    depth: int = config.setting(4, "Times that the resolution is halved.", low=1)
    crop: int = config.setting(256, "Side of the images.", low=8)
    channels: int = config.setting(3, "Channels of the images.", low=1)
    batch_size: int = config.setting(16, "Images per step.", low=1)
    parts: int = config.setting(8, "Parts in which the batch is computed.", low=2)
    rounds: int = config.setting(3, "Steps of each.", low=1)
    json: str = config.setting("", "Also write the figures to this file.")


def main(settings: Accumulate) -> None:
    """Measures each in turn and prints the results."""
    part = settings.batch_size // settings.parts
    contenders = {
        "whole batch": (settings.batch_size, 1),
        f"in {settings.parts} parts": (settings.batch_size, settings.parts),
        f"batch of {part}": (part, 1),
    }
    rows = {}
    for jit_compile in (False, True):
        for name, sizes in contenders.items():
            here, there = multiprocessing.Pipe()
            arguments = (there, settings, *sizes, jit_compile)
            process = multiprocessing.get_context("spawn").Process(target=measure, args=arguments)
            process.start()
            rows[f"{name}, {'XLA' if jit_compile else 'graph'}"] = here.recv()
            process.join()
    title = (
        f"{settings.filters} filters, depth {settings.depth}, {settings.crop}×{settings.crop}×"
        f"{settings.channels}, batch {settings.batch_size}, float32"
    )
    table.show(title, rows, settings.json)


def measure(
    end: Connection, settings: Accumulate, batch_size: int, parts: int, jit_compile: bool
) -> None:
    """Takes some steps and sends the peak of this process above its start, in MB, and the time."""
    names = ("filters", "depth", "crop", "channels")
    model = {name: getattr(settings, name) for name in names}
    take = step.ours(step.Step(batch_size=batch_size, **model), jit_compile, parts)
    before = _peak_mb()
    seconds = []
    for _ in range(settings.rounds):
        start = time.perf_counter()
        take()
        seconds.append(time.perf_counter() - start)
    end.send({"MB above start": _peak_mb() - before, "s/step, the best": min(seconds)})


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    cli.run(Accumulate, main)
