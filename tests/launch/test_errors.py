"""Errors are known by the words in which Vertex AI tells of them."""

import pytest

from launch import errors

SEEN = {
    "The following quota metrics exceed quota limits: "
    "aiplatform.googleapis.com/custom_model_training_nvidia_l4_gpus": ("quota", "this quota"),
    "Resources are insufficient in region: us-central1. Please try a different region.": (
        "capacity",
        "--regions",
    ),
    "You do not have permission to act as service account: x@y.iam.gserviceaccount.com": (
        "other",
        "roles/iam.serviceAccountUser",
    ),
    "Permission 'aiplatform.customJobs.create' denied on resource '//aiplatform'": (
        "other",
        "roles/aiplatform.user",
    ),
    "Vertex AI API has not been used in project 1 before or it is disabled.": (
        "other",
        "gcloud services enable",
    ),
    "Failed to pull image us-docker.pkg.dev/p/r/i: not found": ("other", "--build=cloud"),
    "tensorboards/123 is not found": ("other", "own region"),
    "The replica workerpool0-0 ran out-of-memory and exited with a non-zero status of 137.": (
        "other",
        "--machine",
    ),
    "The replica workerpool0-0 exited with a non-zero status of 2.": ("other", "the logs"),
}


@pytest.mark.parametrize("message", SEEN)
def test_each_kind_of_error_has_a_remedy(message):
    kind, remedy = SEEN[message]
    assert errors.kind_of(message) == kind
    assert remedy in errors.explain(message).remedy


def test_an_unknown_error_is_left_as_it_is():
    assert errors.explain("Internal error occurred.") is None
    assert errors.kind_of("Internal error occurred.") == "other"


@pytest.mark.parametrize(
    ("message", "status"),
    [("exited with a non-zero status of 143.", 143), ("non-zero status of 2", 2), ("", 1)],
)
def test_the_exit_status_is_the_replicas(message, status):
    assert errors.exit_status(message) == status
