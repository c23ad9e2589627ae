"""The best weights of a run, and the model that has them."""

import hashlib
import os
from typing import Any

import keras
import numpy as np

from trainer import config
from trainer.checkpointing import checkpoint, run_metadata
from trainer.data.dataset import schema
from trainer.errors import InputError
from trainer.models.build import build_model


def best_checkpoints(run_dir: str, model: keras.Model) -> checkpoint.Checkpoints:
    """Returns the folder of a run's best weights, to be read into or written from `model`."""
    return checkpoint.Checkpoints(os.path.join(run_dir, "best"), {"model": model.variables})


def best_model(
    run_dir: str, metadata: dict[str, Any], flag: str = "run_dir"
) -> tuple[keras.Model, int]:
    """Returns the model of a run with its best weights, and the step they are of.

    Args:
        run_dir: the run folder.
        metadata: its run.json.
        flag: that named it, for messages.

    Raises:
        InputError: if it has no complete checkpoint yet.
    """
    job = config.from_dict(config.Job, metadata["settings"])
    model = build_model(
        job.model,
        metadata["channels"],
        len(metadata["classes"]),
        rank=run_metadata.rank_of(metadata),
    )
    commit = best_checkpoints(run_dir, model).restore()
    if commit is None:
        raise no_weights(run_dir, flag)
    return model, commit["step"]


def no_weights(run_dir: str, flag: str) -> InputError:
    """Returns what to raise of a run that has no best weights, and of the flag that named it."""
    return InputError(
        f"--{flag}={run_dir} has no complete checkpoint in best/ yet; let trainer.task run until "
        "its first evaluation."
    )


def weights_digest(model: keras.Model) -> str:
    """Returns the sha256 of a model's variables, in hexadecimal digits."""
    digest = hashlib.sha256()
    for variable in model.variables:
        digest.update(np.ascontiguousarray(variable.numpy()).data)
    return digest.hexdigest()


def check_same_kind(run_dir: str, metadata: dict[str, Any], manifest: schema.Manifest) -> None:
    """Raises InputError unless the model of a run fits the data of a manifest."""
    rank = run_metadata.rank_of(metadata)
    if rank != manifest.rank:
        kinds = {2: "images", 3: "volumes"}
        raise InputError(
            f"The model of --run_dir={run_dir} takes {kinds[rank]} and the data are "
            f"{kinds[manifest.rank]}; name data of the same kind."
        )
    if metadata["channels"] != manifest.channels:
        raise InputError(
            f"The model of --run_dir={run_dir} takes {metadata['channels']} channels and the data "
            f"have {manifest.channels}; prepare them with --channels={metadata['channels']}."
        )
    names = [entry.name for entry in manifest.classes]
    if metadata["classes"] != names:
        raise InputError(
            f"The model of --run_dir={run_dir} has the classes {', '.join(metadata['classes'])} "
            f"and the data {', '.join(names)}; prepare them with the same --classes."
        )
