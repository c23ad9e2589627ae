"""Counts the arithmetic of a training step from the shapes of a network's layers."""

import math
from typing import Any

import keras

from trainer.models import blocks

CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.Conv2DTranspose)


def training_flops(model: keras.Model, image_shape: tuple[int, int, int], batch_size: int) -> int:
    """Returns the multiplications and additions that a step's convolutions are made of.

    One pass computes their outputs, one the gradient of the kernel, and one that of the inputs,
    where a layer before has weights to train. Products with padding do not count, nor do the zeros
    of `trainer.models.packing`: the number is the network's own, however it is computed.

    Args:
        model: a functional model of one input, whose layers are used once each.
        image_shape: (H, W, C).
        batch_size: images per step.

    Raises:
        TypeError: a layer has a kernel of which is not known what it multiplies.
    """
    shapes: dict[int, Any] = {id(model.inputs[0]): (batch_size, *image_shape)}
    trained: set[int] = set()  # tensors that depend on a weight
    total = 0
    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        inputs = keras.tree.flatten(layer.input)
        before = [shapes[id(tensor)] for tensor in inputs]
        several = len(before) > 1 and not isinstance(layer, blocks.CropTo)
        after = (
            layer.compute_output_shape(before) if several else layer.compute_output_shape(*before)
        )
        backward = any(id(tensor) in trained for tensor in inputs)
        if isinstance(layer, CONVOLUTIONS):
            total += (3 if backward else 2) * _forward_flops(layer, before[0], after)
        elif hasattr(layer, "kernel"):
            raise TypeError(f"The arithmetic of a {type(layer).__name__} is not known.")
        shapes[id(layer.output)] = after
        if backward or layer.trainable_variables:
            trained.add(id(layer.output))
    return total


def _forward_flops(layer: Any, before: tuple[int, ...], after: tuple[int, ...]) -> int:
    """Returns the operations of a convolution of [B, H, W, C] to [B, H', W', F]."""
    # A transposed convolution is the gradient of one that goes from its outputs to its inputs.
    transposed = isinstance(layer, keras.layers.Conv2DTranspose)
    wide, narrow = (after, before) if transposed else (before, after)
    sides = zip(layer.kernel_size, layer.strides, layer.dilation_rate, strict=True)
    pairs = math.prod(
        _pairs(wide[axis], narrow[axis], kernel, stride, step, layer.padding)
        for axis, (kernel, stride, step) in enumerate(sides, start=1)
    )
    return 2 * pairs * before[0] * before[3] * after[3] // getattr(layer, "groups", 1)


def _pairs(wide: int, narrow: int, kernel: int, stride: int, step: int, padding: str) -> int:
    """Counts the (output, place in the kernel) of a convolution that meet a pixel of its input."""
    reach = (narrow - 1) * stride + (kernel - 1) * step + 1
    before = max(0, reach - wide) // 2 if padding == "same" else 0
    return sum(
        0 <= place * stride + tap * step - before < wide
        for place in range(narrow)
        for tap in range(kernel)
    )
