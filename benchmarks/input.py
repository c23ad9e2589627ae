"""Times the input alone: images per second of each row of augmentations.

python -m benchmarks.input [--data_dir=DIR --crop=256 --batch_size=8]

With --bucket also from a bucket on this machine, without copies of the shards (--cache_dir) and
with them: the tests' server, with latency and a line of limited speed. The reader has half of the
cores then, wherever it reads from, and the server the others, since a real store takes none.
"""

import contextlib
import dataclasses
import functools
import itertools
import multiprocessing
import os
import pathlib
import resource
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from benchmarks import table
from tests.servers import gcs_server
from trainer import cli, config
from trainer.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Input(config.Settings):
    """Times reading, decoding, augmenting and batching, without training."""

    data_dir: str = config.setting("", "Data folder; the demo data if empty.")
    crop: config.PerAxis = config.setting(256, "Sides of the training crop.", low=8)
    foreground: float = config.setting(
        0.0, "Share of examples that must hold a drawn class.", low=0, high=1
    )
    augment: str = config.setting("", "The only row of augmentations to time; all if empty.")
    batch_size: int = config.setting(8, "Images per batch.", low=1)
    batches: int = config.setting(10, "Batches per round.", low=1)
    rounds: int = config.setting(5, "Rounds, after one that does not count.", low=1)
    bucket: bool = config.setting(
        False, "Also reads from a bucket, by turns; rounds must be longer than what is read ahead."
    )
    turns: int = config.setting(5, "How often each is read from, with --bucket.", low=1)
    latency_ms: float = config.setting(20.0, "Of each request to the bucket.", low=0)
    mb_per_second: float = config.setting(200.0, "Of all its connections together.", low=0)
    json: str = config.setting("", "Also write the figures to this file.")


def main(settings: Input) -> None:
    """Times each row in turn, in a process of its own, whose peak memory is that row's."""
    cli.prepare_environment()
    with cli.importing():
        from trainer.data import demo
        from trainer.data.input import augment

    settings = dataclasses.replace(settings, data_dir=settings.data_dir or demo.folder())
    if settings.augment not in ("", *augment.AUGMENTATIONS):
        rows = ", ".join(augment.AUGMENTATIONS)
        raise InputError(f"--augment={settings.augment} is not one of {rows}.")
    names = [settings.augment] if settings.augment else list(augment.AUGMENTATIONS)
    if settings.bucket:
        found = _by_turns(settings, names)
        store = f"{settings.latency_ms:g} ms a request and {settings.mb_per_second:g} MB/s"
        times = f"{settings.turns} turns of {settings.rounds} rounds; a bucket with {store}"
    else:
        with _readers() as process:
            rows_of = functools.partial(time_row, settings)
            found = dict(zip(names, process.map(rows_of, names, chunksize=1), strict=True))
        times = f"{settings.rounds} rounds"
    title = (
        f"{settings.data_dir}: {config.as_text(settings.crop)} crops, batches of "
        f"{settings.batch_size}; rounds of {settings.batches} batches; median (quartiles) of "
        f"{times}"
    )
    table.show(title, found, settings.json)


@contextlib.contextmanager
def _readers(cores: set[int] | None = None) -> Iterator[Any]:
    """Yields a pool of one process, a new one for each task, on some cores."""
    context, bind = multiprocessing.get_context("spawn"), os.sched_setaffinity if cores else None
    with context.Pool(1, bind, (0, cores) if cores else (), maxtasksperchild=1) as process:
        yield process


def _by_turns(settings: Input, names: list[str]) -> dict[str, dict[str, Any]]:
    """Returns the figures of each row from the folder, a bucket, and a bucket with copies."""
    cores = sorted(os.sched_getaffinity(0))
    half = max(1, len(cores) // 2)
    os.sched_setaffinity(0, cores[half:] or cores)
    found: dict[str, dict[str, Any]] = {}
    with (
        gcs_server.serve() as server,
        _readers(set(cores[:half])) as process,
        tempfile.TemporaryDirectory() as cache_dir,
    ):
        os.environ.update(server.environment())
        server.make_bucket("input")
        for path in filter(pathlib.Path.is_file, pathlib.Path(settings.data_dir).iterdir()):
            server.write(f"gs://input/{path.name}", path.read_bytes())
        server.begin(
            gcs_server.Faults(
                latency_seconds=settings.latency_ms / 1e3,
                total_bytes_per_second=settings.mb_per_second * 1e6,
            )
        )
        bucket = dataclasses.replace(settings, data_dir="gs://input")
        places = {"": (settings, ""), ", bucket": (bucket, ""), ", copies": (bucket, cache_dir)}
        for name in names:
            turns = [
                {
                    place: process.apply(time_row, (one, name, cache))
                    for place, (one, cache) in places.items()
                }
                for _ in range(settings.turns)
            ]
            for place in places:
                of_place = [turn[place] for turn in turns]
                rates = [one["images/s"]["median"] for one in of_place]
                local = [turn[""]["images/s"]["median"] for turn in turns]
                shares = [100 * rate / own for rate, own in zip(rates, local, strict=True)]
                found[f"{name}{place}"] = {
                    "images/s": table.summarize(rates),
                    "% of local": table.summarize(shares) if place else None,
                    "CPU ms/image": table.summarize(
                        [one["CPU ms/image"]["median"] for one in of_place]
                    ),
                    "first batch s": table.summarize([one["first batch s"] for one in of_place]),
                    "peak MB": max(one["peak MB"] for one in of_place),
                }
    return found


def time_row(settings: Input, augmentation: str, cache_dir: str = "") -> dict[str, Any]:
    """Returns the figures of one row of augmentations, with copies of the shards in a folder."""
    cli.prepare_environment()
    with cli.importing():
        from trainer.data.dataset import schema, shard_cache
        from trainer.data.input import pipeline

    manifest = schema.read_manifest(settings.data_dir)
    data = settings.data_dir, manifest
    cache = shard_cache.open_cache(
        cache_dir, config.Data().cache_gb, *data, schema.fingerprint(manifest), tpu=""
    )
    started = time.perf_counter()
    batches = iter(
        pipeline.training_stream(
            *data,
            batch_size=settings.batch_size,
            crop=config.Data(crop=settings.crop).box(manifest.rank),
            seed=0,
            num_streams=pipeline.num_streams(
                manifest.splits["train"], 1, share=settings.foreground
            ),
            share=settings.foreground,
            augment=augmentation,
            cache=cache,
        )
    )
    next(batches)
    first_batch = time.perf_counter() - started
    walls, cpus = [], []
    for number in range(settings.rounds + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in itertools.islice(batches, settings.batches):
            pass
        if number:
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
    images = settings.batches * settings.batch_size
    return {
        "images/s": table.summarize([images / wall for wall in walls]),
        "CPU ms/image": table.summarize([1000 * cpu / images for cpu in cpus]),
        "first batch s": first_batch,
        "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


if __name__ == "__main__":
    cli.run(Input, main)
