"""How much memory `trainer.data.prepare` takes for a pair of an image and its mask.

    python -m benchmarks.prepare_memory [--images=24000 --output=runs/prepare_memory]

Small images are made up and prepared, half of them and then all. What is measured is the most
memory of Python's and NumPy's objects in the process that plans; others decode. The difference of
the two is what the additional pairs take. Shards are small: what one takes is not a pair's.
"""

import contextlib
import dataclasses
import pathlib
import shutil
import tracemalloc

from benchmarks import soak, table
from trainer import cli, config
from trainer.data.prepare import preparation


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareMemory(config.Settings):
    """Measures what memory a pair takes."""

    images: int = config.setting(24_000, "How many.", low=200)
    workers: int = config.setting(2, "Processes that decode.", low=2)
    output: str = config.setting("runs/prepare_memory", "Folder for everything.")
    json: str = config.setting("", "Also write the figures to this file.")


def main(settings: PrepareMemory) -> dict[str, float]:
    """Prepares twice and returns the bytes a pair takes."""
    half, whole = settings.images // 2, settings.images
    peak_of(settings, 100)  # imports all modules
    peaks = {count: peak_of(settings, count) for count in (half, whole)}
    taken = (peaks[whole] - peaks[half]) / (whole - half)
    rows = {"prepare": {"bytes a pair": round(taken), "peak MB": peaks[whole] / 1e6}}
    table.show(f"{half} and {whole} pairs", rows, settings.json)
    return rows["prepare"]


def peak_of(settings: PrepareMemory, count: int) -> int:
    """Returns the most bytes that preparing so many pairs takes at a time."""
    made, output = (pathlib.Path(settings.output, f"{name}-{count}") for name in ("raw", "data"))
    if not made.exists():
        soak.make(made, count)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(output)
    asked = config.Prepare(
        images=f"{made}/images",
        masks=f"{made}/masks",
        output=str(output),
        classes="0,255",
        shard_mb=1,
        workers=settings.workers,
    )
    tracemalloc.start()
    try:
        preparation.prepare(asked)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


if __name__ == "__main__":
    cli.run(PrepareMemory, main)
