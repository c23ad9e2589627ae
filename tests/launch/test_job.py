"""A whole job: sent by Google's own client, run by two workers from gs://, preempted, resumed."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from launch import client, hardware, request, settings
from tests import jobs, runs
from tests.jobs import ROOT, SMALL
from tests.servers import vertex_machines, vertex_server
from trainer.config import flags

pytestmark = pytest.mark.slow

LONG = ["--steps=16", "--eval_every=8", "--checkpoint_every=4", "--lease_seconds=2", "--panels=0"]
LONG += ["--worst_cases=0", "--norm=group"]


@pytest.fixture
def data(gcs, bucket, data_dir):
    """The small data set in a bucket."""
    for path in pathlib.Path(data_dir).iterdir():
        gcs.write(f"{bucket}/data/{path.name}", path.read_bytes())
    return f"{bucket}/data"


@contextlib.contextmanager
def vertex_ai(environment, **options):
    """Runs the service, and the jobs that it is sent in that environment."""
    with vertex_server.serve() as server:
        machines = vertex_machines.Machines({**environment, **server.environment()}, **options)
        server.runner = machines.run
        yield server, machines


def launch(server, *argv):
    own = ("--name=nuclei", "--project=lab", "--poll_seconds=0.2")
    return subprocess.Popen(
        [sys.executable, "-m", "launch.vertex", *argv[:1], *own, *argv[1:]],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **server.environment()},
    )


def send(server, monkeypatch, *argv):
    """Sends a job without the launcher's checks, as gcloud would."""
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    own = ["--name=nuclei", "--project=lab", "--bucket=gs://b"]
    asked = flags.parse(settings.Vertex, ["launch.vertex", *own])
    (place,) = hardware.choose(asked)
    service = client.Service("lab", place.region, 60)
    return service, service.create("customJobs", request.build(asked, place, "i", argv, 1))


def wait_until(condition, process, seconds=480):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_two_workers_train_from_a_bucket_are_preempted_resume_and_succeed(gcs, bucket, data):
    folder = f"{bucket}/runs/nuclei"
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3"}
    with vertex_ai({**gcs.environment(), **quiet}) as (server, machines):
        server.create_faults = [vertex_server.Fault(503, carried_out=True)]
        argv = [f"--bucket={bucket}", "--image=trainer:1", "--workers=2"]
        command = launch(server, "run", *argv, "--", f"--data_dir={data}", *SMALL, *LONG)
        wait_until(lambda: gcs.names(f"{folder}/checkpoints/00000004/commit"), command)
        machines.kill((1, 0))
        output, _ = command.communicate(timeout=480)
    print(output)
    assert command.returncode == 0, output
    assert len(server.jobs) == 1
    assert machines.starts == {(0, 0): 2, (1, 0): 2}
    assert "workerpool0-0 | Resuming from step " in output
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


def test_two_machines_predict_one_is_lost_and_the_masks_are_those_of_one(gcs, bucket, tmp_path):
    run_dir = runs.write_run(tmp_path / "run", depth=1, channels=3)
    for path in pathlib.Path(run_dir).rglob("*"):
        if path.is_file():
            name = path.relative_to(run_dir).as_posix()
            gcs.write(f"{bucket}/run/{name}", path.read_bytes())
    images = tmp_path / "images"
    images.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (24, 64, 64, 3)).astype(np.uint8)
    for number, pixels in enumerate(noise):  # each is a full tile, and so a step of its own
        Image.fromarray(pixels).save(images / f"{number}.png")
        gcs.write(f"{bucket}/images/{number}.png", (images / f"{number}.png").read_bytes())
    out, quiet = f"{bucket}/masks", {"TF_CPP_MIN_LOG_LEVEL": "3"}
    with vertex_ai({**gcs.environment(), **quiet}) as (server, machines):
        argv = [f"--bucket={bucket}", "--image=trainer:1", "--workers=2"]
        flags_of_it = [f"--run_dir={bucket}/run", f"--images={bucket}/images", f"--output={out}"]
        command = launch(server, "predict", *argv, "--", *flags_of_it, "--tile=64")
        wait_until(lambda: gcs.names(f"{out}/parts/2-of-2/prediction.json"), command)
        machines.kill((1, 0))
        output, _ = command.communicate(timeout=480)
    print(output)
    assert command.returncode == 0, output
    assert machines.starts == {(0, 0): 1, (1, 0): 2}  # the other one was left to its part
    assert "workerpool0-0 | All 2 parts are finished; joining them." in output
    assert f"\nmasks: {out}\n" in output
    whole = jobs.command(
        "trainer.predict",
        *(f"--run_dir={run_dir}", f"--images={images}", f"--output={tmp_path}/out", "--tile=64"),
    )
    assert whole.returncode == 0, whole.stderr
    alone = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert set(gcs.names(f"{out}/")) == alone.keys()
    assert len(alone) == 25
    for name in alone.keys() - {"prediction.json"}:
        assert gcs.read(f"{out}/{name}") == alone[name], name
    made = json.loads(gcs.read(f"{out}/prediction.json"))["files"]
    assert made.keys() == alone.keys() - {"prediction.json"}


def test_a_prediction_that_is_refused_ends_the_job_at_its_first_start(gcs, bucket):
    with vertex_ai(gcs.environment()) as (server, machines):
        argv = [f"--bucket={bucket}", "--image=trainer:1", "--", f"--run_dir={bucket}/nothing"]
        argv += [f"--images={bucket}/images", f"--output={bucket}/masks"]
        command = launch(server, "predict", *argv)
        output, _ = command.communicate(timeout=480)
    assert command.returncode == 2, output
    line = next(line for line in output.splitlines() if line.startswith("workerpool0-0 | ERROR"))
    assert f"{bucket}/nothing" in line
    assert machines.starts == {(0, 0): 1}


def test_data_that_the_trainer_refuses_end_the_job_at_its_first_start(gcs, bucket):
    with vertex_ai(gcs.environment()) as (server, machines):
        argv = [f"--bucket={bucket}", "--image=trainer:1", "--", f"--data_dir={bucket}/nothing"]
        command = launch(server, "run", *argv)
        output, _ = command.communicate(timeout=480)
    assert command.returncode == 2, output
    line = next(line for line in output.splitlines() if line.startswith("workerpool0-0 | ERROR"))
    assert f"{bucket}/nothing" in line
    assert "The job was cancelled: the trainer refused its input, with a non-zero status " in output
    assert "starts it again" not in output
    assert machines.starts == {(0, 0): 1}


def test_a_job_with_a_bad_flag_ends_itself_and_whoever_attaches_is_told_why(monkeypatch):
    with vertex_ai({}) as (server, machines):
        service, job = send(server, monkeypatch, "--crop=250")
        command = launch(server, "attach")
        output, _ = command.communicate(timeout=480)
        assert service.get(job).state == "CANCELLED"
    assert command.returncode == 2, output
    assert "--crop=250 is not a multiple of 16" in output
    assert machines.starts == {(0, 0): 1}


def test_a_job_that_may_not_end_itself_is_started_again_and_says_so(monkeypatch):
    with vertex_ai({}, max_restarts=1) as (server, machines):
        server.cancel_faults = [403] * 9
        service, job = send(server, monkeypatch, "--crop=250")
        deadline = time.monotonic() + 480
        while not (job := service.get(job)).has_ended:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert (job.state, machines.exits) == ("FAILED", {(0, 0): [2, 2]})
    told = [entry["jsonPayload"] for entry in server.entries]
    assert ["refused" in entry for entry in told] == [True, False, True, False]
    assert told[1]["message"] == told[3]["message"]
    assert "permission aiplatform.customJobs.cancel" in told[1]["message"]
    assert told[1]["message"].endswith("; Vertex AI will start it again, up to its limits.")
