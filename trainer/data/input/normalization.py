"""Normalisation of images: the same function in training, evaluation, prediction and export."""

from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

Figures = tuple[tf.Tensor, tf.Tensor]


def normalize(
    image: tf.Tensor, kind: str, mean: Sequence[float], std: Sequence[float]
) -> tf.Tensor:
    """Returns the image in the units that the model sees.

    Args:
        image: [H, W, C] or [B, H, W, C], in stored units and before any padding.
        kind: a key of NORMALIZATIONS.
        mean: of each channel of the training split, in stored units (the manifest's).
        std: as `mean`.

    Returns:
        float32, of the same shape.
    """
    offset, scale = NORMALIZATIONS[kind](image, mean, std)
    return rescale(tf.cast(image, tf.float32), offset, scale)


def rescale(image: tf.Tensor, offset: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """Returns (image - offset) / scale, float32; 0 where a channel does not vary (scale 0).

    Args:
        image: float32 [H, W, C] or [B, H, W, C], or a crop of the image that the figures are of.
        offset: float32 [1, C] or [B, 1, 1, C], one of the NORMALIZATIONS' results.
        scale: as `offset`.
    """
    return tf.math.divide_no_nan(image - _line(offset, image), _line(scale, image))


def _line(figure: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    """Repeats one figure a channel over a line of the image, [..., 1, C] to [..., W, C].

    Arithmetic of an image with a line takes a quarter of the time of that with a pixel.
    """
    return tf.repeat(figure, tf.shape(image)[-2], axis=-2)


def _by_image(image: tf.Tensor, mean: Sequence[float], std: Sequence[float]) -> Figures:
    """Zero mean and unit variance of each channel of each image."""
    image = tf.cast(image, tf.float32)
    # Measured from one pixel: exact for a constant channel, and more so for small variations
    # about large values, which float32 sums would lose.
    origin = image[..., :1, :1, :]
    offset = origin + _mean_of_pixels(image - _line(origin, image))
    variance = _mean_of_pixels(tf.math.squared_difference(image, _line(offset, image)))
    return offset, tf.sqrt(variance)


def _mean_of_pixels(image: tf.Tensor) -> tf.Tensor:
    """Returns float32 [..., 1, 1, C]; column by column first, faster and with shorter sums."""
    columns = tf.reduce_mean(image, axis=-3, keepdims=True)
    return tf.reduce_mean(columns, axis=-2, keepdims=True)


def _by_dataset(image: tf.Tensor, mean: Sequence[float], std: Sequence[float]) -> Figures:
    """Zero mean and unit variance of each channel over the training split."""
    return tf.constant([mean], tf.float32), tf.constant([std], tf.float32)


def _by_dtype(image: tf.Tensor, mean: Sequence[float], std: Sequence[float]) -> Figures:
    """The range of an integer type becomes [0, 1]; float32 stays as it is."""
    dtype = tf.as_dtype(image.dtype)
    highest = float(dtype.max) if dtype.is_integer else 1.0
    shape = [1, image.shape[-1]]
    return tf.zeros(shape), tf.fill(shape, highest)


NORMALIZATIONS: Mapping[str, Callable[[tf.Tensor, Sequence[float], Sequence[float]], Figures]] = {
    "image": _by_image,
    "dataset": _by_dataset,
    "none": _by_dtype,
}
