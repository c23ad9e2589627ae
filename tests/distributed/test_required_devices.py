"""No job computes on other devices than it was asked to."""

from types import SimpleNamespace

import pytest

from tests.jobs import SMALL, command
from trainer import cli, config
from trainer.distributed import required_devices, strategies
from trainer.distributed.required_devices import Devices
from trainer.errors import InputError, RetryableError


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("", Devices("cpu", 1)),
        ("cpu", Devices("cpu", 4)),
        ("cpu:4", Devices("cpu", 4)),
        ("gpu", Devices("gpu", 2)),
        ("gpu:8", Devices("gpu", 8)),
        ("gpu:8", Devices("gpu", None)),
        ("tpu:4", Devices("tpu", 4)),
    ],
)
def test_what_is_asked_for_passes(asked, found):
    required_devices.check(asked, found)


@pytest.mark.parametrize(
    ("asked", "found", "error", "message"),
    [
        (
            "cpu",
            Devices("gpu", 2),
            InputError,
            "--require=cpu: this worker would compute on 2 GPUs, not on a CPU; hide the GPUs by "
            "CUDA_VISIBLE_DEVICES=-1.",
        ),
        (
            "gpu:8",
            Devices("gpu", 7),
            RetryableError,
            "--require=gpu:8: this worker would compute on 7 GPUs only; use a machine that has "
            "them all, and a --strategy that uses them.",
        ),
        (
            "gpu:1",
            Devices("gpu", 4),
            InputError,
            "--require=gpu:1: this worker would compute on 4 GPUs; write --require=gpu:4, or hide "
            "the others by CUDA_VISIBLE_DEVICES.",
        ),
    ],
)
def test_another_number_or_kind_is_refused_and_a_missing_device_may_come_back(
    asked, found, error, message
):
    with pytest.raises(error) as refusal:
        required_devices.check(asked, found)
    assert type(refusal.value) is error
    assert str(refusal.value) == message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"require": "gpus"},
            "--require=gpus is not a kind of device and how many each worker has; write gpu, "
            "gpu:8, tpu:4 or cpu.",
        ),
        ({"require": "gpu:0"}, "--require=gpu:0 is not a kind of device"),
        (
            {"require": "tpu:4"},
            "--require=tpu:4 does not go with --strategy=auto --tpu=; add --strategy=tpu "
            "--tpu=local, or require another device.",
        ),
        (
            {"require": "gpu", "tpu": "local"},
            "--require=gpu does not go with --strategy=auto --tpu=local; drop --tpu, or require "
            "another device.",
        ),
        (
            {"require": "gpu", "virtual_devices": 2},
            "--require=gpu does not go with --virtual_devices=2, which are parts of the CPU; drop "
            "one of them.",
        ),
    ],
)
def test_what_can_never_be_is_refused_with_the_flags(settings, message):
    with pytest.raises(InputError) as error:
        config.Device(**settings)
    assert str(error.value).startswith(message)


def driver_of(status, number):
    """Returns what NVIDIA's driver answers on a machine that is not here."""

    def count(place):
        place._obj.value = number

    return SimpleNamespace(cuInit=lambda flags: status, cuDeviceGetCount=count)


@pytest.mark.parametrize(
    ("driver", "why"),
    [
        (driver_of(999, 0), "NVIDIA's driver does not start: cuInit returns 999; see nvidia-smi"),
        (driver_of(0, 0), "NVIDIA's driver finds none; see nvidia-smi and CUDA_VISIBLE_DEVICES"),
        (
            driver_of(0, 2),
            "the driver finds one, but TensorFlow does not: it lacks CUDA's libraries",
        ),
    ],
)
def test_why_there_is_no_gpu_is_asked_of_the_driver(driver, why):
    assert required_devices.why_no_gpu(lambda name: driver).startswith(why)


def test_a_driver_outside_of_the_loaders_path_is_the_first_suspect():
    def load(name):
        raise OSError(name)

    assert "LD_LIBRARY_PATH (/usr/local/nvidia/lib64 on Vertex AI" in required_devices.why_no_gpu(
        load
    )


def test_the_strategy_is_what_is_counted():
    four = strategies.connect("mirrored", virtual_devices=4, require="cpu:4")
    assert four.num_replicas_in_sync == 4
    strategies.connect("one_device", require="cpu:1")
    with pytest.raises(
        RetryableError, match=r"^--require=cpu:4: this worker would compute on 1 CPU"
    ):
        strategies.connect("one_device", require="cpu:4")


@pytest.mark.slow
def test_a_job_that_is_to_compute_on_a_gpu_starts_on_no_cpu(data_dir, tmp_path):
    environment = {"CUDA_VISIBLE_DEVICES": "-1"}
    folders = [f"--data_dir={data_dir}", f"--run_dir={tmp_path / 'run'}"]
    argv = [*folders, *SMALL, "--require=gpu:8"]
    result = command("trainer.task", *argv, environment=environment)
    assert result.returncode == cli.EXIT_STATUS
    (line,) = result.stderr.splitlines()
    assert line.startswith("--require=gpu:8: this worker would compute on a CPU, not on 8 GPUs; ")
    assert not (tmp_path / "run").exists()
