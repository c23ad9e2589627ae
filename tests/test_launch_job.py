"""A whole job: sent by Google's own client, run by two workers from gs://, preempted, resumed."""

import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

from tests import vertex_machines, vertex_server
from tests.jobs import SMALL

pytestmark = pytest.mark.slow

LONG = ["--steps=16", "--eval_every=8", "--checkpoint_every=4", "--lease_seconds=2", "--panels=0"]
LONG += ["--worst_cases=0", "--norm=group"]
ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def data(gcs, bucket, data_dir):
    """The small data set in a bucket."""
    for path in pathlib.Path(data_dir).iterdir():
        gcs.write(f"{bucket}/data/{path.name}", path.read_bytes())
    return f"{bucket}/data"


def launch(server, bucket, *argv):
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "launch.vertex", "--name=nuclei", "--project=lab"),
            *(f"--bucket={bucket}", "--image=trainer:1", "--poll_seconds=0.2", *argv),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **server.environment()},
    )


def wait_until(condition, process, seconds=150):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_two_workers_train_from_a_bucket_are_preempted_resume_and_succeed(gcs, bucket, data):
    machines = vertex_machines.Machines({**gcs.environment(), "TF_CPP_MIN_LOG_LEVEL": "3"})
    folder = f"{bucket}/runs/nuclei"
    with vertex_server.serve(machines.run) as server:
        server.create_faults = [vertex_server.Fault(503, carried_out=True)]
        argv = ["--workers=2", "--", f"--data_dir={data}", *SMALL, *LONG]
        command = launch(server, bucket, *argv)
        wait_until(lambda: gcs.names(f"{folder}/checkpoints/00000004/commit"), command)
        machines.kill((1, 0))
        output, _ = command.communicate(timeout=240)
    print(output)
    assert command.returncode == 0, output
    assert len(server.jobs) == 1
    assert machines.starts == {(0, 0): 2, (1, 0): 2}
    assert "workerpool0-0 | Going on from step " in output
    assert f"\nrun folder: {folder}\n" in output  # of the trainer's last entry
    assert f"model: {folder}/model" in output
    names = gcs.names(folder)
    for start in ("/checkpoints/00000016/commit.json", "/best/", "/run.json", "/metrics.jsonl"):
        assert any(name.startswith(start) for name in names), (start, names)
    assert any(name.startswith("/model/") for name in names), names
    assert any(name.startswith("/logs/train/events") for name in names), names
    assert not any(name.startswith("/tensorboard/") for name in names), names
    lines = gcs.read(f"{folder}/metrics.jsonl").decode().splitlines()
    steps = [json.loads(line)["step"] for line in lines if '"split": "val"' in line]
    assert steps == [8, 16]


def test_what_the_trainer_refuses_is_not_restarted_for_long_and_says_why(gcs, bucket):
    machines = vertex_machines.Machines(gcs.environment())
    with vertex_server.serve(machines.run) as server:
        command = launch(server, bucket, "--", f"--data_dir={bucket}/nothing")
        output, _ = command.communicate(timeout=240)
    assert command.returncode == 2, output
    line = next(line for line in output.splitlines() if line.startswith("workerpool0-0 | ERROR"))
    assert f"{bucket}/nothing" in line
    assert "The job was cancelled: the trainer refused its input, with a non-zero status " in output
    assert "starts it again" not in output
    assert machines.starts[0, 0] <= 2
