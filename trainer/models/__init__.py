"""Networks, by name; each builder takes the arguments of `build_unet`."""

import functools
from collections.abc import Callable, Mapping

import keras

from trainer.models.unet import build_unet

MODELS: Mapping[str, Callable[..., keras.Model]] = {
    "unet": build_unet,
    "residual_unet": functools.partial(build_unet, residual=True),
    "attention_unet": functools.partial(build_unet, attention=True),
}

__all__ = ["MODELS", "build_unet"]
