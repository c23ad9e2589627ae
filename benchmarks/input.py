"""Times the input alone: images per second of each row of augmentations.

python -m benchmarks.input [--data_dir=DIR --crop=256 --batch_size=8]
"""

import dataclasses
import functools
import itertools
import multiprocessing
import resource
import time
from typing import Any

from benchmarks import table
from trainer import cli, config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Input(config.Settings):
    """Times reading, decoding, augmenting and batching, without training."""

    data_dir: str = config.setting("", "Data folder; the demo data if empty.")
    crop: config.PerAxis = config.setting(256, "Sides of the training crop.", low=8)
    foreground: float = config.setting(
        0.0, "Share of examples that must hold a drawn class.", low=0, high=1
    )
    batch_size: int = config.setting(8, "Images per batch.", low=1)
    batches: int = config.setting(10, "Batches per round.", low=1)
    rounds: int = config.setting(5, "Rounds, after one that does not count.", low=1)
    json: str = config.setting("", "Also write the figures to this file.")


def main(settings: Input) -> None:
    """Times each row in turn, in a process of its own, whose peak memory is that row's."""
    cli.prepare_environment()
    with cli.importing():
        from trainer.data import demo
        from trainer.data.input import augment

    settings = dataclasses.replace(settings, data_dir=settings.data_dir or demo.folder())
    names = list(augment.AUGMENTATIONS)
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as process:
        found = process.map(functools.partial(time_row, settings), names, chunksize=1)
    title = (
        f"{settings.data_dir}: {config.as_text(settings.crop)} crops, batches of "
        f"{settings.batch_size}; median (quartiles) of {settings.rounds} rounds of "
        f"{settings.batches} batches"
    )
    table.show(title, dict(zip(names, found, strict=True)), settings.json)


def time_row(settings: Input, augmentation: str) -> dict[str, Any]:
    """Returns the figures of one row of augmentations."""
    cli.prepare_environment()
    with cli.importing():
        from trainer.data.dataset import schema
        from trainer.data.input import pipeline

    manifest = schema.read_manifest(settings.data_dir)
    data = iter(
        pipeline.training_stream(
            settings.data_dir,
            manifest,
            batch_size=settings.batch_size,
            crop=config.Data(crop=settings.crop).box(manifest.rank),
            seed=0,
            num_streams=pipeline.num_streams(
                manifest.splits["train"], 1, share=settings.foreground
            ),
            share=settings.foreground,
            augment=augmentation,
        )
    )
    walls, cpus = [], []
    for number in range(settings.rounds + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in itertools.islice(data, settings.batches):
            pass
        if number:
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
    images = settings.batches * settings.batch_size
    return {
        "images/s": table.summarize([images / wall for wall in walls]),
        "CPU ms/image": table.summarize([1000 * cpu / images for cpu in cpus]),
        "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


if __name__ == "__main__":
    cli.run(Input, main)
