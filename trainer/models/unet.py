"""The U-Net (Ronneberger, Fischer and Brox, 2015, arXiv:1505.04597), of images or of volumes."""

import functools
import math

import keras

from trainer.errors import InputError
from trainer.models import arguments, axes, blocks, contracting


def build_unet(
    input_shape=(256, 256, 1),
    n_filters=64,
    num_classes=1,
    *,
    rank=2,
    max_filters=0,
    depth=4,
    strides=(),
    kernel_size=3,
    kernels=(),
    activation="relu",
    padding="same",
    norm="batch",
    dropout=0.0,
    upsampling="transpose",
    residual=False,
    attention=False,
    encoder_blocks=(),
    deep_supervision=False,
    head_activation=None,
    encoder=None,
):
    """Builds a U-Net, which doubles its filters whenever it reduces the resolution, up to a limit.

    Sizes that the product of the strides does not divide are padded with zeros inside, and the
    result cropped back.

    Args:
        input_shape: (*S, C); sizes may be None with padding "same".
        n_filters: channels at full resolution.
        num_classes: channels of the result; 1 for a binary task (one logit per pixel).
        rank: of the space: 2 for images (H, W), 3 for volumes (D, H, W).
        max_filters: at most so many channels at any level; 0: no limit.
        depth: how many times the resolution is reduced.
        strides: by how much each time, a number or one for each axis; empty: 2 everywhere.
        kernel_size: side of the kernels of `conv_block`.
        kernels: their sides at each level, the bottom's last, a number or one for each axis;
            empty: `kernel_size` everywhere.
        activation: name of a Keras activation.
        padding: "same", or "valid": the result is smaller than the image, as in the paper.
        norm: "batch", "sync_batch" (over all replicas), "group", "instance" or "none".
        dropout: share of features dropped at the end of the contracting path (its two last levels).
        upsampling: "transpose", or of images "bilinear".
        residual: residual blocks.
        attention: attention gates on the skip connections.
        encoder_blocks: number of residual blocks at each level of the contracting path, the last
            one that of all below; the expanding path then has one convolution a level (see
            `contracting.residual`). Empty: two convolutions at each level of either.
        deep_supervision: logits from every level of the decoder but the lowest, for training
            (Isensee et al., 2021); the model returns a list of them, full resolution first.
        head_activation: None (logits), "sigmoid" or "softmax".
        encoder: None, or images [B, *S, C] → the features of the lower levels, one for each, the
            bottom's last, in place of the U-Net's own (see `encoders.features`).

    Returns:
        keras.Model, [B, *S, C] -> float32 [B, *S, num_classes], float32 whatever the precision of
        the layers before.

    Raises:
        InputError: an argument is out of its range.
    """
    arguments.check_numbers(input_shape, rank, n_filters, num_classes, depth, dropout)
    filters = arguments.filters(n_filters, max_filters, depth + 1)
    strides, kernels = arguments.levels(strides, kernel_size, kernels, depth, rank)
    arguments.check_choices(activation, norm, upsampling, rank)
    arguments.check_choice("padding", padding, ("same", "valid"))
    _check_head(head_activation, num_classes)
    if deep_supervision:
        _check_supervision(depth, padding, head_activation)
    if padding == "valid":
        _check_valid_size(input_shape, strides, kernels, encoder_blocks)

    styled = {"activation": activation, "norm": norm}
    conv_block = functools.partial(blocks.conv_block, padding=padding, residual=residual, **styled)
    up_conv = functools.partial(blocks.up_conv, upsampling=upsampling, **styled)
    sizes = filters, strides, kernels
    contract = contracting.plain(*sizes, conv_block)
    if encoder_blocks:
        contract = contracting.residual(*sizes, encoder_blocks, **styled)
        conv_block = functools.partial(blocks.conv_block, number=1, **styled)
    images = keras.Input(input_shape, name="images")
    # With "valid" every size has been found to fit as it is.
    total = tuple(map(math.prod, zip(*strides, strict=True)))
    x = blocks.pad_to_stride(images, total) if padding == "same" else images
    features = encoder(x) if encoder else []
    *skips, x = contracting.path(x, contract, depth + 1, features, dropout)
    coarser = []
    for level in reversed(range(depth)):
        x = up_conv(x, filters[level], stride=strides[level])
        skip = skips[level] if padding == "same" else blocks.crop_center(skips[level], x)
        if attention:
            skip = blocks.attention_gate(skip, x, norm=norm)
        x = keras.layers.Concatenate()([skip, x])
        x = conv_block(x, filters[level], kernel_size=kernels[level])
        if deep_supervision and 0 < level < depth - 1:
            coarser.append(blocks.head(x, num_classes, name=f"logits_{level}"))
    x = blocks.head(x, num_classes, name="logits")
    if head_activation:
        x = keras.layers.Activation(head_activation, dtype="float32")(x)
    if padding == "same":
        x = blocks.crop_to(x, images)
    return keras.Model(images, [x, *reversed(coarser)] if coarser else x, name="unet")


def _check_head(head_activation, num_classes):
    """Raises InputError for an activation that does not exist or that is 1 everywhere."""
    arguments.check_choice("head_activation", head_activation, (None, "sigmoid", "softmax"))
    if head_activation == "softmax" and num_classes == 1:
        raise InputError(
            "head_activation=softmax of num_classes=1 is 1 everywhere; use sigmoid or two classes."
        )


def _check_supervision(depth, padding, head_activation):
    """Raises InputError where there is no coarser level to supervise, or its labels do not fit."""
    if depth < 3:
        raise InputError(
            f"deep_supervision with depth={depth} has no level between the lowest of the decoder "
            "and the full resolution; use depth=3 or more, or leave it out."
        )
    if padding == "valid" or head_activation:
        raise InputError(
            "deep_supervision is for training by logits of padded images; use padding=same and "
            "head_activation=None."
        )


def _check_valid_size(input_shape, strides, kernels, encoder_blocks):
    """Raises InputError unless unpadded convolutions leave sizes that the strides divide."""
    if encoder_blocks:
        raise InputError("encoder_blocks are padded; use padding=same.")
    *sizes, _ = input_shape
    names = axes.NAMES[len(sizes)]
    for name, size, *of_axis in zip(
        names, sizes, zip(*strides, strict=True), zip(*kernels, strict=True), strict=True
    ):
        if size is None:
            raise InputError(
                f"{name}=None needs padding=same; padding=valid takes fixed sizes, as 572."
            )
        if not _fits_valid(size, *of_axis):
            fitting = size
            while not _fits_valid(fitting, *of_axis):
                fitting += 1
            raise InputError(
                f"{name}={size} cannot be reduced {len(strides)} times with padding=valid and"
                f" kernels of {_slashes(of_axis[1])}; use {fitting} or padding=same."
            )


def _fits_valid(size, strides, kernels):
    """Returns whether an unpadded U-Net of such levels takes images of this size along an axis."""
    *shrinks, bottom = (2 * (kernel - 1) for kernel in kernels)
    levels = list(zip(strides, shrinks, strict=True))
    for stride, shrink in levels:
        size -= shrink
        if size <= 0 or size % stride:
            return False
        size //= stride
    size -= bottom
    for stride, shrink in reversed(levels):
        if size <= 0:
            return False
        size = stride * size - shrink
    return size > 0


def _slashes(numbers):
    return "/".join(map(str, numbers))
