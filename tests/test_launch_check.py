"""Preflight, and building here: what the launcher makes of other programs' answers."""

import sys
import types

import pytest

from launch import check, hardware, image, settings
from trainer import flags
from trainer.errors import InputError

OWN = ["--name=n", "--project=p", "--bucket=gs://b"]


def choose(*argv):
    asked = flags.parse(settings.Vertex, ["launch.vertex", *OWN, *argv])
    return asked, hardware.choose(asked)[0]


def program(path, *, statuses):
    """Writes a program that keeps its arguments, and ends with one status after another."""
    path.write_text(
        f'#!/bin/sh\necho "$@" >> {path}.calls\n'
        f"set -- {' '.join(map(str, statuses))}\n"
        f"shift $(($(wc -l < {path}.calls) - 1))\nexit $1\n"
    )
    path.chmod(0o755)
    return lambda: path.with_name(path.name + ".calls").read_text().splitlines()


@pytest.fixture
def with_preflight(monkeypatch):
    found = check.importlib.util.find_spec
    monkeypatch.setattr(
        "launch.check.importlib.util.find_spec",
        lambda name: types.SimpleNamespace() if name == "trainer.preflight" else found(name),
    )


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (0, None),
        (
            3,
            "--preflight: the training step does not fit --accelerator=v5e; use a smaller "
            "--batch_size, more --accumulate_steps, or a larger accelerator.",
        ),
        (
            2,
            "--preflight ended with status 2, as it says above; mend it, or drop --preflight.",
        ),
    ],
)
def test_preflight_compiles_for_the_jobs_chips_and_decides(
    tmp_path, monkeypatch, with_preflight, status, message
):
    calls = program(tmp_path / "python", statuses=[status])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    _, place = choose("--accelerator=v5e", "--count=4")
    if message is None:
        check.preflight(place, ["--steps=5"])
    else:
        with pytest.raises(InputError) as error:
            check.preflight(place, ["--steps=5"])
        assert str(error.value) == message
    assert calls() == ["-m trainer.preflight --steps=5 --accelerator=v5e --chips=4"]


def test_there_is_no_preflight_for_cpus():
    _, place = choose()
    with pytest.raises(InputError, match=r"^--preflight compiles for accelerators; drop it"):
        check.preflight(place, [])


def test_docker_builds_and_pushes_what_the_registry_has_not(tmp_path, monkeypatch):
    calls = program(tmp_path / "docker", statuses=[1, 0, 0, 0, 1, 1])
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    asked, place = choose("--accelerator=l4", "--build=local")
    address = image.address(asked, place)
    image.ensure(asked, place, address)
    assert calls() == [
        f"manifest inspect {address}",
        f"build --target=gpu --tag={address} {image.ROOT}",
        f"push {address}",
    ]
    image.ensure(asked, place, address)
    assert len(calls()) == 4
    with pytest.raises(InputError) as error:
        image.ensure(asked, place, address)
    assert str(error.value) == (
        "docker build failed, as it says above; mend it, or use --build=cloud."
    )


def test_without_docker_the_cloud_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    asked, place = choose("--build=local")
    with pytest.raises(InputError, match=r"^--build=local finds no docker here; use --build=cloud"):
        image.ensure(asked, place, image.address(asked, place))


def test_an_image_is_either_named_or_built():
    asked, place = choose("--image=i", "--build=cloud")
    with pytest.raises(InputError, match=r"^--build=cloud builds the image of this tree, and --im"):
        image.ensure(asked, place, image.address(asked, place))


def test_an_installation_without_sources_needs_an_image(tmp_path):
    asked, place = choose()
    with pytest.raises(InputError, match=r"^--image is missing, and this installation has no Dock"):
        image.address(asked, place, tmp_path)
