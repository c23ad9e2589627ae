"""The best weights of a run, and the model that has them."""

import dataclasses
import hashlib
import os
from typing import Any

import keras
import numpy as np
from absl import logging

from trainer import config
from trainer.checkpointing import checkpoint, run_metadata
from trainer.data.dataset import schema
from trainer.data.dataset.volume_examples import Volumes
from trainer.errors import InputError
from trainer.models.build import build_model

SPACING_TOLERANCE = 1e-5  # what a person writes of a spacing has some digits less


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
        normalize=job.data.normalize,
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
    """Raises InputError unless the model of a run fits the data of a manifest.

    Volumes that were normalised by other figures than the run's are warned of.
    """
    rank = run_metadata.rank_of(metadata)
    if rank != manifest.rank:
        kinds = {2: "images", 3: "volumes"}
        raise InputError(
            f"The model of --run_dir={run_dir} takes {kinds[rank]} and the data are "
            f"{kinds[manifest.rank]}; name data of the same kind."
        )
    if metadata["channels"] != manifest.channels:
        flag = (
            f"--channels={metadata['channels']}" if rank == 2 else "the channels of the run's data"
        )
        raise InputError(
            f"The model of --run_dir={run_dir} takes {metadata['channels']} channels and the data "
            f"have {manifest.channels}; prepare them with {flag}."
        )
    names = [entry.name for entry in manifest.classes]
    if metadata["classes"] != names:
        raise InputError(
            f"The model of --run_dir={run_dir} has the classes {', '.join(metadata['classes'])} "
            f"and the data {', '.join(names)}; prepare them with the same --classes."
        )
    volumes = run_metadata.volumes_of(metadata)
    if volumes is not None and manifest.volumes is not None:
        _check_prepared_alike(run_dir, volumes, manifest.volumes)


def _check_prepared_alike(run_dir: str, run: Volumes, data: Volumes) -> None:
    """Raises InputError if volumes were resampled otherwise; warns of other normalisation."""
    spacings = [one.spacing or (0.0,) * 3 for one in (run, data)]  # 0: each its own
    if not np.allclose(spacings[0], spacings[1], rtol=SPACING_TOLERANCE, atol=0):
        texts = [",".join(f"{mm:.7g}" for mm in one) if any(one) else "none" for one in spacings]
        raise InputError(
            f"The model of --run_dir={run_dir} takes volumes of --spacing={texts[0]} and the data "
            f"have {texts[1]}; prepare them with --spacing={texts[0]}."
        )
    figures = [
        [dataclasses.replace(channel, name="") for channel in one.channels] for one in (run, data)
    ]
    if figures[0] != figures[1]:
        logging.warning(
            "Warning: the channels of the data were normalised otherwise than those of "
            "--run_dir=%s, as run.json and manifest.json say; scores are not those of the masks "
            "that trainer.predict writes, which normalises as the run does.",
            run_dir,
        )
