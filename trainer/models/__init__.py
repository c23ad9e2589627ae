"""Networks, by name; each builder takes the arguments of `build_unet`."""

import functools
from collections.abc import Callable

import keras

from trainer.models import channel_packing
from trainer.models.blocks import conv_block, up_conv
from trainer.models.functional import check, prediction_model
from trainer.models.initialization import initialize_weights, keep_weights
from trainer.models.norm_folding import fold
from trainer.models.unet import build_unet

MODELS: dict[str, Callable[..., keras.Model]] = {
    "unet": build_unet,
    "residual_unet": functools.partial(build_unet, residual=True),
    "attention_unet": functools.partial(build_unet, attention=True),
}


__all__ = [
    "MODELS",
    "build_unet",
    "channel_packing",
    "check",
    "conv_block",
    "fold",
    "initialize_weights",
    "keep_weights",
    "prediction_model",
    "up_conv",
]
