"""Weak scaling on this machine, as a figure of overhead: two workers against one on half the batch.

    python -m benchmarks.scaling [--rounds=3]

Each process has one core. Beside one worker alone and two workers of one job, two jobs that know
nothing of each other run at once: what they lose, they lose to the machine and not to each other.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
from collections.abc import Sequence

from benchmarks import table
from launch import local
from trainer import cli, config

WARMING_UP = 2  # reports of each job that do not count: tracing, first batches


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scaling(config.Settings):
    """Measures what two workers of one job lose against one worker on half the batch."""

    rounds: int = config.setting(3, "Times that each arrangement is run.", low=1)
    reports: int = config.setting(8, "Reports of each job that count.", low=1)
    steps_per_report: int = config.setting(5, "Steps between reports.", low=1)
    batch_size: int = config.setting(4, "Images per worker and step.", low=1)
    crop: int = config.setting(128, "Side of the training crop, in pixels.", low=8)
    filters: int = config.setting(16, "Channels of the first level.", low=1)
    json: str = config.setting("", "Also write the figures to this file.")


def main(settings: Scaling) -> None:
    """Runs the arrangements in turn and prints their speeds."""
    arrangements = {"one worker": [1], "two jobs at once": [1, 1], "two workers": [2]}
    speeds: dict[str, list[float]] = {name: [] for name in arrangements}
    for _ in range(settings.rounds):
        for name, jobs in arrangements.items():
            speeds[name] += run_at_once(settings, jobs)
    alone = statistics.median(speeds["one worker"])
    rows = {
        name: {
            "images/s": table.summarize(speeds[name]),
            "per worker and one alone": table.summarize(
                [speed / sum(jobs) / alone for speed in speeds[name]]
            ),
        }
        for name, jobs in arrangements.items()
    }
    title = (
        f"{settings.filters} filters, {settings.crop}², {settings.batch_size} images per worker "
        "and step, one core each; median (quartiles) of the reports"
    )
    table.show(title, rows, settings.json)


def run_at_once(settings: Scaling, jobs: Sequence[int]) -> list[float]:
    """Runs jobs of so many workers each; returns images/s of all together, report by report."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        cores = iter(sorted(os.sched_getaffinity(0)))
        processes = []
        for number, workers in enumerate(jobs):
            addresses = [f"127.0.0.1:{port}" for port in local.reserve_ports(workers)]
            for index in range(workers):
                argv = job_flags(settings, workers, f"{folder}/{number}")
                process = stack.enter_context(local.start(index, addresses, argv))
                os.sched_setaffinity(process.pid, {next(cores)})  # before it counts them
                processes.append(process)
        for process in processes:
            _, errors = process.communicate()
            if process.returncode:
                raise subprocess.CalledProcessError(
                    process.returncode, "trainer.task", None, errors
                )
        series = [read_speeds(f"{folder}/{number}") for number in range(len(jobs))]
    return [sum(speeds) for speeds in zip(*series, strict=True)]


def job_flags(settings: Scaling, workers: int, run_dir: str) -> list[str]:
    """Returns the flags of a job; evaluation and checkpoints come once, at its end."""
    steps = (WARMING_UP + settings.reports) * settings.steps_per_report
    return [
        f"--run_dir={run_dir}",
        f"--crop={settings.crop}",
        f"--filters={settings.filters}",
        f"--batch_size={settings.batch_size * workers}",
        f"--steps={steps}",
        f"--eval_every={steps}",
        f"--steps_per_loop={settings.steps_per_report}",
        "--precision=float32",
        "--jit_compile=false",
        "--norm=group",
        "--panels=0",
        "--worst_cases=0",
    ]


def read_speeds(run_dir: str) -> list[float]:
    """Returns images/s of each report of a job that counts."""
    lines = (pathlib.Path(run_dir) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [entry for entry in map(json.loads, lines) if entry["split"] == "train"]
    return [entry["images_per_second"] for entry in entries][WARMING_UP:]


if __name__ == "__main__":
    cli.run(Scaling, main)
