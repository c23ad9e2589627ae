"""Reads training data over a line with latency and little bandwidth, and from the local disk.

python -m benchmarks.drills.latency [--shard_mb=64 --latency_ms=50 --mb_per_second=40]

The store is the tests' server on loopback, and costs CPU time that the real one would not.
"""

import dataclasses
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np

from benchmarks import table
from tests.servers import gcs_server
from trainer import cli, config
from trainer.data.dataset import schema

SETTINGS = {  # row → what TensorFlow reads when it is imported
    "TensorFlow's own": {"GCS_READAHEAD_BUFFER_SIZE_BYTES": str(64 * 2**20)},
    "16 MiB": {"GCS_READAHEAD_BUFFER_SIZE_BYTES": str(16 * 2**20)},
    "8 MiB (ours)": {},
    "2 MiB": {"GCS_READAHEAD_BUFFER_SIZE_BYTES": str(2 * 2**20)},
}
EXAMPLES = 16  # distinct ones, of noise, which PNG does not make smaller


@dataclasses.dataclass(frozen=True, kw_only=True)
class Latency(config.Settings):
    """Times the input of training from gs:// against the local disk."""

    latency_ms: float = config.setting(50.0, "Of each request.", low=0)
    mb_per_second: float = config.setting(40.0, "Of each connection; 0: unlimited.", low=0)
    shards: int = config.setting(8, "Shards of the training split.", low=1)
    shard_mb: float = config.setting(64.0, "Size of each, in 10^6 bytes.", low=1)
    side: int = config.setting(512, "Side of the images.", low=16)
    seconds: float = config.setting(8.0, "Reading for each row and round.", low=0.1)
    rounds: int = config.setting(3, "Rounds.", low=1)
    examples_only: bool = config.setting(False, "Read and order the examples, without decoding.")
    only_ours: bool = config.setting(False, "Leave out the settings that were not chosen.")
    json: str = config.setting("", "Also write the figures to this file.")


def main(settings: Latency) -> dict[str, Any]:
    """Times each row in turn, and returns the figures."""
    rows = {"local disk": {}, **SETTINGS}
    if settings.only_ours:
        rows = {name: row for name, row in rows.items() if not row}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in rows}
    with tempfile.TemporaryDirectory() as folder, gcs_server.serve() as server:
        manifest = write_noise(folder, settings)
        server.make_bucket("drill")
        for path in pathlib.Path(folder).iterdir():
            server.write(f"gs://drill/data/{path.name}", path.read_bytes())
        faults = gcs_server.Faults(
            latency_seconds=settings.latency_ms / 1e3, bytes_per_second=settings.mb_per_second * 1e6
        )
        for _, name in itertools.product(range(settings.rounds), rows):
            where = folder if name == "local disk" else "gs://drill/data"
            server.begin(faults)
            figures = read(where, {**server.environment(), **rows[name]}, settings)
            epochs = figures["images"] / manifest.splits["train"].examples
            counts = server.counts()
            figures["requests/epoch"] = counts.requests["read"] / epochs
            figures["MB/epoch"] = counts.bytes_down / 1e6 / epochs
            found[name].append(figures)
    local = table.summarize([one["images_per_second"] for one in found["local disk"]])["median"]
    shown = {
        name: {
            "images/s": table.summarize([one["images_per_second"] for one in figures]),
            "% of local": table.summarize(
                [100 * one["images_per_second"] / local for one in figures]
            ),
            "first batch s": table.summarize([one["first_batch_seconds"] for one in figures]),
            "peak MB": max(one["peak_mb"] for one in figures),
            "requests/epoch": table.summarize([one["requests/epoch"] for one in figures]),
            "MB/epoch": table.summarize([one["MB/epoch"] for one in figures]),
        }
        for name, figures in found.items()
    }
    title = (
        f"{settings.shards} shards of {settings.shard_mb:g} MB, {settings.latency_ms:g} ms a "
        f"request, {settings.mb_per_second:g} MB/s a connection; median (quartiles) of "
        f"{settings.rounds} rounds of {settings.seconds:g} s"
    )
    table.show(title, shown, settings.json)
    return shown


def write_noise(folder: str, settings: Latency) -> schema.Manifest:
    """Writes a training split of noise."""
    rng, side = np.random.default_rng(0), settings.side
    mask = np.zeros((side, side), np.uint8)
    mask[: side // 2] = 1
    examples = [
        schema.encode(f"case{k}", rng.integers(0, 256, (side, side, 1), np.uint8), mask, "png")
        for k in range(EXAMPLES)
    ]
    per_shard = max(1, round(settings.shard_mb * 1e6 / len(examples[0])))
    shards = tuple(
        schema.write_shard(
            folder,
            schema.shard_name("train", index, settings.shards),
            itertools.islice(itertools.cycle(examples), per_shard),
        )
        for index in range(settings.shards)
    )
    total = per_shard * settings.shards
    split = schema.Split(
        examples=total,
        shards=shards,
        cases=tuple(f"case{k}" for k in range(total)),
        sizes=((side, side, total),),
        pixels=(side * side // 2 * total,) * 2,
        ignored_pixels=0,
        mean=(127.5,),
        std=(73.9,),
    )
    manifest = schema.Manifest(
        classes=(schema.Class("upper", 0), schema.Class("lower", 1)),
        channels=1,
        bit_depth=8,
        dtype="uint8",
        encoding="png",
        splits={"train": split},
    )
    schema.write_manifest(manifest, folder)
    return manifest


def read(data_dir: str, variables: dict[str, str], settings: Latency) -> dict[str, float]:
    """Reads in another process and returns its figures."""
    command = [sys.executable, "-m", "benchmarks.drills.read", f"--data_dir={data_dir}"]
    command += [f"--seconds={settings.seconds}"]
    command += ["--examples_only"] if settings.examples_only else []
    done = subprocess.run(
        command, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    cli.run(Latency, main)
