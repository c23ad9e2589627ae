"""Refuses, before anything is sent, what would fail there."""

import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging

from launch import attachments, settings
from launch.hardware import Machines
from trainer import cli, config
from trainer.config import flags
from trainer.errors import InputError

JOIN_SECONDS = 900  # machines start minutes apart, where images are pulled
# Flags of trainer.task that only the launcher gives → what they follow from.
FOLLOWING = dict.fromkeys(("--run_dir", "--tensorboard_dir", "--model_dir"), "--name and --bucket")
FOLLOWING["--require"] = "--accelerator and --count"
# What a job may do with Vertex AI: look at itself, and end itself.
ROLE = "unetTrainerJob"
PERMISSIONS = ("aiplatform.customJobs.get", "aiplatform.customJobs.cancel")
DOES_NOT_FIT = 3  # exit status of trainer.preflight


def check_flags(asked: settings.Vertex, machines: Machines, argv: Sequence[str]) -> list[str]:
    """Returns the flags of trainer.task that differ from their defaults.

    Raises:
        InputError: for flags that trainer.task would refuse, or that cannot be right there.
    """
    job = flags.parse(config.Job, ["trainer.task", *argv])
    args = flags.command_line(job)
    check_following(args, FOLLOWING)
    if job.data.data_dir:
        check_place(asked, "data_dir", job.data.data_dir, "data")
    parts = machines.replicas * job.optimization.accumulate_steps
    if job.data.batch_size % parts:
        raise InputError(
            f"--batch_size={job.data.batch_size} does not divide among {machines.replicas} "
            f"replicas × --accumulate_steps={job.optimization.accumulate_steps}; use a multiple of "
            f"{parts}."
        )
    strategy = job.device.strategy
    if machines.workers > 1 and strategy not in ("auto", "multi_worker"):
        raise InputError(
            f"--strategy={strategy} does not go with --workers={machines.workers}, which would "
            "each train alone; drop it after --."
        )
    check_devices(strategy, machines)
    flags.parse(config.Job, ["trainer.task", *flags_for(machines, args)])
    return args


def check_following(args: Sequence[str], following: Mapping[str, str]) -> None:
    """Raises InputError for a flag after -- that only the launcher gives."""
    for flag, source in following.items():
        if any(argument.startswith(f"{flag}=") for argument in args):
            raise InputError(f"{flag} follows from {source}; drop it after --.")


def check_place(asked: settings.Vertex, flag: str, path: str, name: str) -> None:
    """Raises InputError for data that the job does not see.

    Args:
        asked: the command's settings.
        flag: that names the data.
        path: of the data.
        name: which they could have in the bucket.
    """
    if not path.startswith(("gs://", "/gcs/", "/mnt/")):
        raise InputError(
            f"--{flag}={path} is a folder of this machine; copy it to a bucket: "
            f"gcloud storage cp -r {path} {asked.job.bucket.rstrip('/')}/{name}"
        )
    folder = f"{attachments.MOUNTED}/"
    names = [share["mountPoint"] for share in attachments.shares(asked.access.nfs)]
    if path.startswith(folder) and path.removeprefix(folder).split("/")[0] not in names:
        raise InputError(
            f"--{flag}={path} is on no share of --nfs={asked.access.nfs}; mount it by "
            "--nfs=SERVER:/PATH:NAME, as /mnt/nfs/NAME."
        )


def check_devices(strategy: str, machines: Machines) -> None:
    """Raises InputError for a strategy that would leave devices of a machine without work."""
    if machines.count > 1 and strategy == "one_device":
        raise InputError(
            f"--strategy=one_device computes on one device, and --count={machines.count} asks for "
            "more; drop it after --, or use --count=1."
        )


def flags_for(machines: Machines, args: Sequence[str]) -> list[str]:
    """Returns the flags with those that follow from the hardware, where they are not given."""
    given = dict(argument.split("=", 1) for argument in args)
    follow = device_flags(machines, given)
    if machines.workers > 1 and "--join_timeout" not in given:
        follow.append(f"--join_timeout={JOIN_SECONDS}")
    if machines.reduction_servers and "--collectives" not in given:
        follow.append("--collectives=nccl")  # the only ones they serve
    return [*args, *follow]


def device_flags(machines: Machines, given: Mapping[str, str]) -> list[str]:
    """Returns the flags on strategy and devices that follow, where they are not given."""
    follow = [] if given.keys() & {"--strategy", "--tpu"} else machines.strategy_flags()
    number = machines.count if machines.kind != "cpu" else given.get("--virtual_devices", 1)
    return [*follow, f"--require={machines.kind}:{number}"]


def role_of(asked: settings.Vertex) -> str:
    """Returns the commands that let the job's account end a job whose input it refuses."""
    project, account = asked.job.project, asked.access.service_account
    return (
        f"gcloud iam roles create {ROLE} --project={project} --title='A job of unet-trainer' "
        f"--permissions={','.join(PERMISSIONS)}\n"
        f"gcloud projects add-iam-policy-binding {project} "
        f"--member=serviceAccount:{account or 'ACCOUNT'} --role=projects/{project}/roles/{ROLE}"
    )


def preflight(machines: Machines, args: Sequence[str]) -> None:
    """Raises InputError if trainer.preflight finds that the step does not fit the accelerator."""
    if machines.kind == "cpu":
        raise InputError("--preflight compiles for accelerators; drop it, or name one.")
    if importlib.util.find_spec("trainer.preflight") is None:
        raise InputError("--preflight needs trainer.preflight, which is not here; drop it.")
    command = [sys.executable, "-m", "trainer.preflight", *args]
    command += [f"--accelerator={machines.accelerator}", f"--chips={machines.replicas}"]
    logging.info("Compiling the training step for %s.", machines.title)
    with tempfile.TemporaryDirectory() as scratch:
        figures = pathlib.Path(scratch, "figures.json")
        command.append(f"--json={figures}")
        ended = subprocess.run(
            command, check=False, stdout=sys.stderr, stderr=subprocess.PIPE, text=True
        )
        if ended.returncode == DOES_NOT_FIT:
            raise InputError(_too_large(machines, json.loads(figures.read_text())))
    said = ended.stderr.strip()
    if ended.returncode == cli.EXIT_STATUS:
        raise InputError(f"--preflight: {said.splitlines()[-1]}")
    if said:
        print(said, file=sys.stderr)
    if ended.returncode:
        raise InputError(
            f"--preflight ended with status {ended.returncode}; see above. Fix it, or drop "
            "--preflight."
        )


def _too_large(machines: Machines, figures: Mapping[str, Any]) -> str:
    """Returns the line about a step that does not fit, from the figures of trainer.preflight."""
    total = figures["memory_gib"]["total"]
    need = "more" if total is None else f"{total:.1f} GiB"
    return (
        f"--batch_size={figures['batch_size']} does not fit --accelerator={machines.accelerator}: "
        f"{figures['batch_size_per_replica']} images per replica need {need}, its compiler says, "
        f"and there are {figures['usable_memory_gib']:.2f} GiB; use a smaller --batch_size, a "
        "larger --count, or --accumulate_steps."
    )
