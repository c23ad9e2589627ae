"""The contracting path: levels of convolutions after pooling, or of residual blocks."""

import functools

import keras

from trainer.models import blocks
from trainer.models.dropout import Dropout


def path(x, contract, number, features=(), dropout=0.0):
    """Returns what each level of the contracting path has found, the bottom's last.

    Args:
        x: padded images, [B, *S, C].
        contract: what adds a level, see `plain`.
        number: of levels.
        features: of the lowest levels, as many as an encoder has in their place.
        dropout: share of features dropped at the two last levels.
    """
    levels, own = [], number - len(features)
    for level in range(number):
        x = features[level - own] if level >= own else contract(x, level)
        if dropout and level >= number - 2:
            x = Dropout(dropout)(x)
        levels.append(x)
    return levels


def plain(filters, strides, kernels, conv_block):
    """Returns the function that adds a level of a U-Net: pooled, then convolved.

    Args:
        filters: channels of each level.
        strides: between a level and the next, along each axis.
        kernels: sides of the kernels at each level.
        conv_block: see `blocks.conv_block`.

    Returns:
        (x [B, *S, C], level) → [B, *S', filters[level]], with x what the level above returned, or
        at level 0 images.
    """

    def contract(x, level):
        if level and max(strides[level - 1]) > 1:
            x = blocks.max_pool(x, strides[level - 1])
        return conv_block(x, filters[level], kernel_size=kernels[level])

    return contract


def residual(filters, strides, kernels, numbers, *, activation="relu", norm="batch"):
    """Returns the function that adds a level of nnU-Net's residual encoder.

    At the top it has a stem; the first block of a level has its stride, in place of pooling
    (Isensee et al., 2024, arXiv:2404.09556).

    Args:
        filters: see `plain`, as the next two.
        strides: between a level and the next.
        kernels: sides of the kernels at each level.
        numbers: of blocks at each level; the last one is that of all levels below, too.
        activation: name of a Keras activation.
        norm: a row of `norms.NORMS`.

    Returns:
        What `plain` returns.
    """

    def contract(x, level):
        if level == 0:
            x = blocks.convolve(x, filters[0], kernels[0], norm)
            x = keras.layers.Activation(activation)(x)
        block = functools.partial(
            blocks.residual_block, kernel_size=kernels[level], activation=activation, norm=norm
        )
        x = block(x, filters[level], stride=strides[level - 1] if level else 1)
        for _ in range(numbers[min(level, len(numbers) - 1)] - 1):
            x = block(x, filters[level])
        return x

    return contract
