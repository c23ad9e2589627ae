"""run.json: what a run is made of, written at its start, checked when it goes on."""

import contextlib
import datetime
import hashlib
import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from trainer import config, json_text, version
from trainer.checkpointing import facts
from trainer.data.dataset import schema
from trainer.distributed import preemption, rendezvous
from trainer.errors import InputError, RetryableError
from trainer.storage import files


def describe(
    job: config.Job, command: Sequence[str], strategy: tf.distribute.Strategy, **found: Any
) -> dict[str, Any]:
    """Returns the passport of a run that starts now.

    Args:
        job: its settings.
        command: the flags that give those settings.
        strategy: the devices.
        **found: what was found or chosen at the start: data, streams, precision, compilation.
    """
    return {
        "settings": config.to_dict(job),
        "command": ["python", "-m", "trainer.task", *command],
        **found,
        "devices": list(strategy.extended.worker_devices),
        "num_replicas": strategy.num_replicas_in_sync,
        "versions": {
            "trainer": version.__version__,
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
        },
        "git_revision": _git_revision(),
        "started": _now(),
        "exit_reason": None,
    }


def describe_data(manifest: schema.Manifest) -> dict[str, Any]:
    """Returns what prediction and export must know of the data, so that they need not be there."""
    return {
        "dtype": manifest.dtype,
        "class_values": [entry.value for entry in manifest.classes],
        "ignore_value": manifest.ignore_value,
        "mean": list(manifest.splits["train"].mean),
        "std": list(manifest.splits["train"].std),
        "origin": manifest.origin,
        "licence": manifest.licence,
        "images": {name: split.examples for name, split in manifest.splits.items()},
        "pixels": {name: list(split.pixels) for name, split in manifest.splits.items()},
    }


def write(run_dir: str, passport: dict[str, Any]) -> None:
    """Writes the passport into `run_dir`."""
    files.make_folder(run_dir)
    files.write_whole(os.path.join(run_dir, facts.NAME), json_text.dumps(passport, indent=1) + "\n")


class Ending:
    """Why a run ended; what `ending` writes."""

    reason = ""


@contextlib.contextmanager
def ending(run_dir: str, passport: dict[str, Any], chief: bool) -> Iterator[Ending]:
    """Writes into run.json why and when the run ended, also if by an error.

    Where there is no run.json, the run was refused before it began, and none is made.

    Raises:
        RetryableError: in place of TensorFlow's error when the disk is full.
    """
    found = Ending()
    try:
        yield found
    except tf.errors.ResourceExhaustedError as error:
        if "No space left" not in str(error):
            raise
        raise RetryableError(
            f"No space is left on the disk of --run_dir={run_dir}; free some and start again: the "
            "last whole checkpoint is kept."
        ) from None
    except BaseException as error:
        told = (InputError, preemption.StoppedError, rendezvous.LostWorkerError)
        explained = isinstance(error, told)
        found.reason = str(error) if explained else type(error).__name__
        raise
    finally:
        if chief and found.reason:
            try:
                if files.exists(os.path.join(run_dir, facts.NAME)):
                    write(run_dir, {**passport, "ended": _now(), "exit_reason": found.reason})
            except files.failures() as error:  # which must not hide why the run ended
                logging.warning("%s cannot be written: %s", facts.NAME, error)


def check_same_run(
    old: dict[str, Any], job: config.Job, data_fingerprint: str, num_replicas: int = 1
) -> None:
    """Raises InputError unless `job` on that data goes on with the run of the passport `old`."""
    settings = dict(old["settings"])
    if _old_statistics(old) == _statistics(job.model.norm, num_replicas):
        settings["norm"] = job.model.norm  # another name of the same function
    changes = config.differences(settings, job)
    if changes:
        raise InputError(
            f"--run_dir={job.run.run_dir} holds a run with other settings: {', '.join(changes)}; "
            "give the same flags to go on with it, or another --run_dir."
        )
    if old["data_fingerprint"] != data_fingerprint:
        raise InputError(
            f"--run_dir={job.run.run_dir} holds a run on other data: the manifest of "
            f"--data_dir={job.data.data_dir} has fingerprint {data_fingerprint[:12]}, the run's "
            f"had {old['data_fingerprint'][:12]}; name the same data, or another --run_dir."
        )


def check_length(old: dict[str, Any], job: config.Job, total_steps: int) -> None:
    """Raises InputError if `job` has fewer steps than the run of the passport `old` was to have."""
    if total_steps < old["total_steps"]:
        raise InputError(
            f"--run_dir={job.run.run_dir} holds a run of {old['total_steps']} steps, and this is "
            f"one of {total_steps}; give --steps={old['total_steps']} to resume it, more to train "
            "it on, or another --run_dir."
        )


def check_same_replicas(old: dict[str, Any], job: config.Job, num_replicas: int) -> None:
    """Raises InputError if another number of replicas would make it another run."""
    if old["num_replicas"] == num_replicas:
        return
    before, now = _old_statistics(old), _statistics(job.model.norm, num_replicas)
    remedy = "begin a run with --norm=auto, group or instance, which any number may resume"
    if before == WHOLE_BATCH:
        remedy = "resume it with --norm=auto, whose statistics are the whole batch's on any number"
    if "batch" in (before, now):
        raise InputError(
            f"--run_dir={job.run.run_dir} was begun on {old['num_replicas']} replicas and this job "
            f"has {num_replicas}, but --norm=batch takes its statistics from each replica's part "
            f"of the batch; resume it on as many, or {remedy}."
        )


WHOLE_BATCH = "sync_batch"


def _statistics(norm: str, num_replicas: int) -> str:
    """Returns a norm by what it computes: `batch` on one replica is `sync_batch` on several."""
    alone = norm == "batch" and num_replicas == 1
    return WHOLE_BATCH if alone or norm == "auto" else norm


def _old_statistics(old: dict[str, Any]) -> str:
    return _statistics(old["settings"]["norm"], old["num_replicas"])


def fingerprint(
    job: config.Job,
    data_fingerprint: str,
    num_replicas: int = 1,
    origin: dict[str, Any] | None = None,
) -> str:
    """Returns a checksum of all that changes the result.

    Args:
        job: the settings.
        data_fingerprint: of the data.
        num_replicas: on which the run begins.
        origin: of its first weights, see `transfer.describe`; None if they are drawn.
    """
    settings = config.identifying(job)
    if origin is not None:
        settings["init_from"] = origin["weights"]
    settings["norm"] = _statistics(job.model.norm, num_replicas)
    text = json_text.dumps({"data": data_fingerprint, **settings}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _git_revision() -> str | None:
    """Returns the commit of the source tree that this package runs from, if it is one."""
    here = os.path.dirname(os.path.abspath(__file__))
    try:
        result = subprocess.run(
            ["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return result.stdout.strip() or None


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
