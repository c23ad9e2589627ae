"""The container's image: named by its content, built where it is missing."""

import contextlib
import datetime
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

from launch import cloud, settings
from launch.hardware import Machines
from trainer.errors import InputError

ROOT = pathlib.Path(__file__).parents[1]
# What the Dockerfile copies; .dockerignore excludes the rest.
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
BUILD_SECONDS = 3600


def address(asked: settings.Vertex, machines: Machines, root: pathlib.Path = ROOT) -> str:
    """Returns the image's address: `--image`, or that of this tree for these machines.

    Raises:
        InputError: there is neither.
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
    user = "-root" if asked.runs_as_root(machines.kind) else ""
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
        logging.info("%s exists already.", image)
        return
    build = [*_build_command(asked, machines, image), str(ROOT)]
    for command in (build, ["push", image]):
        if _docker(*command):
            raise InputError(
                f"docker {command[0]} failed; see above. Fix it, or use --build=cloud."
            )


def _build_command(asked: settings.Vertex, machines: Machines, image: str) -> list[str]:
    user = 0 if asked.runs_as_root(machines.kind) else 1000
    return ["build", f"--target={machines.kind}", f"--tag={image}", f"--build-arg=RUN_AS={user}"]


def _docker(*command: str, quiet: bool = False) -> int:
    sink = subprocess.DEVNULL if quiet else None
    return subprocess.run(["docker", *command], check=False, stdout=sink, stderr=sink).returncode


def _build_in_cloud(asked: settings.Vertex, machines: Machines, image: str) -> None:
    try:
        from google.cloud import artifactregistry_v1
        from google.cloud.devtools import cloudbuild_v1 as types
    except ModuleNotFoundError as error:
        raise InputError(
            f'--build=cloud needs {error.name}; install it: pip install ".[vertex]".'
        ) from None

    registry = cloud.connect(artifactregistry_v1.ArtifactRegistryClient, cloud.REGISTRY.address())
    if _has_image(registry, image, asked.job.patience_seconds):
        logging.info("%s exists already.", image)
        return
    bucket, name = _upload_tree(asked, image)
    source = types.Source(storage_source=types.StorageSource(bucket=bucket, object_=name))
    command = [*_build_command(asked, machines, image), "."]
    step = types.BuildStep(name=DOCKER, args=command, env=["DOCKER_BUILDKIT=1"])
    timeout = datetime.timedelta(seconds=BUILD_SECONDS)
    build = types.Build(source=source, steps=[step], images=[image], timeout=timeout)
    client, status = (
        cloud.connect(types.CloudBuildClient, cloud.BUILD.address()),
        types.Build.Status,
    )
    project, patience = asked.job.project, asked.job.patience_seconds
    every = {"project_id": project, "retry": None, "timeout": cloud.SECONDS}

    def start() -> Any:
        return client.create_build(build=build, **every).metadata.build

    def look() -> Any:
        return client.get_build(id=made.id, **every)

    # A build whose start was not answered may run twice; its image is the same.
    made = cloud.call_with_retries(cloud.BUILD, "start a build", patience, start)
    logging.info("Building %s: %s", image, made.log_url or made.id)
    while made.status in (status.PENDING, status.QUEUED, status.WORKING):
        time.sleep(asked.job.poll_seconds)
        made = cloud.call_with_retries(cloud.BUILD, "describe the build", patience, look)
    if made.status != status.SUCCESS:
        raise InputError(
            f"--build=cloud ended as {made.status.name} ({made.status_detail or 'no detail'}); its "
            f"log: {made.log_url or made.id}."
        )


def _has_image(registry: Any, image: str, patience_seconds: float) -> bool:
    """Returns whether Artifact Registry has an image of this name and tag."""
    from google.api_core import exceptions

    path, _, tag = image.partition(":")
    host, project, repository, package = path.split("/")
    location = host.removesuffix("-docker.pkg.dev")
    name = registry.tag_path(project, location, repository, package, tag)

    def look() -> bool:
        with contextlib.suppress(exceptions.NotFound):
            registry.get_tag(name=name, retry=None, timeout=cloud.SECONDS)
            return True
        return False

    return cloud.call_with_retries(cloud.REGISTRY, "look for the image", patience_seconds, look)


def _upload_tree(asked: settings.Vertex, image: str) -> tuple[str, str]:
    """Copies what the image is made of into the bucket; returns bucket and object."""
    from google.api_core import exceptions
    from google.cloud import storage

    bucket, _, folder = asked.job.bucket.removeprefix("gs://").rstrip("/").partition("/")
    tag = image.rpartition(":")[2]
    name = "/".join(part for part in (folder, f"images/{tag}.tar.gz") if part)
    with tempfile.TemporaryDirectory() as scratch:
        archive = pathlib.Path(scratch, "tree.tar.gz")
        with tarfile.open(archive, "w:gz") as file:
            for path in contents():
                file.add(path, path.relative_to(ROOT).as_posix())
        client = storage.Client(project=asked.job.project)
        try:
            client.bucket(bucket).blob(name).upload_from_filename(str(archive))
        except exceptions.GoogleAPICallError as error:
            raise InputError(
                f"--build=cloud cannot write its source to gs://{bucket}/{name} "
                f"({' '.join(error.message.split())[:200]}); check --bucket, and your role on it."
            ) from None
    return bucket, name


BUILDERS = {"local": _build_here, "cloud": _build_in_cloud}
