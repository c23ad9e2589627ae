"""Jobs as processes, small enough for tests, and what they leave in their run folders."""

import json
import os
import pathlib
import subprocess
import sys
import time

from launch.local import reserve_ports
from tests import forks

ROOT = pathlib.Path(__file__).parents[1]
SECRET = "ya29.not-for-anybody"  # in the environment of a job, where tokens are

SMALL = ["--crop=32", "--filters=4", "--depth=1", "--batch_size=4", "--steps=6", "--eval_every=3"]
SMALL += ["--jit_compile=false", "--precision=float32", "--steps_per_loop=2"]
# The environment of every command, whatever folder it is started in.
COMMON = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
# Pictures of cases, which only few tests look at.
SMALL += ["--panels=0", "--worst_panels=0", "--worst_cases=0", "--best_cases=0"]


def begin(module, *argv, environment=None, cwd=ROOT, **options):
    """Starts `python -m module`; `options` are those of Popen.

    It is forked, but where a variable of its environment might be read while it is imported.
    """
    environment = {**os.environ, **COMMON, **(environment or {})}
    argv = [str(word) for word in argv]
    if not options and forks.is_able(environment):
        return forks.Process(module, argv, environment, cwd)
    return subprocess.Popen(
        [sys.executable, "-m", module, *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=environment,
        **options,
    )


def command(module, *argv, environment=None, cwd=ROOT):
    """Runs a command to its end; returns its status and what it said."""
    process = begin(module, *argv, environment=environment, cwd=cwd)
    said = process.communicate()
    return subprocess.CompletedProcess([module, *argv], process.returncode, *said)


def in_a_clean_process(code, *argv):
    """Runs Python that must end well and cannot import this package, whatever PYTHONPATH says."""
    code = f"import sys\nsys.modules['trainer'] = None\n{code}"
    command = [sys.executable, "-I", "-c", code, *map(str, argv)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert result.returncode == 0, result.stderr


def train(data_dir, run_dir, *argv, environment=None):
    argv = [f"--data_dir={data_dir}", f"--run_dir={run_dir}", *SMALL, *argv]
    return command("trainer.task", *argv, environment=environment)


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


def start(data_dir, run_dir, *argv, **options):
    """Starts a job; `options` are those of `begin`."""
    argv = [f"--data_dir={data_dir}", f"--run_dir={run_dir}", *SMALL, *argv]
    return begin("trainer.task", *argv, **options)


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


def wait_until(process, condition):
    """Waits until something is so, which a process is to bring about.

    Tests wait for what is followed by much more work of the process, not for its last step.
    """
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def wait_for(process, path):
    """Waits until a process has written a file."""
    wait_until(process, path.exists)
