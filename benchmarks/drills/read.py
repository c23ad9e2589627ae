"""Reads training data for some seconds, in a process of its own, and prints one line of JSON.

python -m benchmarks.drills.read --data_dir=gs://bucket/data
"""

import dataclasses
import hashlib
import json
import resource
import time

from trainer import cli, config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Read(config.Settings):
    """Times the input of training after the first batch."""

    data_dir: str = config.setting("", "Data folder, local or gs://.")
    seconds: float = config.setting(10.0, "How long to read.", low=0.1)
    batches: int = config.setting(0, "Read so many instead, and digest them.", low=0)
    batch_size: int = config.setting(8, "Images per batch.", low=1)
    crop: int = config.setting(256, "Side of the training crop.", low=8)
    augment: str = config.setting("standard", "Row of augmentations.")
    examples_only: bool = config.setting(False, "Read and order the examples, without decoding.")


def main(settings: Read) -> None:
    """Reads, and prints images per second, seconds to the first batch and the peak memory."""
    with cli.importing():
        from trainer.data.dataset import schema
        from trainer.data.input import pipeline

    manifest = schema.read_manifest(settings.data_dir)
    streams = pipeline.num_streams(manifest.splits["train"], 1)
    if settings.examples_only:
        data = pipeline.ordered_examples(
            settings.data_dir,
            manifest.splits["train"],
            seed=0,
            num_streams=streams,
            shuffle_block=config.Data().shuffle_block,
        ).batch(settings.batch_size)
    else:
        data = pipeline.training_stream(
            settings.data_dir,
            manifest,
            batch_size=settings.batch_size,
            crop=(settings.crop, settings.crop),
            seed=0,
            num_streams=streams,
            augment=settings.augment,
        )
    if settings.batches:
        digest = hashlib.sha256()
        for batch in data.take(settings.batches):
            for key in sorted(batch):
                digest.update(batch[key].numpy().tobytes())
        print(json.dumps({"digest": digest.hexdigest()}))
        return
    started = time.monotonic()
    batches = iter(data)
    next(batches)
    first, count = time.monotonic(), 0
    while time.monotonic() < first + settings.seconds:
        next(batches)
        count += 1
    figures = {
        "images_per_second": count * settings.batch_size / (time.monotonic() - first),
        "first_batch_seconds": first - started,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "images": (count + 1) * settings.batch_size,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    cli.run(Read, main)
