"""Cancels the Vertex AI job of this process, which no exit status can do.

Vertex AI restarts every process that ends with a status other than 0. Refused input would be
refused again, so the job asks the service to cancel it:
https://docs.cloud.google.com/vertex-ai/docs/reference/rest/v1/projects.locations.customJobs/cancel
"""

import os
import time
from collections.abc import Mapping
from typing import Any

from absl import logging

from trainer.distributed import preemption, vertex

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
BUSY = (429, 503)
PAUSE_SECONDS = 2.0
ANSWER_SECONDS = 10.0
END_SECONDS = 30.0


class NotAskedError(Exception):
    """The job is not being cancelled; the message says why."""


def end_job(environment: Mapping[str, str] = os.environ) -> None:
    """Asks Vertex AI to cancel the job, logs the result, and waits for the end.

    A process that ends before the SIGTERM would be restarted at once.
    """
    with preemption.listening() as stop:
        try:
            name = ask(environment)
        except NotAskedError as error:
            logging.warning("%s; Vertex AI will start it again, up to its limits.", error)
            return
        logging.warning(
            "Asking Vertex AI to cancel this job, because a restart would fail in the same way: %s",
            name,
        )
        give_up = time.monotonic() + END_SECONDS
        while not stop and time.monotonic() < give_up:
            time.sleep(0.05)


def ask(environment: Mapping[str, str]) -> str:
    """Asks Vertex AI to cancel the job, once more if it is busy; returns the job's name.

    Raises:
        NotAskedError: it may not, or the service is not reached.
    """
    if vertex.is_trial(environment):
        raise NotAskedError("This trial does not cancel its job, because its study continues")
    name = _name(environment)
    address = environment.get(
        vertex.ENDPOINT, f"https://{name.split('/')[3]}-aiplatform.googleapis.com"
    )
    url = f"{address.rstrip('/')}/v1/{name}:cancel"
    answer = _post(url)
    if answer.status_code in BUSY:
        time.sleep(PAUSE_SECONDS)
        answer = _post(url)
    if answer.status_code == 403:
        raise NotAskedError(
            "This job may not cancel itself: its account needs the permission "
            "aiplatform.customJobs.cancel (docs/vertex.md has a role with no more than that)"
        )
    if answer.status_code != 200:
        said = " ".join(answer.text.split())[:200]
        raise NotAskedError(
            f"This job could not be cancelled: Vertex AI answers {answer.status_code} {said}"
        )
    return name


def _name(environment: Mapping[str, str]) -> str:
    """Returns the job's name, as Vertex AI's variables tell it."""
    region = environment.get("CLOUD_ML_REGION") or environment.get(vertex.REGION)
    project, job = (environment.get(f"CLOUD_ML_{part}_ID") for part in ("PROJECT", "JOB"))
    if not (region and project and job):
        raise NotAskedError(
            "This job could not be cancelled: CLOUD_ML_PROJECT_ID, CLOUD_ML_REGION and "
            "CLOUD_ML_JOB_ID are not all in its environment"
        )
    return f"projects/{project}/locations/{region}/customJobs/{job}"


def _post(url: str) -> Any:
    # They come with google-cloud-storage, and take long to import.
    import google.auth
    import requests
    from google.auth import exceptions
    from google.auth.transport.requests import AuthorizedSession

    try:
        session = (
            requests.Session()
            if url.startswith("http://")  # which sends no token
            else AuthorizedSession(google.auth.default(scopes=[SCOPE])[0])
        )
        with session:
            return session.post(url, timeout=ANSWER_SECONDS)
    except (exceptions.GoogleAuthError, requests.RequestException) as error:
        raise NotAskedError(
            f"This job could not be cancelled: Vertex AI cannot be reached ({type(error).__name__})"
        ) from None
