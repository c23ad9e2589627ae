"""The weights that an encoder begins with: `--encoder_weights=imagenet|FILE|none`."""

import contextlib
import io
import os
import tempfile
import warnings
import zipfile

import keras
import numpy as np
from absl import logging

from trainer import config
from trainer.errors import InputError
from trainer.models import encoders, initialization
from trainer.storage import files

# As Keras knows them by their names; the last is of its older releases, and of its own weights.
ENDINGS = (".weights.h5", ".keras", ".h5")


def begin(model: keras.Model, settings: config.Model) -> None:
    """Gives the encoder in a network the weights that it is to begin with, unless these are random.

    Args:
        model: the network of the settings.
        settings: which encoder, and which weights.

    Raises:
        InputError: the weights cannot be had, or are those of another network.
    """
    source = settings.encoder_weights
    if not settings.has_encoder or source == "none":
        return
    row = encoders.ENCODERS[settings.encoder]
    whole = _download(settings) if source == "imagenet" else encoders.build_whole(row)
    if source != "imagenet":
        _read(whole, settings)
    encoders.set_weights(model, settings.encoder, whole)
    layers = encoders.layers_of(model)
    for layer in layers:
        initialization.keep_weights(layer)
    logging.info(
        "Encoder %s: %d layers with weights begin with those of %s.",
        *(settings.encoder, sum(bool(layer.weights) for layer in layers), source),
    )


def _download(settings: config.Model) -> keras.Model:
    """Returns the encoder with Keras' weights, which it downloads unless it has before."""
    try:
        # Keras prints how far it is, and one row warns that images may be of other sizes.
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return encoders.build_whole(encoders.ENCODERS[settings.encoder], "imagenet")
    except Exception as error:  # Keras raises this very class where it cannot download
        if type(error) is not Exception and not isinstance(error, (OSError, ValueError)):
            raise
        raise InputError(
            f"--encoder_weights=imagenet: Keras cannot download the weights of {settings.encoder} "
            f"({_first_line(error)}); name a file of them, local or gs://, in place of imagenet, "
            "or begin with random ones by --encoder_weights=none."
        ) from None


def _read(whole: keras.Model, settings: config.Model) -> None:
    """Reads a file of weights, from a disk or an object store."""
    path = settings.encoder_weights
    ending = next((one for one in ENDINGS if path.endswith(one)), None)
    if ending is None:
        raise InputError(
            f"--encoder_weights={path} is neither imagenet nor none nor a file whose name ends in "
            f"{', '.join(ENDINGS)}, as Keras writes them; name one of these."
        )
    if not files.exists(path):
        raise InputError(
            f"--encoder_weights={path} does not exist; name a file that Keras wrote of "
            f"{settings.encoder}, imagenet, or none."
        )
    with tempfile.TemporaryDirectory() as folder:
        local = path
        if files.is_remote(path):
            local = os.path.join(folder, f"encoder{ending}")
            files.copy_from_store(path, local)
        try:
            _load_all(whole, local)
        except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
            build = encoders.ENCODERS[settings.encoder].build
            name = getattr(build, "func", build).__name__
            raise InputError(
                f"--encoder_weights={path} does not hold the weights of {settings.encoder} "
                f"({_first_line(error)}); write them by keras.applications.{name}"
                "(include_top=False).save_weights."
            ) from None


def _load_all(whole: keras.Model, path: str) -> None:
    """Loads a file of weights.

    Raises:
        ValueError: it lacks some: of a group that a file lacks Keras only warns.
    """
    for layer in whole.layers:
        layer.set_weights([np.full_like(weights, np.nan) for weights in layer.get_weights()])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole.load_weights(path)
    layers = [layer for layer in whole.layers if layer.weights]
    left = [layer for layer in layers if any(np.isnan(w).any() for w in layer.get_weights())]
    if left:
        raise ValueError(f"{len(left)} of {len(layers)} layers are left without weights")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else "no reason"
