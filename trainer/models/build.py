"""Builds the network that settings ask for."""

import keras

from trainer import config, models
from trainer.models import functional, norms


def build_model(
    settings: config.Model, channels: int, num_classes: int, num_replicas: int = 1
) -> keras.Model:
    """Builds the network of `settings` for images of any size.

    Args:
        settings: architecture and its sizes.
        channels: of the images.
        num_classes: of the data, the background included; two classes take one logit.
        num_replicas: that train it, by which norm=auto is chosen; nothing else depends on them.

    Raises:
        InputError: what the row of MODELS built is no network for such data.
    """
    num_logits = 1 if num_classes == 2 else num_classes
    model = models.MODELS[settings.model](
        (None, None, channels),
        settings.filters,
        num_logits,
        depth=settings.depth,
        kernel_size=settings.kernel_size,
        activation=settings.activation,
        norm=norms.choose(settings.norm, num_replicas),
        dropout=settings.dropout,
        upsampling=settings.upsampling,
    )
    functional.check(model, num_logits)
    return model
