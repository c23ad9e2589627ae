"""The same network, of images that fill only a part of their tensor.

So images of many sizes share one program. What is beyond an image is made zero before each layer
that looks at neighbours, like the padding of the layer itself, and is left out of statistics. An
image then has the results that it has in a tensor of its own size, but for rounding, if its sides
are multiples of the network's stride.
"""

from collections.abc import Callable, Mapping, Sequence

import keras
import tensorflow as tf

from trainer.models import axes, blocks, dropout, layers, norms
from trainer.models.group_norm import GroupNormalization
from trainer.models.sync_norm import SyncBatchNormalization

# In prediction they compute each pixel, or a number for each channel of an image, by itself.
OF_EACH_PIXEL = (
    keras.layers.InputLayer,
    keras.layers.Activation,
    keras.layers.ReLU,
    keras.layers.Add,
    keras.layers.Multiply,
    keras.layers.Concatenate,
    keras.layers.Rescaling,
    keras.layers.Dense,
    keras.layers.Dropout,
    dropout.Dropout,
    keras.layers.BatchNormalization,
    norms.FusedBatchNormalization,
    SyncBatchNormalization,
    blocks.PadToStride,  # it changes nothing of multiples of the stride, nor does the next
    blocks.CropTo,
)
OF_EACH_PIXEL_UNEXPORTED = ("Add", "LayerScale")  # of Keras, by name, in ConvNeXt
CONVOLUTIONS = (*layers.CONVOLUTION.values(), keras.layers.DepthwiseConv2D)
MAX_POOLINGS = tuple(layers.MAX_POOLING.values())
AVERAGE_POOLINGS = tuple(layers.AVERAGE_POOLING.values())
ZERO_PADDINGS = tuple(layers.ZERO_PADDING.values())

Rule = Callable[[keras.layers.Layer, tf.Tensor, tf.Tensor], tf.Tensor]


def inside(images: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """Returns which pixels of a batch are of its images, bool [B, *S, 1].

    Args:
        images: [B, *S, C].
        sizes: int32 [B, rank], of each image, which is at the beginning of each axis.
    """
    rank = axes.rank_of(images)
    found = tf.ones([1] * (rank + 2), tf.bool)
    for axis, length in enumerate(axes.sizes(images)):
        before = tf.range(length) < sizes[:, axis, tf.newaxis]
        shape = [-1, *(length if place == axis else 1 for place in range(rank)), 1]
        found &= tf.reshape(before, shape)
    return found


def at_resolution(inside: tf.Tensor, sizes: Sequence[int]) -> tf.Tensor:
    """Returns which places of features are of the images.

    Args:
        inside: bool [B, *S, 1], see `inside`; *S must be static.
        sizes: *s of the features, which divide *S.

    Returns:
        bool [B, *s, 1].
    """
    whole = inside.shape[1:-1]
    assert not any(side % places for side, places in zip(whole, sizes, strict=True)), (whole, sizes)
    steps = (slice(None, None, side // places) for side, places in zip(whole, sizes, strict=True))
    return inside[(slice(None), *steps)]


def is_known(model: keras.Model) -> bool:
    """Returns whether a network has only layers whose results here are known to be the same."""
    return all(map(_is_known, model.operations))


def _is_known(layer: keras.Operation) -> bool:
    kind = type(layer)
    if kind in OF_EACH_PIXEL or kind in RULES:
        return True
    if kind in CONVOLUTIONS or kind in MAX_POOLINGS or kind in AVERAGE_POOLINGS:
        if not looks_around(layer):
            return True
        if layer.padding == "same":
            return kind in CONVOLUTIONS  # a pooling does not pad with zeros
        return kind not in AVERAGE_POOLINGS and _takes_padded(layer)
    if kind in layers.TRANSPOSED:
        return not looks_around(layer) or layer.padding == "same"
    if kind in ZERO_PADDINGS:
        return all(looks_around(one) and _takes_padded(one) for one in _after(layer))
    if kind is keras.layers.LayerNormalization:
        return layer.axis in (-1, [-1])
    if kind is keras.layers.Reshape:
        return all(len(tensor.shape) == 2 for tensor in keras.tree.flatten(layer.input))
    return kind.__name__ in OF_EACH_PIXEL_UNEXPORTED and kind.__module__.startswith("keras.")


def looks_around(layer: keras.Operation) -> bool:
    """Returns whether a pixel of what a layer gives depends on pixels outside its own stride."""
    kind = type(layer)
    if kind in ZERO_PADDINGS:
        return True
    if kind in CONVOLUTIONS or kind in layers.TRANSPOSED:
        sides = layer.kernel_size
    elif kind in MAX_POOLINGS or kind in AVERAGE_POOLINGS:
        sides = layer.pool_size
    else:
        return False
    return any(side > stride for side, stride in zip(sides, layer.strides, strict=True))


def must_be_zero(layer: keras.Operation) -> bool:
    """Returns whether a layer takes as zero what is beyond an image, and nothing before made it."""
    return looks_around(layer) and not _takes_padded(layer)


def _takes_padded(layer: keras.Operation) -> bool:
    """Returns whether what a layer takes was padded by a layer of its own."""
    before = [parent.operation for node in layer._inbound_nodes for parent in node.parent_nodes]
    return layer.padding == "valid" and {type(one) for one in before} <= set(ZERO_PADDINGS)


def _after(layer: keras.Operation) -> list[keras.Operation]:
    return [node.operation for node in layer._outbound_nodes]


def _mean(values: tf.Tensor, inside: tf.Tensor, space: Sequence[int]) -> tf.Tensor:
    """Returns the mean over the images' own places, [B, 1, …, C]; 0 where there is none."""
    total = tf.reduce_sum(tf.where(inside, values, 0.0), space, keepdims=True)
    return tf.math.divide_no_nan(
        total, tf.reduce_sum(tf.cast(inside, values.dtype), space, keepdims=True)
    )


def _group_normalization(
    layer: keras.layers.GroupNormalization, x: tf.Tensor, inside: tf.Tensor
) -> tf.Tensor:
    """Normalises by the statistics of the images' own places."""
    space = axes.spatial(axes.rank_of(x))
    groups, channels = layer.groups if layer.groups > 0 else x.shape[-1], x.shape[-1]

    def mean(values: tf.Tensor) -> tf.Tensor:
        of_each = _mean(values, inside, space)
        of_groups = tf.reshape(of_each, (-1, groups, channels // groups))
        wide = tf.repeat(tf.reduce_mean(of_groups, axis=-1), channels // groups, axis=-1)
        return tf.reshape(wide, tf.shape(of_each))

    x = tf.cast(x, tf.float32)
    centred = x - mean(x)
    scaled = centred * tf.math.rsqrt(mean(centred * centred) + layer.epsilon)
    scaled *= layer.gamma if layer.scale else 1.0
    return tf.cast(scaled + (layer.beta if layer.center else 0.0), layer.compute_dtype)


def _average_of_image(
    layer: keras.layers.GlobalAveragePooling2D, x: tf.Tensor, inside: tf.Tensor
) -> tf.Tensor:
    space = axes.spatial(axes.rank_of(x))
    found = tf.cast(_mean(tf.cast(x, tf.float32), inside, space), layer.compute_dtype)
    return found if layer.keepdims else tf.squeeze(found, space)


def _up_sampling(layer: keras.layers.Layer, x: tf.Tensor, inside: tf.Tensor) -> tf.Tensor:
    """Interpolates between the images' own places; at their edge these alone count."""
    share = tf.cast(inside, layer.compute_dtype)
    weighted = layer(tf.where(inside, tf.cast(x, layer.compute_dtype), 0))
    return tf.math.divide_no_nan(weighted, layer(share))


RULES: Mapping[type, Rule] = {
    keras.layers.GroupNormalization: _group_normalization,
    GroupNormalization: _group_normalization,
    keras.layers.GlobalAveragePooling2D: _average_of_image,
    keras.layers.UpSampling2D: _up_sampling,
}
