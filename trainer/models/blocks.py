"""The parts that networks here are made of: functions of tensors, and the few layers of our own."""

import math

import keras
import tensorflow as tf

from trainer.models.norms import normalize

# The initialisation of the U-Net paper (section 3): it keeps the variance through ReLU layers.
INITIALIZER = "he_normal"


def convolve(x, filters, kernel_size, norm, padding="same"):
    """Applies a convolution and its normalisation.

    The convolution has a bias only where no normalisation follows: each of ours has its own shift.
    """
    x = keras.layers.Conv2D(
        filters,
        kernel_size,
        padding=padding,
        use_bias=norm == "none",
        kernel_initializer=INITIALIZER,
    )(x)
    return normalize(x, norm)


def conv_block(
    x, filters, *, kernel_size=3, activation="relu", padding="same", norm="batch", residual=False
):
    """Applies two convolutions, each followed by normalisation and activation.

    Args:
        x: [B, H, W, C].
        filters: channels of the result.
        kernel_size: side of both kernels.
        activation: name of a Keras activation.
        padding: "same" or "valid"; "valid" takes kernel_size - 1 pixels off per convolution.
        norm: a row of NORMS.
        residual: adds a 1x1 projection of `x` before the last activation (He et al., 2015).

    Returns:
        [B, H', W', filters].
    """
    y = convolve(x, filters, kernel_size, norm, padding)
    y = keras.layers.Activation(activation)(y)
    y = convolve(y, filters, kernel_size, norm, padding)
    if residual:
        shortcut = convolve(crop_center(x, y), filters, 1, norm)
        y = keras.layers.Add()([shortcut, y])
    return keras.layers.Activation(activation)(y)


def up_conv(x, filters, *, activation="relu", norm="batch", upsampling="transpose"):
    """Doubles height and width: [B, H, W, C] -> [B, 2H, 2W, filters].

    "transpose" is a 2x2 transposed convolution with stride 2. "bilinear" interpolates what a
    1x1 convolution made: the two commute, and this order convolves a quarter of the pixels.
    """
    if upsampling == "bilinear":
        x = keras.layers.Activation(activation)(convolve(x, filters, 1, norm))
        return keras.layers.UpSampling2D(interpolation="bilinear")(x)
    x = keras.layers.Conv2DTranspose(
        filters,
        kernel_size=2,
        strides=2,
        use_bias=norm == "none",
        kernel_initializer=INITIALIZER,
    )(x)
    return keras.layers.Activation(activation)(normalize(x, norm))


def attention_gate(skip, signal, *, norm="batch"):
    """Weighs each pixel of a skip connection by its accord with the decoder (Oktay et al., 2018).

    Args:
        skip: [B, H, W, C], the encoder's features.
        signal: [B, H, W, D], the decoder's, already at the same resolution.
        norm: a row of NORMS, for the two projections.

    Returns:
        [B, H, W, C], `skip` times a factor in (0, 1) per pixel.
    """
    filters = max(1, skip.shape[-1] // 2)
    projections = [convolve(skip, filters, 1, norm), convolve(signal, filters, 1, norm)]
    x = keras.layers.Activation("relu")(keras.layers.Add()(projections))
    factor = keras.layers.Conv2D(1, 1, activation="sigmoid")(x)
    return keras.layers.Multiply()([skip, factor])


def crop_center(x, like):
    """Crops [B, H, W, C] centrally to the height and width of `like`; both must be static."""
    height, width = x.shape[1:3]
    if (height, width) == tuple(like.shape[1:3]):
        return x
    rows, columns = height - like.shape[1], width - like.shape[2]
    margins = ((rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2))
    return keras.layers.Cropping2D(margins)(x)


def pad_to_stride(x, stride):
    """Pads [B, H, W, C] with zeros, below and right, to multiples of `stride`.

    Static sizes take a layer of Keras, or none where nothing is missing; sizes known only at run
    time take a layer of ours.
    """
    height, width = x.shape[1:3]
    if height is None or width is None:
        return PadToStride(stride)(x)
    missing = (-height % stride, -width % stride)
    if missing == (0, 0):
        return x
    return keras.layers.ZeroPadding2D(((0, missing[0]), (0, missing[1])))(x)


def crop_to(x, like):
    """Undoes `pad_to_stride`: keeps the top left of `x`, as high and wide as `like`."""
    height, width = like.shape[1:3]
    if height is None or width is None:
        return CropTo()(x, like)
    extra = (x.shape[1] - height, x.shape[2] - width)
    if extra == (0, 0):
        return x
    return keras.layers.Cropping2D(((0, extra[0]), (0, extra[1])))(x)


@keras.saving.register_keras_serializable("trainer")
class PadToStride(keras.layers.Layer):
    """Pads height and width, where known only at run time, to multiples of `stride`."""

    def __init__(self, stride, **kwargs):
        """Takes the stride, in pixels."""
        super().__init__(**kwargs)
        self.stride = stride

    def call(self, inputs):
        """Returns [B, H', W', C], zeros below and right of the inputs."""
        missing = [-size % self.stride for size in _sizes(inputs)]
        if all(isinstance(size, int) and size == 0 for size in missing):
            return inputs
        return tf.pad(inputs, [[0, 0], [0, missing[0]], [0, missing[1]], [0, 0]])

    def compute_output_shape(self, input_shape):
        """Rounds height and width up."""
        sizes = [size and math.ceil(size / self.stride) * self.stride for size in input_shape[1:3]]
        return (input_shape[0], *sizes, input_shape[3])

    def get_config(self):
        """Returns what `__init__` takes."""
        return {**super().get_config(), "stride": self.stride}


@keras.saving.register_keras_serializable("trainer")
class CropTo(keras.layers.Layer):
    """Keeps the top left of its first input, as high and wide as the second."""

    def call(self, inputs, like):
        """Returns [B, H, W, C] with the height and width of `like`."""
        if like.shape[1:3].is_fully_defined() and like.shape[1:3] == inputs.shape[1:3]:
            return inputs
        height, width = _sizes(like)
        return inputs[:, :height, :width]

    def compute_output_shape(self, inputs_shape, like_shape):
        """Takes height and width of `like`, the rest of the first input."""
        return (inputs_shape[0], *like_shape[1:3], inputs_shape[3])


def _sizes(x):
    """Returns height and width of [B, H, W, C]: integers where static, else scalar tensors."""
    dynamic = tf.shape(x)
    return [dynamic[axis] if x.shape[axis] is None else x.shape[axis] for axis in (1, 2)]
