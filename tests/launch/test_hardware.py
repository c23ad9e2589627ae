"""Machines by everyday names: what can be, and what is refused with what can be."""

import json

import pytest

from launch import check, hardware, settings
from trainer.config import flags
from trainer.errors import InputError

OWN = ["--name=n", "--project=p", "--bucket=gs://b"]


def choose(*argv):
    return hardware.choose(flags.parse(settings.Vertex, ["launch.vertex", *OWN, *argv]))


@pytest.mark.parametrize(
    ("argv", "machine", "count", "strategy"),
    [
        ([], "n1-standard-4", 1, "one_device"),
        (["--accelerator=l4"], "g2-standard-12", 1, "one_device"),
        (["--accelerator=l4", "--machine=g2-standard-4"], "g2-standard-4", 1, "one_device"),
        (["--accelerator=t4", "--count=4"], "n1-standard-32", 4, "mirrored"),
        (["--accelerator=a100-40", "--count=16"], "a2-megagpu-16g", 16, "mirrored"),
        (["--accelerator=a100-80", "--workers=2"], "a2-ultragpu-1g", 1, "multi_worker"),
        (["--accelerator=h100", "--count=8"], "a3-highgpu-8g", 8, "mirrored"),
        (["--workers=4"], "n1-standard-4", 1, "multi_worker"),
        (["--accelerator=v5e", "--count=8"], "ct5lp-hightpu-8t", 8, "tpu"),
    ],
)
def test_hardware_and_strategy_follow_from_everyday_names(argv, machine, count, strategy):
    (found,) = choose(*argv)
    assert (found.machine, found.count) == (machine, count)
    assert found.strategy_flags()[0] == f"--strategy={strategy}"


def test_a_tpu_is_one_pool_with_its_topology_and_environment():
    (found,) = choose("--accelerator=v5e", "--count=4")
    assert (found.topology, found.accelerator_type) == ("2x2", None)
    assert found.environment["NEXT_PLUGGABLE_DEVICE_USE_C_API"] == "true"
    assert check.flags_for(found, []) == ["--strategy=tpu", "--tpu=local", "--require=tpu:4"]
    assert check.flags_for(found, ["--tpu=local"]) == ["--tpu=local", "--require=tpu:4"]


@pytest.mark.parametrize(
    ("argv", "given", "required"),
    [
        ([], [], "cpu:1"),
        ([], ["--virtual_devices=2"], "cpu:2"),
        (["--workers=2"], [], "cpu:1"),
        (["--accelerator=l4", "--count=8"], [], "gpu:8"),
        (["--accelerator=l4", "--count=2", "--workers=3"], [], "gpu:2"),
    ],
)
def test_every_job_requires_what_each_of_its_machines_has(argv, given, required):
    (found,) = choose(*argv)
    assert f"--require={required}" in check.flags_for(found, given)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--accelerator=l4", "--count=3"],
            "--count=3: no machine has that many of l4; use --count=1, 2, 4 or 8.",
        ),
        (
            ["--accelerator=v5e", "--count=32"],
            "--count=32 of v5e is 4x8, a slice of several machines: TensorFlow starts there from "
            "Vertex AI's own image for TPU pods only (Python 3.10, documented for TensorFlow "
            "2.15), and 2.19 is reported to hang on one (tensorflow#93618); use --count=1, 4 or 8.",
        ),
        (
            ["--accelerator=v5e", "--count=12"],
            "--count=12: no machine has that many of v5e; use --count=1, 4 or 8.",
        ),
        (
            ["--accelerator=v5e", "--workers=2"],
            "--workers=2 with --accelerator=v5e: a TPU is one pool of one; drop --workers and use "
            "--count=8 for more chips.",
        ),
        (
            ["--accelerator=t4", "--flex_start"],
            "--flex_start is not offered for --accelerator=t4; it is for l4, a100-40, a100-80, "
            "h100, h200, b200.",
        ),
        (
            ["--accelerator=v6e"],
            "--accelerator=v6e cannot be used: Vertex AI supports no TensorFlow on TPU v6e or "
            "later; v5e is the last TPU for it; use one of cpu, t4, l4, a100-40, a100-80, "
            "h100, h200, b200, v5e.",
        ),
        (
            ["--accelerator=a100"],
            "--accelerator=a100 is not one of cpu, t4, l4, a100-40, a100-80, h100, h200, b200, "
            "v5e; did you mean a100-40 or a100-80?",
        ),
        (
            ["--accelerator=a100-80", "--region=europe-west1"],
            "--accelerator=a100-80 is not in europe-west1, as far as the table of 2026-11-22 "
            "knows; it is in asia-southeast1, europe-west4, us-central1, us-east4, us-east5.",
        ),
        (
            ["--accelerator=h200", "--region=us-east4"],
            "--count=1: no machine has that many of h200; use --count=8.",
        ),
        (
            ["--accelerator=l4", "--machine=n1-standard-8"],
            "--machine=n1-standard-8 does not go with --accelerator=l4 --count=1; use "
            "g2-standard-12, g2-standard-4, g2-standard-8, g2-standard-16 or g2-standard-32.",
        ),
        (
            ["--reduction_servers=2"],
            "--reduction_servers=2 serves GPUs of several workers; drop it, or use --workers=2 or "
            "more and a GPU.",
        ),
        (
            ["--accelerator=l4", "--workers=2", "--reduction_servers=2", "--flex_start"],
            "--reduction_servers=2 does not go with --flex_start, whose machines are all alike; "
            "drop one of them.",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_what_can_be(argv, message):
    with pytest.raises(InputError) as error:
        choose(*argv)
    assert str(error.value) == message


def test_reduction_servers_take_an_image_that_has_googles_package():
    argv = ["--accelerator=l4", "--workers=2", "--reduction_servers=2"]
    with pytest.raises(InputError) as error:
        choose(*argv)
    assert str(error.value) == (
        "--reduction_servers=2 needs Google's package google-reduction-server in the workers' "
        "image, which the image of this tree lacks; name an --image that has it (docs/vertex.md)."
    )
    (place,) = choose(*argv, "--image=mine")
    assert place.workers == 2


def test_places_are_tried_by_accelerator_then_region_where_there_is_one():
    regions = "--regions=us-central1,europe-west1,us-east5"
    places = choose("--accelerators=a100-80,l4", regions)
    assert [(place.accelerator, place.region) for place in places] == [
        ("a100-80", "us-central1"),
        ("a100-80", "us-east5"),
        ("l4", "us-central1"),
        ("l4", "europe-west1"),
    ]


@pytest.mark.parametrize(
    ("argv", "metric"),
    [
        (["--accelerator=l4"], "custom_model_training_nvidia_l4_gpus"),
        (["--accelerator=h100", "--spot"], "custom_model_training_preemptible_nvidia_h100_gpus"),
        (["--accelerator=v5e"], "custom_model_training_tpu_v5e"),
    ],
)
def test_quotas_have_their_names(argv, metric):
    (found,) = choose(*argv)
    assert found.quota == f"aiplatform.googleapis.com/{metric}"


def test_another_table_can_be_named_and_must_be_one(tmp_path):
    table = json.loads(hardware.TABLE.read_text())
    table["accelerators"]["new"] = table["accelerators"]["b200"] | {"title": "Next"}
    (tmp_path / "table.json").write_text(json.dumps(table))
    argv = ["--accelerator=new", "--count=8", f"--hardware={tmp_path / 'table.json'}"]
    assert choose(*argv)[0].title == "Next"
    with pytest.raises(InputError, match=r"^--hardware=nowhere cannot be read: .*nowhere"):
        choose("--hardware=nowhere")


def test_every_row_of_the_table_can_be_asked_for():
    table = json.loads(hardware.TABLE.read_text())
    for name, row in table["accelerators"].items():
        region = (row["regions"] or ["us-central1"])[0]
        for machine in row["machines"]:
            argv = [f"--accelerator={name}", f"--count={machine['count']}", f"--region={region}"]
            (found,) = choose(*argv, f"--machine={machine['machine']}")
            assert found.machine == machine["machine"]
            assert machine["machine"] in str(found)
