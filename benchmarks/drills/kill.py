"""Kills runs again and again, and compares the results with a run that was left alone.

    python -m benchmarks.drills.kill [--kills=50 --runs=10]
    python -m benchmarks.drills.kill --store=gs --kills=20 --runs=4 --checkpoint_every=75

A third of the kills wait for a checkpoint that is being written, the others come at any time, even
before the first step. A run passes if its weights, optimizer and best weights are equal bit for bit
to those of the run that was left alone, and metrics.jsonl except for measurements of time. Then as
many runs are stopped by SIGTERM, to see how soon their checkpoint is complete.
"""

import contextlib
import dataclasses
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from benchmarks import table
from trainer import cli, config
from trainer.checkpointing import checkpoint
from trainer.storage import files

Names = Callable[[str], list[str]]  # the paths below a folder

TIMED = ("images_per_second", "input_share", "goodput", "share_", "host_memory")
JOB = (
    *("--crop=64", "--filters=4", "--depth=3", "--batch_size=8", "--steps=300", "--eval_every=100"),
    *("--deterministic", "--ema=0.9", "--panels=0", "--worst_cases=0"),
    "--lease_seconds=4",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kill(config.Settings):
    """Kills runs at random moments and compares the results with a run left alone."""

    kills: int = config.setting(50, "SIGKILLs in all.", low=1)
    runs: int = config.setting(10, "Runs among which they are dealt out.", low=1)
    stops: int = config.setting(5, "Runs that are stopped by SIGTERM.", low=0)
    store: str = config.setting(
        "disk",
        "Where the runs are: on disk, or on gs:// with faults, by a server on loopback.",
        choices=("disk", "gs"),
    )
    checkpoint_every: int = config.setting(20, "Steps between checkpoints, of 300.", low=1)
    seed: int = config.setting(0, "Seed of the moments.", low=0)
    json: str = config.setting("", "Also write the figures to this file.")


def main(settings: Kill) -> None:
    """Runs the drill and prints what came of it."""
    draw = random.Random(settings.seed)
    with place(settings.store) as (root, environment, names):
        drill = Drill(environment, names, settings.checkpoint_every)
        alone = f"{root}/alone"
        start = time.monotonic()
        drill.finish(alone)
        length = time.monotonic() - start
        tally = {"bit-equal": 0, "killed while a checkpoint was written": 0, "redone steps": 0}
        lost, stops = [], []
        for number in range(settings.runs):
            run_dir = f"{root}/killed{number}"
            kills = settings.kills // settings.runs + (number < settings.kills % settings.runs)
            for kill in range(kills):
                aimed = (number + kill) % 3 == 0
                tally["killed while a checkpoint was written"] += (
                    drill.kill_writer(run_dir, passed=draw.randrange(2))
                    if aimed
                    else drill.kill(run_dir, draw.uniform(0, length))
                )
            drill.finish(run_dir)
            seconds = drill.seconds(run_dir)
            lost.append((seconds["redone"]) / kills)
            found, wanted = drill.result(run_dir), drill.result(alone)
            tally["bit-equal"] += found == wanted
            for name in found:
                if found[name] != wanted.get(name):
                    print(f"{name}: {found[name]}\ninstead of: {wanted.get(name)}")
            print(f"run {number}, {kills} kills; so far {tally}", flush=True)
        for number in range(settings.stops):
            stops.append(drill.stop(f"{root}/stopped{number}", draw.uniform(0, 1)))
        seconds = drill.seconds(alone)
    rows: dict[str, Any] = {
        "runs": {"": settings.runs},
        "SIGKILLs": {"": settings.kills},
        "  while a checkpoint was written": {"": tally["killed while a checkpoint was written"]},
        "runs that ended bit-equal": {"": tally["bit-equal"]},
        "s of steps taken again per kill": {"": table.summarize(lost)},
        **(
            {"s from SIGTERM to a complete checkpoint": {"": table.summarize(stops)}}
            if stops
            else {}
        ),
        "share of time waiting for checkpoints": {
            "": round(seconds["checkpoint"] / sum(seconds.values()), 4)
        },
    }
    table.show(f"kills on {settings.store}, a run of {length:.0f} s", rows, settings.json)


@contextlib.contextmanager
def place(store: str) -> Iterator[tuple[str, Mapping[str, str], Names]]:
    """Yields where runs can be kept, the environment that leads there, and how to look there.

    The last lists what is below a folder, without a request that a fault could hold up: a
    checkpoint that is being written would be whole before the answer.
    """
    if store == "disk":
        with tempfile.TemporaryDirectory() as folder:
            yield folder, {}, names_on_disk
        return
    from tests.servers import gcs_server

    with gcs_server.serve() as server:
        bucket = server.make_bucket("drill")
        server.begin(gcs_server.Faults(busy=0.1, cut=0.05, slow=0.1))
        os.environ.update(server.environment())  # this process reads in the bucket, too
        yield bucket, {}, lambda folder: server.names(folder + "/")


def names_on_disk(folder: str) -> list[str]:
    """Returns the paths of all files below a folder, from there on."""
    return [
        os.path.relpath(os.path.join(path, name), folder)
        for path, _, names in os.walk(folder)
        for name in names
    ]


class Drill:
    """Starts, kills and reads runs of one job."""

    def __init__(self, environment: Mapping[str, str], names: Names, checkpoint_every: int):
        """Takes what `place` yields, and the runs' steps between checkpoints."""
        self._names = names
        self._job = (*JOB, f"--checkpoint_every={checkpoint_every}")
        self._environment = {**os.environ, **environment}

    def finish(self, run_dir: str) -> None:
        """Lets a run continue to its end."""
        with self._started(run_dir) as process:
            _, output = process.communicate()
            if process.returncode:
                sys.exit(f"{run_dir} ended with {process.returncode}:\n{output}")

    def kill(self, run_dir: str, after_seconds: float) -> bool:
        """Kills a run after some time; returns whether a checkpoint was being written."""
        deadline = time.monotonic() + after_seconds
        return self._kill(run_dir, lambda begun: time.monotonic() > deadline)

    def kill_writer(self, run_dir: str, passed: int) -> bool:
        """Kills a run while it writes a checkpoint, after so many others; returns whether it did.

        The run may end before, or the checkpoint be complete by then.
        """
        return self._kill(run_dir, lambda begun: begun > passed)

    def _kill(self, run_dir: str, is_time: Callable[[int], bool]) -> bool:
        """Kills a run once `is_time` is true for the number of checkpoints that were begun."""
        strays = self._unfinished(run_dir)  # of kills before: removed at the start
        saving: set[str] = set()
        begun = 0
        with self._started(run_dir) as process:
            while process.poll() is None and not is_time(begun):
                found = self._unfinished(run_dir)
                strays &= found
                begun += len(found - strays - saving)
                saving = found - strays
                time.sleep(0.002)
            process.kill()
            process.communicate()
        return bool(self._unfinished(run_dir) - strays)

    def stop(self, run_dir: str, after_seconds: float) -> float:
        """Stops a run by SIGTERM, some time after its first checkpoint was begun.

        Returns:
            The seconds until its last checkpoint was complete.
        """
        with self._started(run_dir) as process:
            while not any(name.startswith("checkpoints/") for name in self._names(run_dir)):
                assert process.poll() is None, process.communicate()[1]
                time.sleep(0.02)
            time.sleep(after_seconds)
            process.send_signal(signal.SIGTERM)
            _, output = process.communicate()
        found = re.search(r"complete (\S+) s after the signal", output)
        if process.returncode != 143 or not found:
            sys.exit(f"{run_dir} ended with {process.returncode}:\n{output}")
        return float(found[1])

    def result(self, run_dir: str) -> dict[str, Any]:
        """Returns what must be equal: figures, and the checksums of all checkpoints' files."""
        with files.open_file(f"{run_dir}/metrics.jsonl", "r") as file:
            entries = [json.loads(line) for line in file.read().splitlines()]
        found: dict[str, Any] = {}
        for kind in ("checkpoints", "best"):
            for name in files.list_folder(f"{run_dir}/{kind}"):
                commit = checkpoint.read_commit(f"{run_dir}/{kind}/{name}")
                found[f"{kind}/{name}"] = commit and commit["files"]
        figures = [
            {name: x for name, x in entry.items() if not name.startswith(TIMED)}
            for entry in entries
        ]
        return {**found, "checkpoints": list(found), "metrics.jsonl": figures}

    def seconds(self, run_dir: str) -> dict[str, float]:
        """Returns where the time of a run went, by its last checkpoint."""
        newest = files.list_folder(f"{run_dir}/checkpoints")[-1]
        commit = checkpoint.read_commit(f"{run_dir}/checkpoints/{newest}")
        assert commit
        return commit["progress"]["seconds"]

    def _unfinished(self, run_dir: str) -> set[str]:
        """Returns the checkpoints and best weights that have files but no commit yet."""
        found = [name.split("/") for name in self._names(run_dir)]
        written = [parts for parts in found if parts[0] in ("checkpoints", "best")]
        whole = {"/".join(parts[:2]) for parts in written if parts[-1] == checkpoint.COMMIT}
        return {"/".join(parts[:2]) for parts in written} - whole

    @contextlib.contextmanager
    def _started(self, run_dir: str) -> Iterator[subprocess.Popen]:
        with subprocess.Popen(
            [sys.executable, "-m", "trainer.task", *self._job, f"--run_dir={run_dir}"],
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment,
        ) as process:
            yield process


if __name__ == "__main__":
    cli.run(Kill, main)
