"""The parts that networks here are made of: functions of tensors, and the few layers of our own.

They take images [B, H, W, C] and volumes [B, D, H, W, C] alike, by the rank of the tensor (see
`axes`).
"""

import math

import keras
import tensorflow as tf

from trainer.models import axes, layers
from trainer.models.norms import normalize

# The initialisation of the U-Net paper (section 3): it keeps the variance through ReLU layers.
INITIALIZER = "he_normal"


def convolve(x, filters, kernel_size, norm, padding="same", stride=1):
    """Applies a convolution and its normalisation.

    The convolution has a bias only where no normalisation follows: each of ours has its own shift.
    """
    x = layers.CONVOLUTION[axes.rank_of(x)](
        filters,
        kernel_size,
        strides=stride,
        padding=padding,
        use_bias=norm == "none",
        kernel_initializer=INITIALIZER,
    )(x)
    return normalize(x, norm)


def conv_block(
    x,
    filters,
    *,
    kernel_size=3,
    number=2,
    activation="relu",
    padding="same",
    norm="batch",
    residual=False,
):
    """Applies convolutions, each followed by normalisation and activation.

    Args:
        x: [B, *S, C].
        filters: channels of the result.
        kernel_size: side of all kernels, or their sides along each axis.
        number: of convolutions.
        activation: name of a Keras activation.
        padding: "same" or "valid"; "valid" takes kernel_size - 1 pixels off per convolution.
        norm: a row of NORMS.
        residual: adds a 1x1 projection of `x` before the last activation (He et al., 2015).

    Returns:
        [B, *S', filters].
    """
    y = convolve(x, filters, kernel_size, norm, padding)
    for _ in range(number - 1):
        y = keras.layers.Activation(activation)(y)
        y = convolve(y, filters, kernel_size, norm, padding)
    if residual:
        shortcut = convolve(crop_center(x, y), filters, 1, norm)
        y = keras.layers.Add()([shortcut, y])
    return keras.layers.Activation(activation)(y)


def residual_block(x, filters, *, kernel_size=3, stride=1, activation="relu", norm="batch"):
    """Adds two convolutions to their input (He et al., 2015), the first with a stride.

    As in ResNet-D, the input is averaged over each stride and then projected to the number of
    channels, each only where it is another (He et al., 2019; nnU-Net's BasicBlockD).

    Args:
        x: [B, *S, C].
        filters: channels of the result.
        kernel_size: side of both kernels, or their sides along each axis.
        stride: by which the resolution is reduced, or one for each axis.
        activation: name of a Keras activation.
        norm: a row of NORMS.

    Returns:
        [B, *S / stride, filters].
    """
    y = convolve(x, filters, kernel_size, norm, stride=stride)
    y = keras.layers.Activation(activation)(y)
    y = convolve(y, filters, kernel_size, norm)
    if max(axes.along(stride, axes.rank_of(x))) > 1:
        x = _pool(layers.AVERAGE_POOLING, x, stride)
    if x.shape[-1] != filters:
        x = convolve(x, filters, 1, norm)
    return keras.layers.Activation(activation)(keras.layers.Add()([x, y]))


def up_conv(x, filters, *, stride=2, activation="relu", norm="batch", upsampling="transpose"):
    """Multiplies each spatial axis: [B, *S, C] -> [B, stride * S, filters].

    "transpose" is a transposed convolution whose kernel is as large as its stride, a number or one
    for each axis. "bilinear", of images only, interpolates what a 1x1 convolution made: the two
    commute, and this order convolves a quarter of the pixels.
    """
    if upsampling == "bilinear":
        x = keras.layers.Activation(activation)(convolve(x, filters, 1, norm))
        return keras.layers.UpSampling2D(stride, interpolation="bilinear")(x)
    x = layers.TRANSPOSED_CONVOLUTION[axes.rank_of(x)](
        filters,
        kernel_size=stride,
        strides=stride,
        use_bias=norm == "none",
        kernel_initializer=INITIALIZER,
    )(x)
    return keras.layers.Activation(activation)(normalize(x, norm))


def head(x, num_classes, name):
    """Returns the logits of [B, *S, C], a 1x1 convolution: float32 [B, *S, num_classes].

    They are float32 whatever the precision: a loss of bfloat16 logits would have three digits.
    """
    convolution = layers.CONVOLUTION[axes.rank_of(x)]
    return convolution(num_classes, 1, dtype="float32", name=name)(x)


def max_pool(x, size):
    """Keeps the largest of each `size` pixels, a number or one for each axis of [B, *S, C]."""
    return _pool(layers.MAX_POOLING, x, size)


def _pool(kinds, x, size):
    """Pools [B, *S, C] by the layer of its rank."""
    rank = axes.rank_of(x)
    # TensorFlow has no 3-D pooling in float16 on a CPU; in float32 the largest is the same number.
    in_half = keras.mixed_precision.dtype_policy().compute_dtype == "float16"
    return kinds[rank](size, dtype="float32" if rank == 3 and in_half else None)(x)


def attention_gate(skip, signal, *, norm="batch"):
    """Weights the pixels of a skip connection by agreement with the decoder (Oktay et al., 2018).

    Args:
        skip: [B, *S, C], the encoder's features.
        signal: [B, *S, C'], the decoder's, already at the same resolution.
        norm: a row of NORMS, for the two projections.

    Returns:
        [B, *S, C], `skip` times a factor in (0, 1) per pixel.
    """
    filters = max(1, skip.shape[-1] // 2)
    projections = [convolve(skip, filters, 1, norm), convolve(signal, filters, 1, norm)]
    x = keras.layers.Activation("relu")(keras.layers.Add()(projections))
    factor = layers.CONVOLUTION[axes.rank_of(x)](1, 1, activation="sigmoid")(x)
    return keras.layers.Multiply()([skip, factor])


def crop_center(x, like):
    """Crops [B, *S, C] centrally to the sizes of `like`; all must be static, or the same."""
    if x.shape[1:-1] == like.shape[1:-1]:
        return x
    margins = tuple((extra // 2, extra - extra // 2) for extra in _differences(x, like))
    return layers.CROPPING[axes.rank_of(x)](margins)(x)


def pad_to_stride(x, stride):
    """Pads the end of each spatial axis of [B, *S, C] with zeros to a multiple of `stride`.

    The stride is a number, or one for each axis. Static sizes of images take a layer of Keras, or
    none if nothing is missing; volumes and sizes known only at run time take our own layer.
    """
    rank = axes.rank_of(x)
    if None in x.shape[1:-1]:
        return PadToStride(stride)(x)
    strides = axes.along(stride, rank)
    missing = [-size % step for size, step in zip(x.shape[1:-1], strides, strict=True)]
    if not any(missing):
        return x
    if rank == 3:
        return PadToStride(stride)(x)
    return layers.ZERO_PADDING[rank](tuple((0, number) for number in missing))(x)


def crop_to(x, like):
    """Undoes `pad_to_stride`: keeps the beginning of each spatial axis, as long as in `like`."""
    if None in like.shape[1:-1]:
        return CropTo()(x, like)
    if x.shape[1:-1] == like.shape[1:-1]:
        return x
    margins = tuple((0, extra) for extra in _differences(x, like))
    return layers.CROPPING[axes.rank_of(x)](margins)(x)


def _differences(x, like):
    """Returns by how much each spatial axis of `x` is longer than that of `like`."""
    return [one - other for one, other in zip(x.shape[1:-1], like.shape[1:-1], strict=True)]


@keras.saving.register_keras_serializable("trainer")
class PadToStride(keras.layers.Layer):
    """Pads the spatial axes to multiples of `stride`.

    Of a Pad and a 3-D convolution TensorFlow makes one operation in a graph (2.21), which forgets
    that "same" is to pad as well; it leaves a PadV2 alone, whose zeros are an argument.
    """

    def __init__(self, stride, **kwargs):
        """Takes the stride in pixels, of all axes or of each."""
        super().__init__(**kwargs)
        self.stride = stride

    def call(self, inputs):
        """Returns [B, *S', C], with zeros at the end of each axis."""
        sizes = axes.sizes(inputs)
        strides = axes.along(self.stride, len(sizes))
        missing = [-size % step for size, step in zip(sizes, strides, strict=True)]
        if all(isinstance(size, int) and size == 0 for size in missing):
            return inputs
        paddings = [[0, 0], *([0, size] for size in missing), [0, 0]]
        if len(sizes) == 2:
            return tf.pad(inputs, paddings)
        zero = tf.zeros([], inputs.dtype)
        return tf.raw_ops.PadV2(input=inputs, paddings=paddings, constant_values=zero)

    def compute_output_shape(self, input_shape):
        """Rounds the spatial sizes up."""
        batch, *sizes, channels = input_shape
        strides = axes.along(self.stride, len(sizes))
        padded = [
            size and math.ceil(size / step) * step
            for size, step in zip(sizes, strides, strict=True)
        ]
        return (batch, *padded, channels)

    def get_config(self):
        """Returns the arguments of `__init__`."""
        return {**super().get_config(), "stride": self.stride}


@keras.saving.register_keras_serializable("trainer")
class CropTo(keras.layers.Layer):
    """Keeps the beginning of each spatial axis of its first input, as long as in the second."""

    def call(self, inputs, like):
        """Returns [B, *S, C] with the sizes of `like`."""
        wanted = like.shape[1:-1]
        if wanted.is_fully_defined() and wanted == inputs.shape[1:-1]:
            return inputs
        return inputs[(slice(None), *(slice(size) for size in axes.sizes(like)))]

    def compute_output_shape(self, inputs_shape, like_shape):
        """Takes the spatial sizes of `like`, the rest of the first input."""
        return (inputs_shape[0], *like_shape[1:-1], inputs_shape[-1])
