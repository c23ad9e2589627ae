"""Builds the network that settings ask for."""

import functools
from typing import Any

import keras

from trainer import config, models
from trainer.errors import InputError
from trainer.models import encoders, functional, norms


def build_model(
    settings: config.Model,
    channels: int,
    num_classes: int,
    num_replicas: int = 1,
    rank: int = 2,
    normalize: str = "image",
) -> keras.Model:
    """Builds the network of `settings` for images, or volumes, of any size.

    Args:
        settings: architecture and its sizes.
        channels: of the images.
        num_classes: of the data, the background included; two classes take one logit.
        num_replicas: that train it, by which norm=auto is chosen; nothing else depends on them.
        rank: number of spatial axes: 2 for images, 3 for volumes.
        normalize: how images are normalised, a key of `normalization.NORMALIZATIONS`; an encoder
            takes them in a range of its own.

    Raises:
        InputError: the settings are for data of another rank, or what the row of MODELS built is
            no network for such data.
    """
    num_logits = 1 if num_classes == 2 else num_classes
    levels = settings.levels(rank)
    norm = norms.choose(settings.norm, num_replicas)
    model = models.MODELS[settings.model](
        (*[None] * rank, channels),
        settings.filters,
        num_logits,
        rank=rank,
        max_filters=settings.max_filters,
        depth=len(levels) - 1,
        strides=[level.stride for level in levels[:-1]],
        kernel_size=settings.kernel_size,
        kernels=[level.kernel for level in levels],
        activation=settings.activation,
        norm=norm,
        dropout=settings.dropout,
        upsampling=settings.upsampling,
        deep_supervision=settings.deep_supervision,
        **_encoder(settings, norms.of_encoder(norm, num_replicas), normalize),
    )
    functional.check(model, num_logits)
    if settings.has_encoder and not encoders.layers_of(model):
        raise InputError(
            f"--encoder={settings.encoder} has no effect on --model={settings.model}, which takes "
            "none; use --model=unet, or leave --encoder out."
        )
    return model


def _encoder(settings: config.Model, norm: str, normalize: str) -> dict[str, Any]:
    """Returns the argument of a builder that is for an encoder, where there is one."""
    if not settings.has_encoder:
        return {}
    build = functools.partial(encoders.features, settings.encoder, norm=norm, normalize=normalize)
    return {"encoder": build}
