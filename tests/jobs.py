"""Jobs as processes, small enough for tests, and what they leave in their run folders."""

import json
import os
import pathlib
import subprocess
import sys
import time

from launch.local import reserve_ports

ROOT = pathlib.Path(__file__).parents[1]

SMALL = ["--crop=32", "--filters=4", "--depth=1", "--batch_size=4", "--steps=6", "--eval_every=3"]
SMALL += ["--jit_compile=false", "--precision=float32", "--steps_per_loop=2"]


def command(module, *argv, environment=None):
    return subprocess.run(
        [sys.executable, "-m", module, *argv],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **(environment or {})},
    )


def train(data_dir, run_dir, *argv):
    return command("trainer.task", f"--data_dir={data_dir}", f"--run_dir={run_dir}", *SMALL, *argv)


def lines(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def only(entries, split, *keys):
    return [[entry[key] for key in keys] for entry in entries if entry["split"] == split]


def results(run_dir):
    """Returns all of metrics.jsonl that is no measurement of time or memory."""
    timed = ("images_per_second", "input_share", "goodput", "host_memory_gib")
    return [
        {key: x for key, x in entry.items() if key not in timed and not key.startswith("share_")}
        for entry in lines(run_dir)
    ]


def start(data_dir, run_dir, *argv, environment=None, **place):
    """Starts a job; `place` goes to Popen, such as the folder to start in."""
    argv = [f"--data_dir={data_dir}", f"--run_dir={run_dir}", *SMALL, *argv]
    return subprocess.Popen(
        [sys.executable, "-m", "trainer.task", *argv],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
        **place,
    )


def start_workers(number, data_dir, run_dir, *argv, places=None):
    """Starts a job as several worker processes; the first is the chief."""
    return [
        start(data_dir, run_dir, *argv, environment=environment, **place)
        for environment, place in zip(environments(number), places or [{}] * number, strict=True)
    ]


def environments(number):
    """Returns what tells each of several workers on this machine who it is."""
    workers = [f"127.0.0.1:{port}" for port in reserve_ports(number)]
    tasks = [{"type": "worker", "index": index} for index in range(number)]
    return [
        {"TF_CONFIG": json.dumps({"cluster": {"worker": workers}, "task": task})} for task in tasks
    ]


def wait_for(process, path):
    """Waits until a process has written a file."""
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)
