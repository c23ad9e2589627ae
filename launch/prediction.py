"""A prediction as a job: its flags are refused here where trainer.predict would refuse them."""

import dataclasses
import posixpath
from collections.abc import Sequence

from launch import attachments, check, settings
from launch.hardware import Machines
from trainer import config
from trainer.config import flags
from trainer.errors import InputError

FOLLOWING = {"--part": "--workers", "--require": check.FOLLOWING["--require"]}


def check_flags(asked: settings.Vertex, machines: Machines, argv: Sequence[str]) -> list[str]:
    """Returns the flags of trainer.predict that differ from their defaults.

    Raises:
        InputError: for flags that trainer.predict would refuse, or that cannot be right there.
    """
    given = flags.parse(config.Predict, ["trainer.predict", *argv])
    args = flags.command_line(given)
    check.check_following(args, FOLLOWING)
    given.check_given()
    for run_dir in filter(None, map(str.strip, given.run_dir.split(","))):
        check.check_place(asked, "run_dir", run_dir, f"runs/{posixpath.basename(run_dir)}")
    check.check_place(asked, "images", given.images, "images")
    if not given.output.startswith(("gs://", f"{attachments.MOUNTED}/")):
        raise InputError(
            f"--output={given.output} is no place for what the job writes; name a folder in a "
            f"bucket, as --output={asked.job.bucket.rstrip('/')}/masks."
        )
    check.check_place(asked, "output", given.output, "masks")
    check.check_devices(given.strategy, machines)
    flags.parse(config.Predict, ["trainer.predict", *flags_for(machines, args)])
    return args


def flags_for(machines: Machines, args: Sequence[str]) -> list[str]:
    """Returns the flags with those that follow from the hardware, where they are not given."""
    given = dict(argument.split("=", 1) for argument in args)
    alone = dataclasses.replace(machines, workers=1)  # each predicts its part by itself
    parts = ["--part=auto"] if machines.workers > 1 else []
    return [*args, *check.device_flags(alone, given), *parts]


def links(asked: settings.Vertex, args: Sequence[str]) -> list[str]:
    """Returns where masks can be seen while the job runs."""
    return [f"masks    {_output(args)}"]


def results(asked: settings.Vertex, args: Sequence[str]) -> list[str]:
    """Returns where the masks of a finished job are."""
    return [f"masks: {_output(args)}"]


def _output(args: Sequence[str]) -> str:
    return dict(argument.split("=", 1) for argument in args).get("--output", "")
