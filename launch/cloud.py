"""Google Cloud's services by REST: credentials, and failures as our errors.

Google's clients retry only some requests, and silently. So this is turned off, and
`call_with_retries` retries what may be sent again.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from absl import logging

from launch import errors
from trainer.errors import InputError

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
SECONDS = 60.0  # for an answer
FIRST_PAUSE = 1.0  # seconds at most; each is drawn at random, and the limit doubles
LONGEST_PAUSE = 30.0


class BusyError(Exception):
    """The service did not answer, or is busy; the request may have been carried out."""


class NoRoomError(Exception):
    """There is no quota or no machine for a job at this place."""


class Api(NamedTuple):
    """A service: its title, its name in addresses, and the role that it needs."""

    title: str
    name: str
    role: str

    @property
    def variable(self) -> str:
        """Returns gcloud's variable that sends requests to another address."""
        return f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{self.name.upper()}"

    def address(self, region: str = "") -> str:
        """Returns where requests go."""
        host = f"{region}-{self.name}" if region else self.name
        return os.environ.get(self.variable, f"https://{host}.googleapis.com").rstrip("/")


VERTEX_AI = Api("Vertex AI", "aiplatform", "roles/aiplatform.user")
LOGGING = Api("Cloud Logging", "logging", "roles/logging.viewer")
BUILD = Api("Cloud Build", "cloudbuild", "roles/cloudbuild.builds.editor")
REGISTRY = Api("Artifact Registry", "artifactregistry", "roles/artifactregistry.reader")


def credentials(address: str) -> Any:
    """Returns the credentials for an address; none travel over plain HTTP.

    Raises:
        InputError: there are none.
    """
    import google.auth
    from google.auth import credentials, exceptions

    if address.startswith("http://"):
        return credentials.AnonymousCredentials()
    try:
        return google.auth.default(scopes=[SCOPE])[0]
    except exceptions.DefaultCredentialsError:
        raise InputError(
            "No credentials for Google Cloud were found; run gcloud auth application-default "
            "login, or set GOOGLE_APPLICATION_CREDENTIALS to a key file."
        ) from None


def connect(client: Any, address: str) -> Any:
    """Returns a client of this class of Google's; sends nothing yet."""
    return client(
        transport="rest",
        credentials=credentials(address),
        client_options={"api_endpoint": address},
    )


@contextlib.contextmanager
def translate_errors(api: Api) -> Iterator[None]:
    """Turns the errors of Google's clients into ours."""
    import requests
    from google.api_core import exceptions
    from google.auth import exceptions as auth

    try:
        yield
    except (requests.RequestException, auth.TransportError) as error:
        raise BusyError(f"not reached: {type(error).__name__}") from None
    except exceptions.GoogleAPICallError as error:
        # Without the request that the client puts before the service's own words.
        said = re.sub(r"^[A-Z]+ https?://\S+: ", "", " ".join(error.message.split()))
        if isinstance(error, exceptions.TooManyRequests) and errors.kind_of(said) == "quota":
            raise NoRoomError(said) from None
        if isinstance(error, exceptions.ServerError | exceptions.TooManyRequests):
            raise BusyError(f"{error.code} {said}") from None
        trouble = errors.explain(f"{error.code} {said}", api.name, api.role)
        remedy = f"; {trouble.remedy}." if trouble else "."
        raise InputError(f"{api.title} refuses: {said}{remedy}") from None
    except auth.RefreshError as error:
        raise InputError(
            f"The credentials for Google Cloud are refused ({error}); run gcloud auth "
            "application-default login."
        ) from None


def call_with_retries(api: Api, what: str, patience_seconds: float, call: Callable[[], Any]) -> Any:
    """Returns what a call returns, made again while the service is busy.

    Raises:
        InputError: when it has been busy for longer than `patience_seconds`.
    """
    from google.api_core import exceptions, retry

    def once() -> Any:
        with translate_errors(api):
            return call()

    retries = retry.Retry(
        predicate=retry.if_exception_type(BusyError),
        initial=FIRST_PAUSE,
        maximum=LONGEST_PAUSE,
        timeout=patience_seconds,
        on_error=lambda error: logging.info("%s is busy (%s); trying again.", api.title, error),
    )
    try:
        return retries(once)()
    except exceptions.RetryError as error:
        raise InputError(
            f"{api.title} could not be made to {what} ({error.cause}); try again later, or raise "
            "--patience_seconds."
        ) from None
