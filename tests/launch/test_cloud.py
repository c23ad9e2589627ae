"""What Google Cloud's services answer, as our errors; and retries."""

import pytest
import requests
from google.api_core import exceptions
from google.auth import exceptions as auth

from launch import cloud
from trainer.errors import InputError

QUOTA = "The following quota metrics exceed quota limits: x"


@pytest.mark.parametrize(
    ("raised", "expected", "line"),
    [
        (requests.ConnectionError("x"), cloud.BusyError, "not reached: ConnectionError"),
        (auth.TransportError("x"), cloud.BusyError, "not reached: TransportError"),
        (exceptions.ServiceUnavailable("GET https://x/y: busy"), cloud.BusyError, "503 busy"),
        (exceptions.TooManyRequests("slow down"), cloud.BusyError, "429 slow down"),
        (exceptions.TooManyRequests(QUOTA), cloud.NoRoomError, QUOTA),
        (exceptions.NotFound("no"), InputError, "Cloud Build refuses: no."),
        (
            exceptions.Forbidden("no"),
            InputError,
            "Cloud Build refuses: no; give yourself roles/cloudbuild.builds.editor in the project.",
        ),
        (
            exceptions.Forbidden("It has not been used in project 1"),
            InputError,
            "Cloud Build refuses: It has not been used in project 1; gcloud services enable "
            "cloudbuild.googleapis.com.",
        ),
        (
            auth.RefreshError("expired"),
            InputError,
            "The credentials for Google Cloud are refused (expired); run gcloud auth "
            "application-default login.",
        ),
    ],
)
def test_each_error_of_a_client_is_one_of_ours(raised, expected, line):
    with pytest.raises(expected) as error, cloud.translate_errors(cloud.BUILD):
        raise raised
    assert str(error.value) == line


def test_a_busy_service_is_asked_again_and_a_refusal_is_final(monkeypatch):
    monkeypatch.setattr(cloud, "FIRST_PAUSE", 0.001)
    answers = [exceptions.ServiceUnavailable("x"), exceptions.TooManyRequests("x"), "done"]

    def call():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert cloud.call_with_retries(cloud.BUILD, "start a build", 60, call) == "done"
    answers = [exceptions.Forbidden("x"), "done"]
    with pytest.raises(InputError, match=r"^Cloud Build refuses: x; "):
        cloud.call_with_retries(cloud.BUILD, "start a build", 60, call)
    assert answers == ["done"]


def test_a_service_is_where_gclouds_variable_says(monkeypatch):
    monkeypatch.delenv(cloud.VERTEX_AI.variable, raising=False)
    assert cloud.VERTEX_AI.address("r1") == "https://r1-aiplatform.googleapis.com"
    assert cloud.LOGGING.address() == "https://logging.googleapis.com"
    monkeypatch.setenv("CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM", "http://127.0.0.1:1/")
    assert cloud.VERTEX_AI.address("r1") == "http://127.0.0.1:1"
