"""Vertex AI's job service, by Google's own client; only this module imports it."""

import dataclasses
import datetime
import functools
import importlib.util
import json
from collections.abc import Callable, Mapping
from typing import Any

from launch import cloud, request
from launch.cloud import SECONDS, VERTEX_AI
from trainer.errors import InputError

PREFIX = "JOB_STATE_"
ENDED = ("SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED", "PARTIALLY_SUCCEEDED")
NOT_YET = ("QUEUED", "PENDING")
NOUNS = {"customJobs": "custom_job", "hyperparameterTuningJobs": "hyperparameter_tuning_job"}


@dataclasses.dataclass(frozen=True)
class Job:
    """A job as the service tells of it.

    Attributes:
        name: projects/P/locations/R/customJobs/ID.
        state: without its prefix.
        error: why it failed, or empty.
        labels: of the job.
        command: of its chief; empty for the image's own.
        args: of its chief.
        shells: replica → where to open a shell in it, with --web_access.
        created: when; as are the next two.
        started: None while it waits.
        ended: None until then.
    """

    name: str
    state: str
    error: str
    labels: Mapping[str, str]
    command: tuple[str, ...]
    args: tuple[str, ...]
    shells: Mapping[str, str]
    created: datetime.datetime
    started: datetime.datetime | None
    ended: datetime.datetime | None

    @property
    def id(self) -> str:
        """The service's id for it."""
        return self.name.rpartition("/")[2]

    @property
    def region(self) -> str:
        """Where it is."""
        return self.name.split("/")[3]

    @property
    def collection(self) -> str:
        """Its kind: customJobs or hyperparameterTuningJobs."""
        return self.name.split("/")[4]

    @property
    def has_ended(self) -> bool:
        """Whether its state is its last."""
        return self.state in ENDED


class Service:
    """The jobs of a project in a region."""

    def __init__(self, project: str, region: str, patience_seconds: float):
        """Connects to nothing yet.

        Args:
            project: its id.
            region: where the jobs are.
            patience_seconds: for which the service may be busy.

        Raises:
            InputError: the client is not installed, or finds no credentials.
        """
        if importlib.util.find_spec("google.cloud.aiplatform_v1") is None:
            raise InputError(
                'google-cloud-aiplatform is not installed; install it: pip install ".[vertex]".'
            )
        from google.cloud.aiplatform_v1.services import job_service

        self._parent = f"projects/{project}/locations/{region}"
        self._patience_seconds = patience_seconds
        self._client = cloud.connect(job_service.JobServiceClient, VERTEX_AI.address(region))

    def find(self, name: str = "") -> list[Job]:
        """Returns this command's jobs, or those of one name, the newest first."""
        condition = f'labels.unet_run="{name}"' if name else "labels.unet_run:*"
        question = {"parent": self._parent, "filter": condition}

        def find_all() -> list[Job]:
            return [
                _describe(job)
                for collection in request.COLLECTIONS
                for job in self._call("list", collection, "s", request=question)
            ]

        found = self.retry("list jobs", find_all)
        return sorted(found, key=lambda job: (job.created, job.name), reverse=True)

    def create(self, collection: str, body: Mapping[str, Any]) -> Job:
        """Creates a job; the request is sent once."""
        from google.cloud import aiplatform_v1 as types

        kinds: dict[str, Any] = {
            "customJobs": types.CustomJob,
            "hyperparameterTuningJobs": types.HyperparameterTuningJob,
        }
        job = {NOUNS[collection]: kinds[collection].from_json(json.dumps(body))}
        with cloud.translate_errors(VERTEX_AI):
            return _describe(
                self._call("create", collection, request={"parent": self._parent, **job})
            )

    def get(self, job: Job) -> Job:
        """Returns the job as it is now."""
        call = functools.partial(self._call, "get", job.collection, name=job.name)
        return _describe(self.retry("describe the job", call))

    def cancel(self, job: Job) -> None:
        """Asks for the job's end."""
        call = functools.partial(self._call, "cancel", job.collection, name=job.name)
        self.retry("cancel the job", call)

    def retry(self, what: str, call: Callable[[], Any]) -> Any:
        """Returns what a call returns, made again while the service is busy."""
        return cloud.call_with_retries(VERTEX_AI, what, self._patience_seconds, call)

    def _call(self, verb: str, collection: str, ending: str = "", **arguments: Any) -> Any:
        """Calls a method of the client, such as list_custom_jobs."""
        method = getattr(self._client, f"{verb}_{NOUNS[collection]}{ending}")
        return method(retry=None, timeout=SECONDS, **arguments)


def _describe(job: Any) -> Job:
    spec = job.job_spec if "customJobs" in job.name else job.trial_job_spec
    container = spec.worker_pool_specs[0].container_spec
    return Job(
        name=job.name,
        state=job.state.name.removeprefix(PREFIX),
        error=job.error.message,
        labels=dict(job.labels),
        command=tuple(container.command),
        args=tuple(container.args),
        shells=dict(getattr(job, "web_access_uris", {})),
        created=job.create_time,
        started=job.start_time or None,
        ended=job.end_time or None,
    )
