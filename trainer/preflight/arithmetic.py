"""Counts the arithmetic of a training step from the shapes of a network's layers."""

import math
from typing import Any

import keras

from trainer.errors import InputError

FORWARD = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.DepthwiseConv2D,
    keras.layers.Dense,  # of each pixel
)
TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
PASSES = 3  # outputs, gradients of the kernels, gradients of the inputs


def training_flops(model: keras.Model, image_shape: tuple[int, ...], batch_size: int) -> int:
    """Returns the multiplications and additions that a step's convolutions are made of.

    Each kernel meets each pixel, those of the padding too, and the backward pass counts twice the
    forward one, as is usual. The zeros of `trainer.models.channel_packing` do not count: the
    number is the network's own, however it is computed.

    Args:
        model: a functional model of one input; a layer may be another.
        image_shape: (H, W, C).
        batch_size: images per step.

    Raises:
        InputError: a layer has a kernel whose use is not known.
    """
    return PASSES * batch_size * _network_flops(model, image_shape)


def _network_flops(model: keras.Model, image_shape: tuple[int, ...]) -> int:
    """Returns the operations of a network on one image."""
    fixed = keras.models.clone_model(model, input_tensors=keras.Input(image_shape))
    return sum(_forward_flops(layer) for layer in fixed.layers)


def _forward_flops(layer: Any) -> int:
    """Returns the operations of a layer on one image."""
    if isinstance(layer, keras.Function):
        (node,) = layer._inbound_nodes
        return _network_flops(layer, node.input_tensors[0].shape[1:])
    if isinstance(layer, FORWARD):
        pixels = layer.output.shape[1:-1]
    elif isinstance(layer, TRANSPOSED):  # the gradient of one from its outputs to its inputs
        pixels = layer.input.shape[1:-1]
    elif any(len(weight.shape) > 1 for weight in layer.weights):
        raise InputError(
            f"Layer {layer.name}: the arithmetic of a {type(layer).__name__} is not known; build "
            "the network of convolutions, depthwise and transposed ones, and dense layers, or add "
            "the class to trainer/preflight/arithmetic.py."
        )
    else:
        return 0
    return 2 * math.prod(pixels) * math.prod(layer.kernel.shape)
