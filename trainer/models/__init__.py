"""Networks, by name; each builder takes the arguments of `build_unet`."""

import functools
from collections.abc import Callable

import keras

from trainer.config import network_levels
from trainer.models import channel_packing
from trainer.models.blocks import conv_block, up_conv
from trainer.models.functional import check, prediction_model
from trainer.models.initialization import initialize_weights, keep_weights
from trainer.models.norm_folding import fold
from trainer.models.unet import build_unet
from trainer.models.unet_plus_plus import build_unet_plus_plus

MODELS: dict[str, Callable[..., keras.Model]] = {
    "unet": build_unet,
    "residual_unet": functools.partial(build_unet, residual=True),
    "attention_unet": functools.partial(build_unet, attention=True),
    "residual_encoder_unet": functools.partial(
        build_unet, encoder_blocks=network_levels.ENCODER_BLOCKS
    ),
    "unet_plus_plus": build_unet_plus_plus,
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
