"""Builds the network that settings ask for."""

import keras

from trainer import config, models
from trainer.models import functional, norms


def build_model(
    settings: config.Model,
    channels: int,
    num_classes: int,
    num_replicas: int = 1,
    rank: int = 2,
) -> keras.Model:
    """Builds the network of `settings` for images, or volumes, of any size.

    Args:
        settings: architecture and its sizes.
        channels: of the images.
        num_classes: of the data, the background included; two classes take one logit.
        num_replicas: that train it, by which norm=auto is chosen; nothing else depends on them.
        rank: number of spatial axes: 2 for images, 3 for volumes.

    Raises:
        InputError: the settings are for data of another rank, or what the row of MODELS built is
            no network for such data.
    """
    num_logits = 1 if num_classes == 2 else num_classes
    levels = settings.levels(rank)
    model = models.MODELS[settings.model](
        (*[None] * rank, channels),
        settings.filters,
        num_logits,
        rank=rank,
        max_filters=settings.max_filters,
        depth=settings.depth,
        strides=[level.stride for level in levels[:-1]],
        kernel_size=settings.kernel_size,
        kernels=[level.kernel for level in levels],
        activation=settings.activation,
        norm=norms.choose(settings.norm, num_replicas),
        dropout=settings.dropout,
        upsampling=settings.upsampling,
        deep_supervision=settings.deep_supervision,
    )
    functional.check(model, num_logits)
    return model
