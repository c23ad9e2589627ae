"""Preflight, and building here: what the launcher makes of other programs' answers."""

import sys
import types

import pytest

from launch import check, hardware, image, request, settings
from trainer.config import flags
from trainer.errors import InputError

OWN = ["--name=n", "--project=p", "--bucket=gs://b"]


def choose(*argv):
    asked = flags.parse(settings.Vertex, ["launch.vertex", *OWN, *argv])
    return asked, hardware.choose(asked)[0]


def program(path, *, statuses, says=""):
    """Writes a program that keeps its arguments, and ends with one status after another."""
    path.write_text(
        f'#!/bin/sh\necho "$@" >> {path}.calls\n{says}\n'
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


FIGURES = (
    '{"batch_size": 64, "batch_size_per_replica": 16, "usable_memory_gib": 15.75, "memory_gib": '
    '{"total": %s}}'
)


def too_large(total):
    """Returns a shell command that writes figures into the file of --json, the last argument."""
    return f"for last; do :; done; echo '{FIGURES % total}' > ${{last#--json=}}"


@pytest.mark.parametrize(
    ("status", "says", "message"),
    [
        (0, "echo report; echo warning >&2", None),
        (
            3,
            too_large("20.04"),
            "--batch_size=64 does not fit --accelerator=v5e: 16 images per replica need 20.0 GiB, "
            "its compiler says, and there are 15.75 GiB; use a smaller --batch_size, a larger "
            "--count, or --accumulate_steps.",
        ),
        (
            3,
            too_large("null"),
            "--batch_size=64 does not fit --accelerator=v5e: 16 images per replica need more, its "
            "compiler says, and there are 15.75 GiB; use a smaller --batch_size, a larger --count, "
            "or --accumulate_steps.",
        ),
        (2, "echo jax is missing. >&2", "--preflight: jax is missing."),
        (
            1,
            "echo Traceback >&2",
            "--preflight ended with status 1; see above. Fix it, or drop --preflight.",
        ),
    ],
)
def test_preflight_compiles_for_the_jobs_chips_and_decides(
    tmp_path, monkeypatch, capfd, with_preflight, status, says, message
):
    calls = program(tmp_path / "python", statuses=[status], says=says)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    _, place = choose("--accelerator=v5e", "--count=4")
    if message is None:
        check.preflight(place, ["--steps=5"])
    else:
        with pytest.raises(InputError) as error:
            check.preflight(place, ["--steps=5"])
        assert str(error.value) == message
    (call,) = calls()
    assert call.startswith("-m trainer.preflight --steps=5 --accelerator=v5e --chips=4 --json=")
    printed = capfd.readouterr()
    assert printed.out == ""  # it is of the request
    assert ("warning" in printed.err, "Traceback" in printed.err) == (status == 0, status == 1)


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
        f"build --target=gpu --tag={address} --build-arg=RUN_AS=1000 {image.ROOT}",
        f"push {address}",
    ]
    image.ensure(asked, place, address)
    assert len(calls()) == 4
    with pytest.raises(InputError) as error:
        image.ensure(asked, place, address)
    assert str(error.value) == "docker build failed; see above. Fix it, or use --build=cloud."


def test_trials_run_as_root_unless_a_user_is_asked_for(tmp_path, monkeypatch):
    calls = program(tmp_path / "docker", statuses=[1, 0, 0])
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    tune = ["--tune=filters:8|16", "--build=local"]
    asked, place = choose(*tune)
    address = image.address(asked, place)
    assert "/trainer-cpu-root:" in address
    image.ensure(asked, place, address)
    assert calls()[1] == f"build --target=cpu --tag={address} --build-arg=RUN_AS=0 {image.ROOT}"
    for argv in ([], [*tune, "--run_as=user"]):
        assert "/trainer-cpu:" in image.address(*choose(*argv))
    assert "/trainer-cpu-root:" in image.address(*choose("--run_as=root"))


def test_our_image_runs_on_tpus_as_root_and_by_a_command_of_the_job(tmp_path, monkeypatch):
    calls = program(tmp_path / "docker", statuses=[1, 0, 0])
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    asked, place = choose("--accelerator=v5e", "--build=local")
    address = image.address(asked, place)
    assert "/trainer-tpu-root:" in address
    image.ensure(asked, place, address)
    assert calls()[1] == f"build --target=tpu --tag={address} --build-arg=RUN_AS=0 {image.ROOT}"
    assert "/trainer-tpu:" in image.address(*choose("--accelerator=v5e", "--run_as=user"))

    def command_of(*argv):
        body = request.build(*choose(*argv), "i", ["--steps=5"], 1)
        return body["jobSpec"]["workerPoolSpecs"][0]["containerSpec"].get("command")

    assert command_of("--accelerator=v5e") == ["python", "-m", "trainer.task"]
    assert command_of("--accelerator=v5e", "--image=i") is None  # the image's own
    assert command_of() is None


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
