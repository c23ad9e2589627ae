"""The command's own flags, and those it passes on."""

import os
import subprocess
import sys

import pytest

from launch import check, hardware, messages, settings
from trainer.config import flags
from trainer.errors import InputError

OWN = ["--name=n", "--project=p", "--bucket=gs://b"]


def parse(*argv):
    return flags.parse(settings.Vertex, ["launch.vertex", *OWN, *argv])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--name="], "--name is missing; give it."),
        (["--project="], "--project is missing; give it."),
        (["--bucket="], "--bucket is missing; give it."),
        (
            ["--name=My run"],
            "--name=My run is not a label; use a small letter, then at most 62 small letters, "
            "digits, - and _.",
        ),
        (["--bucket=b"], "--bucket=b is not a bucket; write gs://BUCKET."),
        (["--timeout=1w"], "--timeout=1w is not a duration; write 90m, 24h or 7d."),
        (["--timeout=8d"], "--timeout=8d is not above 0 and at most 7d."),
        (
            ["--spot", "--flex_start"],
            "--spot and --flex_start exclude each other; drop one of them.",
        ),
        (
            ["--labels=Team=x"],
            "--labels=Team=x: 'Team=x' is not a label; write key=value in small letters, digits, - "
            "and _, at most 63 each, the key beginning with a letter.",
        ),
        (
            ["--labels=unet_run=x"],
            "--labels=unet_run=x: unet_run is set by this command; choose another key.",
        ),
        (
            ["--network=default"],
            "--network=default has another form than projects/…/global/networks/….",
        ),
        (
            ["--tensorboard=projects/p/locations/r/tensorboards/1"],
            "--tensorboard=projects/p/locations/r/tensorboards/1 needs a --service_account that "
            "may write to it.",
        ),
        (
            ["--spot", "--persistent_resource=pool"],
            "--spot does not go with --persistent_resource=pool, whose machines exist already; "
            "drop one of them.",
        ),
        (
            ["--reservation=any", "--persistent_resource=pool"],
            "--reservation does not go with --persistent_resource=pool, whose machines exist "
            "already; drop one of them.",
        ),
        (
            ["--spot", "--reservation=any"],
            "--reservation=any does not go with --spot, which uses other machines than reserved "
            "ones; drop one of them.",
        ),
        (
            ["--reservation=gpus"],
            "--reservation=gpus is not a reservation; write any, none, or "
            "projects/PROJECT/zones/ZONE/reservations/NAME.",
        ),
        (
            ["--reservation=projects/p/zones/us-east4-a/reservations/r"],
            "--reservation=projects/p/zones/us-east4-a/reservations/r is in us-east4, where the "
            "job must be, and not in us-central1; use --region=us-east4, or another --reservation.",
        ),
        (
            ["--kms_key=projects/p/locations/us-east4/keyRings/k/cryptoKeys/c"]
            + ["--regions=us-east4,us-west1"],
            "--kms_key=projects/p/locations/us-east4/keyRings/k/cryptoKeys/c is in us-east4, where "
            "the job must be, and not in us-east4,us-west1; use --region=us-east4, or another "
            "--kms_key.",
        ),
        (
            ["--network=projects/1/global/networks/n", "--network_attachment=vpc"],
            "--network=projects/1/global/networks/n and --network_attachment=vpc are two ways into "
            "a VPC; drop one of them.",
        ),
        (
            ["--network_attachment=a/b"],
            "--network_attachment=a/b is not a network attachment; write its NAME, or "
            "projects/…/regions/…/networkAttachments/NAME.",
        ),
        (
            ["--nfs=10.0.0.2:/vol1:data"],
            "--nfs=10.0.0.2:/vol1:data needs --network or --network_attachment, by which the job "
            "reaches the server; add one.",
        ),
        (
            ["--nfs=files:/vol1:data", "--network_attachment=vpc"],
            "--nfs=files:/vol1:data: 'files:/vol1:data' is not a share; write SERVER:/PATH:NAME, "
            "the server by its private IP address, to have it as /mnt/nfs/NAME.",
        ),
        (
            ["--nfs=10.0.0.2:/a:data,10.0.0.2:/b:data", "--network_attachment=vpc"],
            "--nfs=10.0.0.2:/a:data,10.0.0.2:/b:data has two shares of the name data; rename one "
            "of them.",
        ),
        (
            ["--max_wait=30m", "--follow=false"],
            "--max_wait=30m needs someone who waits; drop --follow=false, or use --flex_start, "
            "where Vertex AI itself does.",
        ),
        (
            ["--image=i", "--run_as=root"],
            "--run_as=root is of the image of this tree, and --image=i has a user of its own; drop "
            "one of them.",
        ),
        (
            ["--tune=filters:8|16", "--trials=2", "--parallel=3"],
            "--parallel=3 is above --trials=2; lower it.",
        ),
    ],
)
def test_wrong_settings_are_one_line(argv, message):
    with pytest.raises(InputError) as error:
        parse(*argv)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--crp=64"], "--crp is not a flag; did you mean --crop?"),
        (["--run_dir=x"], "--run_dir follows from --name and --bucket; drop it after --."),
        (
            ["--data_dir=data"],
            "--data_dir=data is a folder of this machine; copy it to a bucket: gcloud storage cp "
            "-r data gs://b/data",
        ),
        (
            ["--require=cpu"],
            "--require follows from --accelerator and --count; drop it after --.",
        ),
        (
            ["--strategy=mirrored"],
            "--strategy=mirrored does not go with --workers=2, which would each train alone; drop "
            "it after --.",
        ),
        (
            ["--virtual_devices=2"],
            "--require=gpu:2 does not go with --virtual_devices=2, which are parts of the CPU; "
            "drop one of them.",
        ),
        (
            ["--batch_size=9"],
            "--batch_size=9 does not divide among 4 replicas × --accumulate_steps=1; use a "
            "multiple of 4.",
        ),
    ],
)
def test_flags_that_the_job_would_refuse_are_refused_here(argv, message):
    asked = parse("--workers=2", "--accelerator=l4", "--count=2")
    with pytest.raises(InputError) as error:
        check.check_flags(asked, hardware.choose(asked)[0], argv)
    assert str(error.value) == message


def test_data_on_a_share_take_the_share():
    mounted = ["--nfs=10.0.0.2:/vol1:data", "--network_attachment=vpc"]
    asked = parse(*mounted)
    (place,) = hardware.choose(asked)
    check.check_flags(asked, place, ["--data_dir=/mnt/nfs/data/cells"])
    with pytest.raises(InputError) as error:
        check.check_flags(asked, place, ["--data_dir=/mnt/nfs/other"])
    assert str(error.value) == (
        "--data_dir=/mnt/nfs/other is on no share of --nfs=10.0.0.2:/vol1:data; mount it by "
        "--nfs=SERVER:/PATH:NAME, as /mnt/nfs/NAME."
    )


def test_a_strategy_that_leaves_gpus_without_work_is_refused():
    asked = parse("--accelerator=l4", "--count=2")
    with pytest.raises(InputError) as error:
        check.check_flags(asked, hardware.choose(asked)[0], ["--strategy=one_device"])
    assert str(error.value) == (
        "--strategy=one_device computes on one device, and --count=2 asks for more; drop it after "
        "--, or use --count=1."
    )


def test_a_flag_file_of_this_machine_is_sent_as_flags(tmp_path):
    (tmp_path / "small.cfg").write_text("--crop=64\n--steps=5\n")
    asked = parse()
    args = check.check_flags(asked, hardware.choose(asked)[0], [f"--flagfile={tmp_path}/small.cfg"])
    assert args == ["--crop=64", "--steps=5"]


def run(*argv):
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "launch.vertex", *argv],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        [*OWN, "--image=i", "--accelerator=l4", "--dry_run", "--", "--steps=5"],
    ],
)
def test_help_and_dry_run_import_neither_tensorflow_nor_googles_client(argv):
    result = run(*argv)
    assert result.returncode == 0, result.stderr
    modules = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "launch.request" in modules
    assert not modules & {"tensorflow", "numpy", "keras", "google.cloud.aiplatform_v1"}


def test_wrong_input_ends_in_one_line_and_status_2():
    result = subprocess.run(
        [sys.executable, "-m", "launch.vertex", *OWN, "--accelerator=v6e", "--", "--steps=5"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)


def test_dry_run_prints_the_request_alone_and_gclouds_lines_beside_it():
    argv = [*OWN, "--image=i", "--labels=team=x", "--dry_run", "--", "--steps=5"]
    result = subprocess.run(
        [sys.executable, "-m", "launch.vertex", *argv], capture_output=True, text=True, check=True
    )
    assert result.stdout.startswith('{\n "displayName": "n",\n')
    assert result.stdout.endswith("}\n")
    assert result.stderr.endswith(
        "END\ngcloud ai custom-jobs create --project=p --region=us-central1 --display-name=n "
        "--config=n.json --labels=unet_run=n,unet_attempt=1,team=x\n"
    )
    assert "cost: 0.22 USD per hour (on demand), at most 5.24 until --timeout=24h" in result.stderr


def test_dry_run_says_which_role_the_jobs_account_takes():
    argv = [*OWN, "--image=i", "--service_account=me@p.iam", "--dry_run", "--", "--steps=5"]
    result = subprocess.run(
        [sys.executable, "-m", "launch.vertex", *argv], capture_output=True, text=True, check=True
    )
    assert result.stderr.splitlines()[-3:] == [
        "me@p.iam needs, once for the project:",
        "gcloud iam roles create unetTrainerJob --project=p --title='A job of unet-trainer' "
        "--permissions=aiplatform.customJobs.get,aiplatform.customJobs.cancel",
        "gcloud projects add-iam-policy-binding p --member=serviceAccount:me@p.iam "
        "--role=projects/p/roles/unetTrainerJob",
    ]


def test_a_place_is_told_with_cost_and_quota():
    asked = parse("--accelerator=l4", "--workers=2")
    (place,) = hardware.choose(asked)
    assert messages.describe(asked, place).splitlines() == [
        "us-central1: 2 × g2-standard-12 (1 × NVIDIA L4, 48 GB of memory)",
        "  cost: unknown: prices.json of 2026-10-07 has no on_demand price of g2-standard-12 in "
        "us-central1; --prices=FILE names another list",
        "  quota: aiplatform.googleapis.com/custom_model_training_nvidia_l4_gpus",
    ]
