"""Vertex AI's job service, by Google's own client; only this module imports it.

Each call is made once, and what goes wrong becomes one of our errors: who calls decides whether to
ask again, for the client does so only where it reads.
"""

import contextlib
import dataclasses
import datetime
import importlib.util
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from launch import errors, request
from trainer import vertex
from trainer.errors import InputError

PREFIX = "JOB_STATE_"
ENDED = ("SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED", "PARTIALLY_SUCCEEDED")
NOT_YET = ("QUEUED", "PENDING")


class BusyError(Exception):
    """The service did not answer, or asks to come again; what was asked may have been done."""


class NoRoomError(Exception):
    """There is no quota or no machine for a job at this place."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A job as the service tells of it.

    Attributes:
        name: projects/P/locations/R/customJobs/ID.
        state: without its prefix.
        error: why it failed, or empty.
        labels: of the job.
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
    args: tuple[str, ...]
    shells: Mapping[str, str]
    created: datetime.datetime
    started: datetime.datetime | None
    ended: datetime.datetime | None

    @property
    def id(self) -> str:
        """The service's number for it."""
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

    def __init__(self, project: str, region: str):
        """Connects to nothing yet.

        Raises:
            InputError: the client is not installed, or finds no credentials.
        """
        if importlib.util.find_spec("google.cloud.aiplatform_v1") is None:
            raise InputError(
                'google-cloud-aiplatform is not installed; install it: pip install ".[vertex]".'
            )
        from google.api_core import client_options
        from google.auth import credentials, exceptions
        from google.cloud.aiplatform_v1.services import job_service

        self.parent = f"projects/{project}/locations/{region}"
        address = os.environ.get(vertex.ENDPOINT, f"https://{region}-aiplatform.googleapis.com")
        # A token does not travel over plain HTTP.
        open_line = address.startswith("http://")
        try:
            self._client = job_service.JobServiceClient(
                transport="rest",
                credentials=credentials.AnonymousCredentials() if open_line else None,
                client_options=client_options.ClientOptions(api_endpoint=address.rstrip("/")),
            )
        except exceptions.DefaultCredentialsError:
            raise InputError(
                "No credentials for Google Cloud were found; run gcloud auth application-default "
                "login, or set GOOGLE_APPLICATION_CREDENTIALS to a key file."
            ) from None

    def find(self, name: str = "") -> list[Job]:
        """Returns this command's jobs, or those of one name, the newest first."""
        condition = f'labels.unet_run="{name}"' if name else "labels.unet_run:*"
        found = []
        for collection in request.COLLECTIONS:
            lister = getattr(self._client, _METHODS[collection]["list"])
            with _explained():
                jobs = lister(request={"parent": self.parent, "filter": condition}, timeout=60)
                found += [_describe(job) for job in jobs]
        return sorted(found, key=lambda job: (job.created, job.name), reverse=True)

    def create(self, collection: str, body: Mapping[str, Any]) -> Job:
        """Creates a job, once."""
        from google.cloud import aiplatform_v1 as types

        kinds: dict[str, Any] = {
            "customJobs": types.CustomJob,
            "hyperparameterTuningJobs": types.HyperparameterTuningJob,
        }
        message = kinds[collection].from_json(json.dumps(body))
        method = _METHODS[collection]
        with _explained():
            created = getattr(self._client, method["create"])(
                request={"parent": self.parent, method["field"]: message}, timeout=60
            )
        return _describe(created)

    def get(self, job: Job) -> Job:
        """Returns the job as it is now."""
        with _explained():
            method = getattr(self._client, _METHODS[job.collection]["get"])
            return _describe(method(name=job.name, timeout=60))

    def cancel(self, job: Job) -> None:
        """Asks for the job's end."""
        with _explained():
            getattr(self._client, _METHODS[job.collection]["cancel"])(name=job.name, timeout=60)


_METHODS = {
    "customJobs": {
        "list": "list_custom_jobs",
        "create": "create_custom_job",
        "get": "get_custom_job",
        "cancel": "cancel_custom_job",
        "field": "custom_job",
    },
    "hyperparameterTuningJobs": {
        "list": "list_hyperparameter_tuning_jobs",
        "create": "create_hyperparameter_tuning_job",
        "get": "get_hyperparameter_tuning_job",
        "cancel": "cancel_hyperparameter_tuning_job",
        "field": "hyperparameter_tuning_job",
    },
}


def _describe(job: Any) -> Job:
    spec = job.job_spec if "customJobs" in job.name else job.trial_job_spec
    return Job(
        name=job.name,
        state=job.state.name.removeprefix(PREFIX),
        error=job.error.message,
        labels=dict(job.labels),
        args=tuple(spec.worker_pool_specs[0].container_spec.args),
        shells=dict(getattr(job, "web_access_uris", {})),
        created=job.create_time,
        started=job.start_time or None,
        ended=job.end_time or None,
    )


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turns the client's errors into ours."""
    import requests
    from google.api_core import exceptions
    from google.auth import exceptions as auth

    try:
        yield
    except (requests.RequestException, auth.TransportError) as error:
        raise BusyError(f"not reached: {type(error).__name__}") from None
    except exceptions.ServerError as error:
        raise BusyError(f"{error.code} {_said(error)}") from None
    except exceptions.TooManyRequests as error:
        if errors.kind_of(_said(error)) == "quota":
            raise NoRoomError(_said(error)) from None
        raise BusyError(f"{error.code} {_said(error)}") from None
    except exceptions.GoogleAPICallError as error:
        trouble = errors.explain(_said(error))
        remedy = f"; {trouble.remedy}." if trouble else "."
        raise InputError(f"Vertex AI refuses: {_said(error)}{remedy}") from None
    except auth.RefreshError as error:
        raise InputError(
            f"The credentials for Google Cloud are refused ({error}); run gcloud auth "
            "application-default login."
        ) from None


def _said(error: Any) -> str:
    """Returns the service's own words, without the request that the client puts before them."""
    return re.sub(r"^[A-Z]+ https?://\S+: ", "", " ".join(error.message.split()))
