"""A job whose input is refused asks for its own end; nothing else does."""

import json
import os
import pty
import subprocess
import sys

import pytest

from tests.servers import vertex_server
from trainer.distributed import vertex_cancel

JOB = {
    "displayName": "n",
    "jobSpec": {
        "workerPoolSpecs": [
            {
                "machineSpec": {"machineType": "m"},
                "replicaCount": "1",
                "containerSpec": {"imageUri": "i"},
            }
        ]
    },
}
PARENT = "/v1/projects/lab/locations/us-central1"


@pytest.fixture
def service(monkeypatch):
    monkeypatch.setattr("trainer.distributed.vertex_cancel.PAUSE_SECONDS", 0.0)
    with vertex_server.serve() as server:
        server.walks["us-central1"] = ("RUNNING",) * 9
        server.answer("POST", f"{PARENT}/customJobs", {}, JOB)
        yield server


def environment(service):
    """Returns what a job of that service finds in its environment."""
    (job,) = service.jobs
    return {
        **service.environment(),
        "CLOUD_ML_JOB_ID": job.rpartition("/")[2],
        "CLOUD_ML_PROJECT_ID": "123456789",
        "CLOUD_ML_REGION": "us-central1",
        "CLOUD_ML_TRIAL_ID": "",
    }


def asked(service):
    return [path for method, path, _ in service.requests if path.endswith(":cancel")]


def state(service):
    (job,) = service.jobs.values()
    return job.state.name.removeprefix("JOB_STATE_")


@pytest.mark.parametrize("faults", [[], [429], [503]])
def test_the_job_is_named_by_what_vertex_ai_says_and_asked_for_once_more_if_it_is_busy(
    service, faults
):
    service.cancel_faults = faults[:]
    variables = environment(service)
    name = f"projects/123456789/locations/us-central1/customJobs/{variables['CLOUD_ML_JOB_ID']}"
    assert vertex_cancel.ask(variables) == name
    assert asked(service) == [f"/v1/{name}:cancel"] * (1 + len(faults))
    assert state(service) == "CANCELLING"


def test_the_launchers_variable_stands_in_for_the_region(service):
    variables = environment(service)
    del variables["CLOUD_ML_REGION"]
    vertex_cancel.ask({**variables, "UNET_TRAINER_REGION": "us-central1"})
    assert state(service) == "CANCELLING"


@pytest.mark.parametrize(
    ("faults", "changes", "message"),
    [
        (
            [403],
            {},
            "This job may not cancel itself: its account needs the permission "
            "aiplatform.customJobs.cancel (docs/vertex.md has a role with no more than that)",
        ),
        ([503, 503], {}, 'This job could not be cancelled: Vertex AI answers 503 {"error": '),
        (
            [],
            {"CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM": "http://127.0.0.1:9"},
            "This job could not be cancelled: Vertex AI cannot be reached (ConnectionError)",
        ),
        (
            [],
            {"CLOUD_ML_REGION": ""},
            "This job could not be cancelled: CLOUD_ML_PROJECT_ID, CLOUD_ML_REGION and "
            "CLOUD_ML_JOB_ID are not all in its environment",
        ),
        (
            [],
            {"CLOUD_ML_TRIAL_ID": "7"},
            "This trial does not cancel its job, because its study continues",
        ),
    ],
)
def test_why_a_job_is_not_cancelled_is_said(service, faults, changes, message):
    service.cancel_faults = faults
    with pytest.raises(vertex_cancel.NotAskedError) as error:
        vertex_cancel.ask({**environment(service), **changes})
    assert str(error.value).startswith(message)
    assert state(service) == "QUEUED"


ENDS = """
from trainer import cli, config
from trainer.distributed import preemption
from trainer.errors import InputError, RetryableError
from trainer.distributed.rendezvous import LostWorkerError

def end_by(error):
    def main(job):
        raise error
    try:
        cli.run(config.Job, main, ["trainer.task"], is_job=True)
    except BaseException as end:
        print(getattr(end, "code", type(end).__name__))

end_by(preemption.StoppedError("saved"))
end_by(LostWorkerError("worker 1 is lost", "again"))
end_by(KeyError("a defect"))
end_by(RetryableError("the lease is another's"))
end_by(InputError("--crop=250 is wrong"))
"""


def test_of_all_ends_only_refused_input_asks(service):
    service.cancel_faults = [403] * 5
    result = subprocess.run(
        [sys.executable, "-c", ENDS],
        env={**os.environ, **environment(service)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.split() == ["143", "75", "KeyError", "2", "2"], result.stderr
    assert len(asked(service)) == 1
    *_, refusal, reason = (json.loads(line) for line in result.stderr.splitlines())
    assert (refusal["message"], refusal["refused"]) == ("--crop=250 is wrong", True)
    assert reason["severity"] == "WARNING"
    assert reason["message"].endswith(
        "no more than that); Vertex AI will start it again, up to its limits."
    )


def test_a_person_in_the_containers_shell_does_not_end_the_job(service):
    terminal, end = pty.openpty()
    result = subprocess.run(
        [sys.executable, "-m", "trainer.task", "--crop=250"],
        env={**os.environ, **environment(service)},
        stderr=end,
        check=False,
    )
    os.close(end)
    assert b"--crop=250 is not a multiple of 16" in os.read(terminal, 4096)
    os.close(terminal)
    assert result.returncode == 2
    assert asked(service) == []
