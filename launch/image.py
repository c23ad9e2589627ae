"""The container's image: named by its content, built where it is missing."""

import hashlib
import os
import pathlib
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from absl import logging

from launch import settings, submit
from launch.client import BusyError
from launch.hardware import Machines
from trainer.errors import InputError

ROOT = pathlib.Path(__file__).parents[1]
# What the Dockerfile copies; .dockerignore lets nothing else through.
PARTS = (
    "Dockerfile",
    "LICENSE",
    "MANIFEST.in",
    "README.md",
    "launch",
    "pyproject.toml",
    "requirements",
    "setup.py",
    "trainer",
)
DOCKER = "gcr.io/cloud-builders/docker"
BUILD_ENDPOINT = "CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDBUILD"
REGISTRY_ENDPOINT = "CLOUDSDK_API_ENDPOINT_OVERRIDES_ARTIFACTREGISTRY"
BUILD_SECONDS = 3600


def address(asked: settings.Vertex, machines: Machines, root: pathlib.Path = ROOT) -> str:
    """Returns the image's address: `--image`, or that of this tree for these machines.

    Raises:
        InputError: neither is there.
    """
    if asked.image.image:
        return asked.image.image
    if not (root / "Dockerfile").exists():
        raise InputError(
            "--image is missing, and this installation has no Dockerfile to build one of; name an "
            "image, or start from a checkout of the sources."
        )
    host = f"{asked.regions()[0]}-docker.pkg.dev"  # from where all regions can pull
    repository = f"{host}/{asked.job.project}/{asked.image.repository}"
    user = "-root" if asked.runs_as_root() else ""
    return f"{repository}/trainer-{machines.kind}{user}:{content_tag(root)}"


def content_tag(root: pathlib.Path = ROOT) -> str:
    """Returns a name for all that goes into the image: equal trees, equal names."""
    digest = hashlib.sha256()
    for path in contents(root):
        name = path.relative_to(root).as_posix()
        executable = os.access(path, os.X_OK)
        digest.update(f"{name}\0{executable}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def contents(root: pathlib.Path = ROOT) -> Iterator[pathlib.Path]:
    """Yields the files that go into the image, in the order of their names."""
    for part in PARTS:
        path = root / part
        if path.is_file():
            yield path
        for file in sorted(path.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts and file.suffix != ".pyc":
                yield file


def ensure(asked: settings.Vertex, machines: Machines, image: str) -> None:
    """Builds the image by `--build`, unless its registry has it.

    Raises:
        InputError: it cannot be built.
    """
    if asked.image.build == "no":
        return
    if asked.image.image:
        raise InputError(
            f"--build={asked.image.build} builds the image of this tree, and --image="
            f"{asked.image.image} names another; drop one of them."
        )
    BUILDERS[asked.image.build](asked, machines, image)


def _build_here(asked: settings.Vertex, machines: Machines, image: str) -> None:
    if shutil.which("docker") is None:
        raise InputError("--build=local finds no docker here; use --build=cloud.")
    if _docker("manifest", "inspect", image, quiet=True) == 0:
        logging.info("%s is there already.", image)
        return
    build = [*_build_command(asked, machines, image), str(ROOT)]
    for command in (build, ["push", image]):
        if _docker(*command):
            raise InputError(
                f"docker {command[0]} failed, as it says above; mend it, or use --build=cloud."
            )


def _build_command(asked: settings.Vertex, machines: Machines, image: str) -> list[str]:
    user = ["--build-arg=RUN_AS=0"] if asked.runs_as_root() else []
    return ["build", f"--target={machines.kind}", f"--tag={image}", *user]


def _docker(*command: str, quiet: bool = False) -> int:
    sink = subprocess.DEVNULL if quiet else None
    return subprocess.run(["docker", *command], check=False, stdout=sink, stderr=sink).returncode


def _build_in_cloud(asked: settings.Vertex, machines: Machines, image: str) -> None:
    from google.api_core.exceptions import GoogleAPICallError
    from google.cloud.storage import Client

    session = _Session(asked.job.patience_seconds)
    if session.has_image(image):
        logging.info("%s is there already.", image)
        return
    bucket, _, folder = asked.job.bucket.removeprefix("gs://").rstrip("/").partition("/")
    tag = image.rpartition(":")[2]
    name = "/".join(part for part in (folder, f"images/{tag}.tar.gz") if part)
    with tempfile.TemporaryDirectory() as scratch:
        archive = pathlib.Path(scratch, "tree.tar.gz")
        with tarfile.open(archive, "w:gz") as file:
            for path in contents():
                file.add(path, path.relative_to(ROOT).as_posix())
        client = Client(project=asked.job.project)
        try:
            client.bucket(bucket).blob(name).upload_from_filename(str(archive))
        except GoogleAPICallError as error:
            raise InputError(
                f"--build=cloud cannot write its source to gs://{bucket}/{name} "
                f"({' '.join(error.message.split())[:200]}); check --bucket, and your role on it."
            ) from None
    build = {
        "source": {"storageSource": {"bucket": bucket, "object": name}},
        "steps": [
            {
                "name": DOCKER,
                "args": [*_build_command(asked, machines, image), "."],
                "env": ["DOCKER_BUILDKIT=1"],
            }
        ],
        "images": [image],
        "timeout": f"{BUILD_SECONDS}s",
    }
    session.build(asked.job.project, build, asked.job.poll_seconds)


BUILDERS = {"local": _build_here, "cloud": _build_in_cloud}


class _Session:
    """Cloud Build and Artifact Registry, by their REST interfaces."""

    def __init__(self, patience_seconds: float) -> None:
        import google.auth
        import requests
        from google.auth import exceptions
        from google.auth.transport.requests import AuthorizedSession

        self._patience_seconds = patience_seconds
        self._build = os.environ.get(BUILD_ENDPOINT, "https://cloudbuild.googleapis.com")
        self._registry = os.environ.get(
            REGISTRY_ENDPOINT, "https://artifactregistry.googleapis.com"
        )
        if self._build.startswith("http://"):  # over which no token travels
            self._session: Any = requests.Session()
            return
        try:
            scopes = ["https://www.googleapis.com/auth/cloud-platform"]
            self._session = AuthorizedSession(google.auth.default(scopes=scopes)[0])
        except exceptions.DefaultCredentialsError as error:
            raise InputError(
                f"--build=cloud finds no credentials ({error}); run gcloud auth "
                "application-default login."
            ) from None

    def has_image(self, image: str) -> bool:
        """Returns whether the registry has an image of this name and tag."""
        path, _, tag = image.partition(":")
        host, project, repository, package = path.split("/")
        location = host.removesuffix("-docker.pkg.dev")
        url = (
            f"{self._registry.rstrip('/')}/v1/projects/{project}/locations/{location}/repositories/"
            f"{repository}/packages/{package}/tags/{tag}"
        )
        answer = self._get(url, "Artifact Registry", "look for the image")
        if answer.status_code in (401, 403):
            raise InputError(
                f"--build=cloud: Artifact Registry refuses ({_message(answer)}); give yourself "
                "roles/artifactregistry.reader."
            )
        return answer.status_code == 200

    def _get(self, url: str, service: str, what: str) -> Any:
        """Returns an answer, asked for again while there is none."""
        import requests
        from google.auth import exceptions

        def once() -> Any:
            try:
                answer = self._session.get(url, timeout=60)
            except (requests.RequestException, exceptions.TransportError) as error:
                raise BusyError(f"not reached: {type(error).__name__}") from None
            if answer.status_code == 429 or answer.status_code >= 500:
                raise BusyError(_message(answer))
            return answer

        return submit.patiently(once, self._patience_seconds, what, service)

    def build(self, project: str, build: dict[str, Any], poll_seconds: float) -> None:
        """Starts a build and returns once it has succeeded."""
        url = f"{self._build.rstrip('/')}/v1/projects/{project}/builds"
        answer = self._session.post(url, json=build, timeout=60)
        if answer.status_code != 200:
            raise InputError(
                f"--build=cloud: Cloud Build refuses ({_message(answer)}); gcloud services enable "
                "cloudbuild.googleapis.com artifactregistry.googleapis.com, and see docs/vertex.md."
            )
        made = answer.json()["metadata"]["build"]
        logging.info("Building %s: %s", build["images"][0], made.get("logUrl", made["id"]))
        while made["status"] in ("PENDING", "QUEUED", "WORKING"):
            time.sleep(poll_seconds)
            answer = self._get(f"{url}/{made['id']}", "Cloud Build", "describe the build")
            if answer.status_code != 200:
                raise InputError(f"--build=cloud: Cloud Build refuses ({_message(answer)}).")
            made = answer.json()
        if made["status"] != "SUCCESS":
            raise InputError(
                f"--build=cloud ended as {made['status']} ({made.get('statusDetail', 'no detail')})"
                f"; its log: {made.get('logUrl', made['id'])}."
            )


def _message(answer: Any) -> str:
    try:
        return answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return f"status {answer.status_code}"
