"""Trains into a bucket over a slow connection, and measures the cost of checkpoints.

    python -m benchmarks.drills.stall [--latency_ms=50 --steps=1600 --checkpoint_every=400]

A run with a checkpoint about every minute, on the demo data: the share of its time that steps
waited for checkpoints, and the requests and bytes of each. The store is the tests' server on
loopback.
"""

import dataclasses
import json
import os
import subprocess
import sys
from typing import Any

from benchmarks import table
from tests.servers import gcs_server
from trainer import cli, config

JOB = ("--flagfile=configs/demo.cfg", "--panels=0", "--worst_cases=0", "--keep_checkpoints=2")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stall(config.Settings):
    """Counts what the checkpoints of a run in a bucket cost."""

    latency_ms: float = config.setting(50.0, "Latency of each request.", low=0)
    steps: int = config.setting(1600, "Training steps.", low=2)
    checkpoint_every: int = config.setting(400, "Steps between checkpoints.", low=1)
    json: str = config.setting("", "Also write the figures to this file.")


def main(settings: Stall) -> None:
    """Runs the job twice, with and without checkpoints in between, and prints the difference."""
    rows: dict[str, dict[str, Any]] = {}
    with gcs_server.serve() as server:
        bucket = server.make_bucket("drill")
        environment = {**os.environ, **server.environment()}
        for name, every in (("some", settings.checkpoint_every), ("the last only", settings.steps)):
            server.begin(gcs_server.Faults(latency_seconds=settings.latency_ms / 1000))
            run_dir = f"{bucket}/{every}"
            argv = [*JOB, f"--steps={settings.steps}", f"--eval_every={settings.steps}"]
            argv += [f"--checkpoint_every={every}", f"--run_dir={run_dir}"]
            subprocess.run(
                [sys.executable, "-m", "trainer.task", *argv],
                env=environment,
                check=True,
                capture_output=True,
            )
            newest = f"{run_dir}/checkpoints/{settings.steps:08d}/commit.json"
            seconds = json.loads(server.read(newest))["progress"]["seconds"]
            counts = server.counts()
            rows[name] = {
                "checkpoints": settings.steps // every,
                "waiting for checkpoints, s": seconds["checkpoint"],
                "share": seconds["checkpoint"] / sum(seconds.values()),
                "requests": sum(counts.requests.values()),
                "MB up": counts.bytes_up / 1e6,
            }
    more = rows["some"]["checkpoints"] - 1
    per = {name: (rows["some"][name] - rows["the last only"][name]) / more for name in rows["some"]}
    rows["each"] = {**per, "checkpoints": 1, "share": rows["some"]["share"] / (more + 1)}
    table.show(f"checkpoints, {settings.latency_ms:g} ms a request", rows, settings.json)


if __name__ == "__main__":
    cli.run(Stall, main)
