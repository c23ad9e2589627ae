"""Networks, by name; each builder takes the arguments of `build_unet`."""

import functools
import hashlib
from collections.abc import Callable, Mapping

import keras

from trainer.models import packing
from trainer.models.blocks import conv_block, up_conv
from trainer.models.folding import fold
from trainer.models.unet import build_unet

MODELS: Mapping[str, Callable[..., keras.Model]] = {
    "unet": build_unet,
    "residual_unet": functools.partial(build_unet, residual=True),
    "attention_unet": functools.partial(build_unet, attention=True),
}


def draw_weights(model: keras.Model, seed: int) -> None:
    """Draws a network's kernels, and the masks of its dropout, by the seed and each layer's place.

    Keras draws them by Python's global random numbers, of which other threads, such as a store's
    client between two attempts, take theirs as well: the same seed would not give the same run.
    """
    for place, layer in enumerate(model.layers):
        number = int.from_bytes(hashlib.sha256(f"{seed} {place}".encode()).digest()[:4], "big") // 2
        if hasattr(layer, "kernel_initializer"):
            settings = {**layer.kernel_initializer.get_config(), "seed": number}
            initializer = type(layer.kernel_initializer).from_config(settings)
            layer.kernel.assign(initializer(layer.kernel.shape, layer.kernel.dtype))
        if hasattr(layer, "seed_generator"):
            layer.seed_generator.state.assign([number, 0])


__all__ = ["MODELS", "build_unet", "conv_block", "draw_weights", "fold", "packing", "up_conv"]
