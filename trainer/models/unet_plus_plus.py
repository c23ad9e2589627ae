"""U-Net++ (Zhou et al., 2018, arXiv:1807.10165), of images or of volumes."""

import functools
import math

import keras

from trainer.errors import InputError
from trainer.models import arguments, blocks, contracting


def build_unet_plus_plus(
    input_shape=(256, 256, 1),
    n_filters=32,
    num_classes=1,
    *,
    rank=2,
    max_filters=0,
    depth=4,
    strides=(),
    kernel_size=3,
    kernels=(),
    activation="relu",
    norm="batch",
    dropout=0.0,
    upsampling="transpose",
    deep_supervision=False,
    encoder=None,
):
    """Builds a U-Net++: between the two paths of a U-Net, each level has nodes of its own.

    Node j of a level takes the nodes before it in its level, and node j - 1 of the level below,
    raised to its resolution. Node 0 is the contracting path; the last one of the top has the
    prediction.

    Args:
        input_shape: see `build_unet`, as all but `deep_supervision`.
        n_filters: channels at full resolution.
        num_classes: channels of the result.
        rank: of the space.
        max_filters: at most so many channels at any level; 0: no limit.
        depth: how many times the resolution is reduced.
        strides: by how much each time.
        kernel_size: side of the kernels.
        kernels: their sides at each level.
        activation: name of a Keras activation.
        norm: a row of `norms.NORMS`.
        dropout: share of features dropped in the two last levels of the contracting path.
        upsampling: "transpose", or of images "bilinear".
        deep_supervision: logits from each node of the top, all at full resolution, for training;
            the model returns a list of them, the prediction first.
        encoder: None, or what has the features of the lower levels.

    Returns:
        keras.Model, [B, *S, C] -> float32 [B, *S, num_classes].

    Raises:
        InputError: an argument is out of its range.
    """
    arguments.check_numbers(input_shape, rank, n_filters, num_classes, depth, dropout)
    filters = arguments.filters(n_filters, max_filters, depth + 1)
    strides, kernels = arguments.levels(strides, kernel_size, kernels, depth, rank)
    arguments.check_choices(activation, norm, upsampling, rank)
    if deep_supervision and depth < 2:
        raise InputError(
            f"deep_supervision with depth={depth} has one node with logits; use depth=2 or more, "
            "or leave it out."
        )

    styled = {"activation": activation, "norm": norm}
    conv_block = functools.partial(blocks.conv_block, **styled)
    up_conv = functools.partial(blocks.up_conv, upsampling=upsampling, **styled)
    images = keras.Input(input_shape, name="images")
    x = blocks.pad_to_stride(images, tuple(map(math.prod, zip(*strides, strict=True))))
    contract = contracting.plain(filters, strides, kernels, conv_block)
    features = encoder(x) if encoder else []
    nodes = [[x] for x in contracting.path(x, contract, depth + 1, features, dropout)]
    for number in range(1, depth + 1):
        for level in range(depth + 1 - number):
            raised = up_conv(nodes[level + 1][-1], filters[level], stride=strides[level])
            joined = keras.layers.Concatenate()([*nodes[level], raised])
            nodes[level].append(conv_block(joined, filters[level], kernel_size=kernels[level]))
    supervised = nodes[0][1:] if deep_supervision else nodes[0][-1:]
    names = ["logits", *(f"logits_{number}" for number in reversed(range(1, depth)))]
    outputs = [
        blocks.crop_to(blocks.head(node, num_classes, name), images)
        for name, node in zip(names, reversed(supervised), strict=False)
    ]
    return keras.Model(images, outputs if deep_supervision else outputs[0], name="unet_plus_plus")
