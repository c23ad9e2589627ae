"""The same network, computed with neighbouring pixels packed into the channels.

A TPU's registers, matrix units and memory tiles are 128 lanes wide, and hold the channels: 64 of
them leave half of the lanes empty. Here `group` neighbours of a row share one place, channels side
by side, [B, H, W, C] -> [B, H, W / group, group * C], from the first convolution of a narrow level
to its last; a kernel becomes a larger one, of its own numbers and zeros. Volumes are packed along
their width, too; *R stands for the spatial axes before it: (H,), or (D, H).

Only the computation differs: `packed` takes a network of plain layers and uses their variables, so
that checkpoints and saved models know nothing of it. What has no rule here is computed as it is.
"""

import dataclasses
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from trainer.models import axes, functional, norms, packed_norm, partial_images
from trainer.models.convolution import Convolution3D
from trainer.models.group_norm import GroupNormalization
from trainer.models.sync_norm import SyncBatchNormalization

# Channels that a kind of device computes at a time; 1: it computes any number equally well.
LANE_WIDTHS = {"CPU": 1, "GPU": 1, "TPU": 128}

# A larger group multiplies more zeros than it fills lanes.
LARGEST_GROUP = 4

# The most outputs of a 1×1 convolution whose gradient is a sum of products, not a convolution.
HEAD_CHANNELS = 8

# Activations of each number by itself; others, as softmax, mix the channels of a pixel.
ELEMENTWISE = tuple(
    keras.activations.get(name)
    for name in ("elu", "gelu", "leaky_relu", "linear", "relu", "sigmoid", "silu", "tanh")
)


@dataclasses.dataclass(frozen=True)
class Packed:
    """Features [B, *R, W, C], as parts [B, *R, W / group, group * C_i]; C is the sum of C_i."""

    parts: tuple[tf.Tensor, ...]
    group: int = 1


@dataclasses.dataclass(frozen=True)
class Operations:
    """TensorFlow's operations for a spatial rank.

    Attributes:
        forward: convolution.
        at_input: its gradient at its input.
        at_kernel: its gradient at its kernel.
        transposed: transposed convolution.
        spread: of its kernel [*r, w, F, C] → [*r, i, w, F, j, C], for pixel i of a place from j.
        max_pool: largest of windows.
    """

    forward: Callable[..., tf.Tensor]
    at_input: Callable[..., tf.Tensor]
    at_kernel: Callable[..., tf.Tensor]
    transposed: Callable[..., tf.Tensor]
    spread: str
    max_pool: Callable[..., tf.Tensor]


CONVOLUTIONS = {
    2: Operations(
        forward=tf.nn.conv2d,
        at_input=tf.raw_ops.Conv2DBackpropInput,
        at_kernel=tf.raw_ops.Conv2DBackpropFilter,
        transposed=tf.nn.conv2d_transpose,
        spread="hwfc,ij->hiwfjc",
        max_pool=tf.nn.max_pool2d,
    ),
    3: Operations(
        forward=tf.nn.conv3d,
        at_input=tf.raw_ops.Conv3DBackpropInputV2,
        at_kernel=tf.raw_ops.Conv3DBackpropFilterV2,
        transposed=tf.nn.conv3d_transpose,
        spread="dhwfc,ij->dhiwfjc",
        max_pool=tf.nn.max_pool3d,
    ),
}

Forward = Callable[..., Any]
Rule = Callable[[keras.layers.Layer, Sequence[Packed], int, bool], Packed | None]


def packed(
    model: keras.Model, lane_width: int, frozen: Collection[keras.layers.Layer] = ()
) -> Forward:
    """Returns a function equal to `model` up to rounding, which fills the lanes of narrow layers.

    Args:
        model: a functional model of one input.
        lane_width: channels that the device computes at a time; 1: `model` itself is returned,
            unless some layers are frozen.
        frozen: layers that are computed as in prediction, also in training.

    Returns:
        `forward(images, training=False)`, with images [B, *R, W, C], whose outputs have the
        structure of the model's. Where W is not static, or is not a multiple of the group, layers
        are computed as they are.

    Raises:
        InputError: the network is not functional.
    """
    functional.check(model)
    if lane_width == 1 and not frozen:
        return model
    still = {id(layer) for layer in frozen}

    def forward(images: tf.Tensor, training: bool = False) -> Any:
        def call(layer, *args, **kwargs):
            moves = training and id(layer) not in still
            return _compute(layer, args, kwargs, lane_width, moves)

        return _walk(model, images, call)

    return forward


def predicting(model: keras.Model, lane_width: int = 1) -> Forward:
    """Returns a network in prediction, `forward(images, training=False, inside=None)`.

    Args:
        model: a functional model of one input and one output.
        lane_width: see `packed`.

    Returns:
        a function of images [B, *S, C], equal to `model` up to rounding. With `inside`, bool
        [B, *S, 1], the images are only a part of their tensor, see `partial_images`; `training`
        must be False.

    Raises:
        InputError: the network is not functional.
    """
    whole = packed(model, lane_width)

    def forward(
        images: tf.Tensor, training: bool = False, inside: tf.Tensor | None = None
    ) -> tf.Tensor:
        def call(layer, *args, **kwargs):
            return _compute_part(layer, args, kwargs, lane_width, inside)

        if inside is None:
            return whole(images, training=training)
        assert not training
        return _walk(model, images, call)

    return forward


def _walk(model: keras.Model, images: tf.Tensor, call: Callable[..., Any]) -> Any:
    """Returns a network's outputs, each of its layers computed by `call`."""
    outputs = model._run_through_graph(
        [Packed((tf.convert_to_tensor(images),))],
        operation_fn=lambda operation: operation,
        call_fn=call,
    )
    return keras.tree.map_structure(_unpack, outputs)


def _compute_part(layer, args, kwargs, lane_width, inside):
    """Computes a layer of images that are a part of their tensor, see `partial_images`."""

    def zeroed(value):
        return _zeroed(value, inside) if isinstance(value, Packed) else value

    if rule := partial_images.RULES.get(type(layer)):
        x = _unpack(args[0])
        with tf.name_scope(layer.name):
            there = partial_images.at_resolution(inside, x.shape[1:-1])
            return Packed((rule(layer, x, there),))
    if partial_images.must_be_zero(layer):
        args = keras.tree.map_structure(zeroed, args)
    return _compute(layer, args, kwargs, lane_width, False)


def _zeroed(value: Packed, inside: tf.Tensor) -> Packed:
    """Returns features that are zero beyond the images."""
    *sizes, width = value.parts[0].shape[1:-1]
    group = value.group
    there = partial_images.at_resolution(inside, (*sizes, width * group))
    there = tf.reshape(there, (-1, *sizes, width, group))
    parts = []
    for part in value.parts:
        channels = part.shape[-1] // group  # of a pixel; of one pixel a place, they are broadcast
        of_channels = tf.repeat(there, channels, axis=-1) if group > 1 else there
        parts.append(tf.where(of_channels, part, 0))
    return Packed(tuple(parts), group)


def _compute(layer, args, kwargs, lane_width, training):
    """Computes a layer, or any operation, of packed values and what else it was called with."""
    rule = RULES.get(type(layer))
    inputs = [value for value in keras.tree.flatten(args) if isinstance(value, Packed)]
    with tf.name_scope(layer.name):
        output = rule(layer, inputs, lane_width, training) if rule else None
        if output is None:
            output = _as_it_is(layer, args, kwargs, training)
    return output


def _as_it_is(layer, args, kwargs, training):
    """Calls the layer itself."""

    def plain(value):
        return _unpack(value) if isinstance(value, Packed) else value

    args, kwargs = keras.tree.map_structure(plain, (args, kwargs))
    if "training" in inspect.signature(layer.call).parameters:
        kwargs["training"] = training
    return keras.tree.map_structure(lambda tensor: Packed((tensor,)), layer(*args, **kwargs))


def _convolution(layer, inputs, lane_width, training):
    """Computes a convolution: an output place of the packed kernel sees `group` pixels' taps."""
    (value,) = inputs
    plain = {*layer.strides, *layer.dilation_rate, layer.groups} == {1}
    odd = all(side % 2 for side in layer.kernel_size)
    same = layer.padding == "same" or set(layer.kernel_size) == {1}
    if not (plain and odd and same) or layer.activation not in ELEMENTWISE:
        return None
    if layer.data_format != "channels_last":
        return None
    width = value.parts[0].shape[-2]
    group = value.group if value.group > 1 else _group(layer.filters, width, lane_width)
    if group == len(value.parts) == 1:
        return None
    value = _regroup(value, group)
    kernel = tf.cast(layer.kernel, layer.compute_dtype)
    sizes = [part.shape[-1] // group for part in value.parts]
    kernels = [_widen(part, group) for part in tf.split(kernel, sizes, axis=-2)]
    parts = [tf.cast(part, layer.compute_dtype) for part in value.parts]
    x = _convolve(parts, kernels, layer.name)
    return Packed((layer.activation(_add_bias(layer, x, group)),), group)


def _convolve(parts, kernels, name):
    """Convolves parts [B, *S, C_i] by kernels [*s, C_i, F], and sums: [B, *S, F].

    Forward it is one convolution of all parts. Backward it is one for each: the gradient of a part
    goes to another layer than its neighbour's, and is summed there in the pass that computes it.
    """
    operations = CONVOLUTIONS[axes.rank_of(parts[0])]
    strides = [1] * len(parts[0].shape)

    @tf.custom_gradient
    def convolve(*tensors):
        parts, kernels = tensors[: len(tensors) // 2], tensors[len(tensors) // 2 :]
        outputs = operations.forward(_concat(parts), tf.concat(kernels, -2), strides, "SAME")

        def gradient(upstream):
            settings = {"out_backprop": upstream, "strides": strides, "padding": "SAME"}
            at_parts, at_kernels = [], []
            with tf.name_scope(f"{name}/"):  # so that profiles name the layer here, too
                for part, kernel in zip(parts, kernels, strict=True):
                    if _is_head(kernel):
                        at_part = _at_input_of_head(upstream, kernel)
                    else:
                        at_part = operations.at_input(
                            input_sizes=tf.shape(part), filter=kernel, **settings
                        )
                    at_kernel = operations.at_kernel(
                        input=part, filter_sizes=tf.shape(kernel), **settings
                    )
                    at_parts.append(at_part)
                    at_kernels.append(at_kernel)
            return [*at_parts, *at_kernels]

        return outputs, gradient

    return convolve(*parts, *kernels)


def _is_head(kernel):
    """Whether a kernel makes a few numbers of each place alone, as logits are made."""
    return set(kernel.shape[:-2]) == {1} and kernel.shape[-1] <= HEAD_CHANNELS


def _at_input_of_head(upstream, kernel):
    """Returns the gradient at a head's input: [B, *S, F] → [B, *S, C].

    Such a sum is computed where it is used. A convolution's result would be written first, and read
    again by each use, at the size of the features.
    """
    columns = tf.unstack(tf.cast(tf.reshape(kernel, kernel.shape[-2:]), tf.float32), axis=-1)
    changes = tf.split(tf.cast(upstream, tf.float32), len(columns), axis=-1)
    total = tf.add_n([one * column for one, column in zip(changes, columns, strict=True)])
    return tf.cast(total, kernel.dtype)


def _widen(kernel, group):
    """Returns the kernel [*r, w, C, F] for packed pixels: [*r, places, group * C, group * F]."""
    *rows, width, channels, filters = kernel.shape
    radius = width // 2
    places = 1 + 2 * -(-radius // group)  # as many to the left as to the right
    columns = []
    for pixel in range(group):
        before = group * (places // 2) + pixel - radius
        after = places * group - width - before
        taps = tf.pad(kernel, [*[[0, 0]] * len(rows), [before, after], [0, 0], [0, 0]])
        columns.append(tf.reshape(taps, (*rows, places, group * channels, filters)))
    return tf.concat(columns, axis=-1)


def _transposed_convolution(layer, inputs, lane_width, training):
    """Computes a transposed convolution whose kernel is its stride, 2 along the width.

    Each pixel becomes four, or eight, by itself.
    """
    (value,) = inputs
    *rows, across = layer.strides
    if layer.kernel_size != layer.strides or across != 2 or layer.output_padding is not None:
        return None
    if set(layer.dilation_rate) != {1} or layer.activation not in ELEMENTWISE:
        return None
    if layer.data_format != "channels_last":
        return None
    width = value.parts[0].shape[-2]
    group = _group(layer.filters, width and 2 * width * value.group, lane_width)
    if group == 1:
        return None
    before = group // 2
    x = tf.cast(_concat(_regroup(_join(value), before).parts), layer.compute_dtype)
    kernel = tf.cast(layer.kernel, layer.compute_dtype)  # [*rows, 2, F, C]
    operations = CONVOLUTIONS[len(layer.strides)]
    kernel = tf.einsum(operations.spread, kernel, tf.eye(before, dtype=kernel.dtype))
    kernel = tf.reshape(kernel, (*rows, 1, group * layer.filters, x.shape[-1]))
    batch, *sizes, width = tf.unstack(tf.shape(x)[:-1])
    sizes = [stride * size for stride, size in zip(rows, sizes, strict=True)]
    shape = tf.stack([batch, *sizes, width, group * layer.filters])
    x = operations.transposed(x, kernel, shape, strides=(*rows, 1), padding="VALID")
    return Packed((layer.activation(_add_bias(layer, x, group)),), group)


def _batch_normalization(layer, inputs, lane_width, training):
    """Computes BatchNormalization, its statistics over all pixels of all places."""
    value = _join(inputs[0])
    (part,) = value.parts
    is_whole = layer.axis in (-1, len(part.shape) - 1) and layer.center and layer.scale
    if value.group == 1 or not is_whole:
        return None
    output = packed_norm.normalize(
        layer,
        axes.as_images(part),
        value.group,
        training=training,
        synchronized=norms.is_synchronized(layer),
    )
    return Packed((axes.restore(output, part),), value.group)


def _group_normalization(layer, inputs, lane_width, training):
    """Computes GroupNormalization, its statistics over all pixels of an image's places."""
    value = _join(inputs[0])
    (part,) = value.parts
    output = layer.normalize(axes.as_images(part), value.group)
    return Packed((axes.restore(output, part),), value.group)


def _activation(layer, inputs, lane_width, training):
    """Applies what acts on each number by itself."""
    value = inputs[0]
    if layer.activation not in ELEMENTWISE:
        return None
    parts = (layer.activation(tf.cast(part, layer.compute_dtype)) for part in value.parts)
    return Packed(tuple(parts), value.group)


def _max_pooling(layer, inputs, lane_width, training):
    """Takes the largest of some rows, then that of two neighbours in a place.

    Of equal numbers in both rows and columns, the gradient may go to another one than that of the
    plain operation: of 1 2 above 2 1, to the lower 2.
    """
    value = _join(inputs[0])
    *sides, across = layer.pool_size
    if value.group == 1 or layer.pool_size != layer.strides or across > 2:
        return None
    if layer.padding != "valid":
        return None
    pool = CONVOLUTIONS[len(layer.pool_size)].max_pool
    rows = pool(value.parts[0], (*sides, 1), (*sides, 1), "VALID")
    if across == 1:
        return Packed((rows,), value.group)
    pixels = tf.split(rows, value.group, axis=-1)
    return Packed((tf.maximum(_concat(pixels[::2]), _concat(pixels[1::2])),), value.group // 2)


def _concatenation(layer, inputs, lane_width, training):
    """Keeps the parts apart: packed side by side, their channels would be out of order."""
    if layer.axis not in (-1, len(inputs[0].parts[0].shape) - 1):
        return None
    group = max(value.group for value in inputs)
    parts = [tf.cast(p, layer.compute_dtype) for v in inputs for p in _regroup(v, group).parts]
    return Packed(tuple(parts), group)


def _merge(function):
    """Returns the rule of an operation on pairs of numbers."""

    def rule(layer, inputs, lane_width, training):
        group = max(value.group for value in inputs)
        if group == 1 or len({_width(value) for value in inputs}) > 1:
            return None
        tensors = [_regroup(_join(value), group).parts[0] for value in inputs]
        widest = max(tensor.shape[-1] for tensor in tensors)
        result = None
        for tensor in tensors:  # one channel, a factor of each pixel, is repeated by hand
            tensor = tf.cast(tensor, layer.compute_dtype)
            tensor = tf.repeat(tensor, widest // tensor.shape[-1], axis=-1)
            result = tensor if result is None else function(result, tensor)
        return Packed((result,), group)

    return rule


RULES: Mapping[type, Rule] = {
    keras.layers.Conv2D: _convolution,
    keras.layers.Conv3D: _convolution,
    Convolution3D: _convolution,
    keras.layers.Conv2DTranspose: _transposed_convolution,
    keras.layers.Conv3DTranspose: _transposed_convolution,
    keras.layers.Activation: _activation,
    keras.layers.MaxPooling2D: _max_pooling,
    keras.layers.MaxPooling3D: _max_pooling,
    keras.layers.Concatenate: _concatenation,
    keras.layers.Add: _merge(tf.add),
    keras.layers.Multiply: _merge(tf.multiply),
    keras.layers.BatchNormalization: _batch_normalization,
    norms.FusedBatchNormalization: _batch_normalization,
    SyncBatchNormalization: _batch_normalization,
    GroupNormalization: _group_normalization,
}


def _group(filters: int, width: int | None, lane_width: int) -> int:
    """Returns how many pixels of so many channels fill the lanes, 1 if that would not be faster."""
    group = lane_width // filters
    fits = 1 < group <= LARGEST_GROUP and group * filters == lane_width and group % 2 == 0
    return group if fits and width is not None and width % group == 0 else 1


def _add_bias(layer: keras.layers.Layer, x: tf.Tensor, group: int) -> tf.Tensor:
    if not layer.use_bias:
        return x
    return x + tf.tile(tf.cast(layer.bias, x.dtype), [group])


def _width(value: Packed) -> int | None:
    """Returns the width of the images in pixels; None for other tensors."""
    shape = value.parts[0].shape
    return shape[-2] * value.group if len(shape) > 3 and shape[-2] is not None else None


def _concat(parts: Sequence[tf.Tensor]) -> tf.Tensor:
    return parts[0] if len(parts) == 1 else tf.concat(parts, axis=-1)


def _regroup(value: Packed, group: int) -> Packed:
    """Packs by another number of pixels."""
    if value.group == group:
        return value
    parts = []
    for part in value.parts:
        shape = tf.shape(part)
        before = len(part.shape) - 2
        width = shape[before] if part.shape[before] is None else part.shape[before]
        channels = part.shape[-1] // value.group * group
        rows = [shape[axis] for axis in range(before)]
        packed_part = tf.reshape(part, (*rows, width * value.group // group, channels))
        parts.append(tf.ensure_shape(packed_part, (*part.shape[:before], None, channels)))
    return Packed(tuple(parts), group)


def _join(value: Packed) -> Packed:
    """Makes one part of several."""
    if len(value.parts) == 1:
        return value
    return _regroup(Packed((_unpack(value),)), value.group)


def _unpack(value: Packed) -> tf.Tensor:
    return _concat(_regroup(value, 1).parts)
