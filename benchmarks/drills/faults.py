"""Prepares, reads, trains and evaluates in a bucket in calm and in storm, and compares the results.

python -m benchmarks.drills.faults [--images=60 --outage_seconds=60]

In storm, requests are answered 503 or 429, connections break in the middle of a body, requests
wait, the store is away for a minute in each part, and tokens expire.
"""

import collections
import dataclasses
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
from absl import logging
from PIL import Image

from benchmarks import table
from tests.servers import gcs_server
from trainer import cli, config

OUTAGE_AFTER = 5  # requests of each part
READ = ["--batches=10", "--batch_size=8", "--crop=64"]


RUN = (
    *("--steps=4", "--eval_every=2", "--batch_size=2", "--filters=4", "--depth=2", "--crop=64"),
    *("--deterministic", "--panels=0", "--worst_cases=0"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drill(config.Settings):
    """Compares preparing, reading and evaluating with and without faults."""

    images: int = config.setting(60, "Images to prepare.", low=20)
    side: int = config.setting(128, "Their side.", low=64)
    busy: float = config.setting(0.1, "Share of requests answered 503 or 429.", low=0, high=0.5)
    cut: float = config.setting(0.05, "Share cut off in the middle.", low=0, high=0.5)
    slow: float = config.setting(0.05, "Share that wait 200 ms.", low=0, high=1)
    outage_seconds: float = config.setting(60.0, "Of each part, after its first requests.", low=0)
    token_seconds: float = config.setting(5.0, "Life of a token.", low=0)
    json: str = config.setting("", "Also write the figures to this file.")


def main(settings: Drill) -> dict[str, Any]:
    """Runs each part twice and returns, by part, the figures; raises if results differ."""
    storm = gcs_server.Faults(
        busy=settings.busy,
        cut=settings.cut,
        slow=settings.slow,
        outage_after=OUTAGE_AFTER,
        outage_seconds=settings.outage_seconds,
        token_seconds=settings.token_seconds,
    )
    shown: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, gcs_server.serve() as server:
        draw(pathlib.Path(folder), settings.images, settings.side)
        server.make_bucket("drill")
        for path in pathlib.Path(folder).rglob("*.png"):
            server.write(f"gs://drill/raw/{path.relative_to(folder).as_posix()}", path.read_bytes())
        results: dict[str, list[str]] = collections.defaultdict(list)
        for weather, faults in (("calm", gcs_server.Faults()), ("storm", storm)):
            data_dir, run_dir = f"gs://drill/{weather}", f"gs://drill/run-{weather}"
            parts = {
                "prepare": [
                    *("-m", "trainer.data.prepare", f"--output={data_dir}", "--workers=1"),
                    *("--images=gs://drill/raw/images", "--masks=gs://drill/raw/masks"),
                ],
                "read": ["-m", "benchmarks.drills.read", f"--data_dir={data_dir}", *READ],
                "train": [
                    "-m",
                    "trainer.task",
                    f"--data_dir={data_dir}",
                    f"--run_dir={run_dir}",
                    *RUN,
                ],
                "evaluate": [
                    *("-m", "trainer.evaluate", f"--run_dir={run_dir}", "--split=train"),
                    *(f"--data_dir={data_dir}", f"--json={folder}/{weather}.json"),
                ],
            }
            for part, arguments in parts.items():
                server.begin(faults)
                began = time.monotonic()
                done = start(server, arguments)
                results[part].append(outcome(part, done, server, data_dir, folder, weather))
                counts = server.counts()
                logging.info("%s, %s: %.1f s", part, weather, time.monotonic() - began)
                shown[f"{part}, {weather}"] = {
                    "seconds": time.monotonic() - began,
                    "requests": sum(counts.requests.values()),
                    "busy": counts.faults["busy"],
                    "cut": counts.faults["cut"],
                    "refused in the outage": counts.faults["outage"],
                    "tokens": counts.faults["token"],
                }
    table.show("Faults met; results are equal", shown, settings.json)
    for part, (calm, stormy) in results.items():
        assert calm == stormy, f"{part} ended with another result."
    return shown


def draw(folder: pathlib.Path, number: int, side: int) -> None:
    """Writes pictures of noise with a bright square, and their masks."""
    rng = np.random.default_rng(0)
    for case in range(number):
        mask = np.zeros((side, side), np.uint8)
        top, left = rng.integers(0, side // 2, 2)
        mask[top : top + side // 3, left : left + side // 3] = 255
        image = (rng.integers(0, 100, (side, side)) + mask // 2).astype(np.uint8)
        for kind, values in (("images", image), ("masks", mask)):
            (folder / kind).mkdir(exist_ok=True)
            Image.fromarray(values).save(folder / kind / f"{case:03}.png")


def start(server: gcs_server.Server, arguments: list[str]) -> subprocess.CompletedProcess:
    """Runs Python to its end, with tokens of the metadata server."""
    variables = {**os.environ, **server.environment(token="")}
    done = subprocess.run(
        [sys.executable, *arguments], env=variables, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{arguments} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done


def outcome(
    part: str,
    done: subprocess.CompletedProcess,
    server: gcs_server.Server,
    data_dir: str,
    folder: str,
    weather: str,
) -> str:
    """Returns what a part ended with, as a text that is equal for equal results."""
    if part == "prepare":
        contents = [server.read(f"{data_dir}/{name}") for name in server.names(f"{data_dir}/")]
        return hashlib.sha256(b"".join(contents)).hexdigest()
    if part == "read":
        return json.loads(done.stdout)["digest"]
    if part == "train":  # the checksums of weights and optimizer
        commit = server.read(f"gs://drill/run-{weather}/checkpoints/00000004/commit.json")
        return json.dumps(json.loads(commit)["files"])
    return pathlib.Path(folder, f"{weather}.json").read_text()


if __name__ == "__main__":
    cli.run(Drill, main)
