"""Models of run folders: built from the settings in run.json, with the best weights."""

import hashlib
import os
from typing import Any

import keras
import numpy as np

from trainer import config
from trainer.checkpointing import checkpoint, facts, run_metadata
from trainer.data import demo
from trainer.data.dataset import schema
from trainer.errors import InputError
from trainer.models.build import build_model


def read_run(run_dir: str, flag: str = "run_dir") -> dict[str, Any]:
    """Returns the passport of a run that can be loaded.

    Args:
        run_dir: the run folder.
        flag: that named it, for messages.

    Raises:
        InputError: if the folder holds no run, or its passport lacks or garbles what that takes.
    """
    found = facts.read(run_dir)
    if found is None:
        raise InputError(
            f"--{flag}={run_dir} has no {facts.NAME}; name a folder that trainer.task wrote."
        )
    try:
        config.from_dict(config.Job, found["settings"])
    except InputError as error:
        reason = str(error).rstrip(".")
        raise InputError(
            f"{os.path.join(run_dir, facts.NAME)} has a setting that this release does not take "
            f"({reason}); restore it, or use the release that wrote it."
        ) from None
    return found


def data_of(run: dict[str, Any]) -> dict[str, Any]:
    """Returns what a passport says of the run's data, see `passport.describe_data`.

    Passports of 0.1.0 before its release say nothing; then the data folder is asked.
    """
    if "data" in run:
        return run["data"]
    data_dir = run["settings"]["data_dir"] or demo.folder()
    return run_metadata.describe_data(schema.read_manifest(data_dir))


def best_model(run_dir: str, run: dict[str, Any], flag: str = "run_dir") -> tuple[keras.Model, int]:
    """Returns the model of a run with its best weights, and the step they are of.

    Args:
        run_dir: the run folder.
        run: its passport.
        flag: that named it, for messages.

    Raises:
        InputError: if it has no whole checkpoint yet.
    """
    job = config.from_dict(config.Job, run["settings"])
    model = build_model(job.model, run["channels"], len(run["classes"]))
    commit = best_checkpoints(run_dir, model).restore()
    if commit is None:
        raise no_weights(run_dir, flag)
    return model, commit["step"]


def no_weights(run_dir: str, flag: str) -> InputError:
    """Returns what to raise of a run that has no best weights, and of the flag that named it."""
    return InputError(
        f"--{flag}={run_dir} has no whole checkpoint in best/ yet; let trainer.task run until its "
        "first evaluation."
    )


def weights_digest(model: keras.Model) -> str:
    """Returns the sha256 of a model's variables, in hexadecimal digits."""
    digest = hashlib.sha256()
    for variable in model.variables:
        digest.update(np.ascontiguousarray(variable.numpy()).data)
    return digest.hexdigest()


def best_checkpoints(run_dir: str, model: keras.Model) -> checkpoint.Checkpoints:
    """Returns the folder of a run's best weights, to be read into or written from `model`."""
    return checkpoint.Checkpoints(os.path.join(run_dir, "best"), {"model": model.variables})


def check_same_kind(run_dir: str, run: dict[str, Any], manifest: schema.Manifest) -> None:
    """Raises InputError unless the model of a run fits the data of a manifest."""
    if run["channels"] != manifest.channels:
        raise InputError(
            f"The model of --run_dir={run_dir} takes {run['channels']} channels and the data have "
            f"{manifest.channels}; prepare them with --channels={run['channels']}."
        )
    names = [entry.name for entry in manifest.classes]
    if run["classes"] != names:
        raise InputError(
            f"The model of --run_dir={run_dir} has the classes {', '.join(run['classes'])} and the "
            f"data {', '.join(names)}; prepare them with the same --classes."
        )
