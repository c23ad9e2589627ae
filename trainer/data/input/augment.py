"""Random crops and augmentation inside the graph: a function of image, mask and key.

All geometric operations of a row are one map from the crop's pixels into the image,

    source(p) = centre + M (p + d(p))          p: a pixel, counted from the crop's middle

with M the product of the operations' matrices and d the sum of their displacements, so the image is
sampled once and only where the crop needs it. Images are interpolated bilinearly, masks take the
nearest pixel. Beyond its edges an image is mirrored and its mask is IGNORE: only pixels which
were really annotated count.

Operations on the crop itself follow, once it is normalised: those of image and mask, then those of
the image alone.

Each operation is a function of 18 numbers, uniform in [0, 1), and all of an example's numbers are
draws from keys (int64 [2]) by the Philox algorithm: equal keys give equal crops, eagerly and inside
tf.data. `python docs/draw_augmentations.py` draws what each operation does.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from trainer.ignore_label import IGNORE

NUMBERS = 18  # that an operation gets; one more decides whether it acts


class Op(NamedTuple):
    """An operation and how often it acts."""

    apply: Callable[..., tf.Tensor]
    probability: float = 1.0


class Augmentation(NamedTuple):
    """A row of operations, by what they give; each kind acts in the order written.

    Attributes:
        matrices: (numbers) → float32 [2, 2]. Image and mask move together.
        displacements: (numbers, crop) → float32 [crop, crop, 2], in pixels. They move together.
        transforms: (numbers, image, mask) → (image, mask), float32 [H, W, C] and uint8 [H, W]; the
            mask is IGNORE where a pixel must not count.
        intensities: (numbers, image) → image, float32 [H, W, C]. The mask stays.
    """

    matrices: tuple[Op, ...] = ()
    displacements: tuple[Op, ...] = ()
    transforms: tuple[Op, ...] = ()
    intensities: tuple[Op, ...] = ()


# Geometry -----------------------------------------------------------------------------------------


def flip(numbers: tf.Tensor) -> tf.Tensor:
    """Mirrors upside down, left to right, both or neither, each with the same chance."""
    return tf.linalg.diag(tf.where(numbers[:2] < 0.5, -1.0, 1.0))


def turn(numbers: tf.Tensor) -> tf.Tensor:
    """Turns by 0, 90, 180 or 270 degrees."""
    quarter_turns = tf.constant(
        [[[1, 0], [0, 1]], [[0, -1], [1, 0]], [[-1, 0], [0, -1]], [[0, 1], [-1, 0]]], tf.float32
    )
    return quarter_turns[tf.cast(numbers[0] * 4, tf.int32)]


def rotate_and_scale(numbers: tf.Tensor, degrees: float, scale: float) -> tf.Tensor:
    """Rotates by up to ±degrees and scales by a factor in [1 / scale, scale], even in its log."""
    angle = _between(numbers[0], -math.radians(degrees), math.radians(degrees))
    factor = tf.exp(_between(numbers[1], -math.log(scale), math.log(scale)))
    cos, sin = tf.cos(angle), tf.sin(angle)
    return factor * tf.stack([[cos, -sin], [sin, cos]])


def elastic(numbers: tf.Tensor, crop: int) -> tf.Tensor:
    """Displaces smoothly: random vectors on a 3×3 grid, bicubic in between.

    The vectors are Gaussian with a standard deviation of 10 pixels (Ronneberger et al., 2015,
    section 3.1). On crops below 240 it is crop / 24, so that the image does not fold over.
    """
    gaussian = tf.math.ndtri(numbers + 2.0**-24)  # the numbers are multiples of 2^-23: never 0, 1
    vectors = tf.reshape(gaussian, [3, 3, 2]) * min(10.0, crop / 24)
    return tf.image.resize(vectors, [crop, crop], "bicubic")


# Intensity ----------------------------------------------------------------------------------------
# Strengths are relative to the crop's own spread, so that they mean the same under every
# normalisation. The ranges of contrast, gamma and blur are nnU-Net's (Isensee et al., 2021).


def brightness(numbers: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    """Adds up to ±0.3 standard deviations."""
    return image + _between(numbers[0], -0.3, 0.3) * tf.math.reduce_std(image)


def contrast(numbers: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    """Stretches by 0.75 to 1.25 about the mean."""
    factor = _between(numbers[0], 0.75, 1.25)
    return image * factor + tf.reduce_mean(image) * (1 - factor)


def gamma(numbers: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    """Raises to a power in 0.7 to 1.5 between the least and the greatest value, which stay."""
    low, high = tf.reduce_min(image), tf.reduce_max(image)
    unit = tf.math.divide_no_nan(image - low, high - low)
    # exp(log) takes a quarter of the time of tf.pow; the floor keeps log finite.
    power = tf.exp(_between(numbers[0], 0.7, 1.5) * tf.math.log(tf.maximum(unit, 1e-30)))
    return power * (high - low) + low


def noise(numbers: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    """Adds Gaussian noise of up to 0.3 standard deviations."""
    size = _between(numbers[0], 0.0, 0.3) * tf.math.reduce_std(image)
    key = tf.bitcast(numbers[1:3], tf.int32)  # a number for each pixel takes a draw of its own
    return image + size * tf.random.stateless_normal(tf.shape(image), key, alg="philox")


def blur(numbers: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    """Smooths by a Gaussian of 0.5 to 1.5 pixels."""
    weights = tf.exp(-0.5 * (tf.range(-4.0, 5.0) / _between(numbers[0], 0.5, 1.5)) ** 2)
    weights /= tf.reduce_sum(weights)
    for _ in range(2):  # along rows, then along columns
        image = tf.transpose(_smooth_rows(image, weights), [1, 0, 2])
    return image


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": Augmentation(),
    "flip": Augmentation(matrices=(Op(flip),)),
    "standard": Augmentation(
        matrices=(
            Op(flip),
            Op(turn),
            Op(functools.partial(rotate_and_scale, degrees=15, scale=1.2), 0.3),
        ),
        intensities=(Op(brightness, 0.3), Op(contrast, 0.3), Op(gamma, 0.3)),
    ),
    "strong": Augmentation(
        matrices=(
            Op(flip),
            Op(turn),
            Op(functools.partial(rotate_and_scale, degrees=45, scale=1.4), 0.6),
        ),
        displacements=(Op(elastic, 0.5),),
        intensities=(
            Op(blur, 0.2),
            Op(brightness, 0.5),
            Op(contrast, 0.5),
            Op(gamma, 0.5),
            Op(noise, 0.3),
        ),
    ),
}


# Applying a row -----------------------------------------------------------------------------------


def crop_randomly(
    image: tf.Tensor, mask: tf.Tensor, key: tf.Tensor, crop: int, row: Augmentation
) -> tuple[tf.Tensor, tf.Tensor]:
    """Cuts a square at a random place, moved, turned and bent as the row says.

    The place is uniform over those where the crop is inside the image; a side shorter than the
    crop is at a random place within it.

    Args:
        image: [H, W, C] of any real dtype.
        mask: uint8 [H, W], IGNORE where a pixel must not count.
        key: int64 [2].
        crop: side of the crop.
        row: a value of AUGMENTATIONS.

    Returns:
        float32 [crop, crop, C] and uint8 [crop, crop].
    """
    numbers = _draw(key, 1 + len(row.matrices) + len(row.displacements))
    spare = tf.shape(image)[:2] - crop
    low, high = tf.minimum(spare, 0), tf.maximum(spare, 0)
    places = tf.cast(high - low + 1, tf.float32)
    corner = low + tf.cast(numbers[0][:2] * places, tf.int32)
    centre = tf.cast(corner, tf.float32) + (crop - 1) / 2

    matrix = tf.eye(2)
    for op, some in zip(row.matrices, numbers[1:], strict=False):
        change = tf.cond(_acts(op, some), functools.partial(op.apply, some[1:]), lambda: tf.eye(2))
        matrix = tf.linalg.matmul(matrix, change)
    displacements = list(zip(row.displacements, numbers[1 + len(row.matrices) :], strict=True))

    # Flips and quarter turns map pixels onto pixels: whole rows and columns, no interpolation.
    on_pixels = tf.reduce_all(tf.logical_or(matrix == 0.0, tf.abs(matrix) == 1.0))
    bent = tf.reduce_any([_acts(op, some) for op, some in displacements] or [False])
    return tf.cond(
        tf.logical_and(on_pixels, tf.logical_not(bent)),
        lambda: _take_lines(image, mask, centre, matrix, crop),
        lambda: _interpolate(image, mask, _sources(centre, matrix, displacements, crop)),
    )


def adjust(
    image: tf.Tensor, mask: tf.Tensor, key: tf.Tensor, row: Augmentation
) -> tuple[tf.Tensor, tf.Tensor]:
    """Applies the row's transforms and intensities to a normalised crop.

    Args:
        image: float32 [H, W, C].
        mask: uint8 [H, W], IGNORE where a pixel must not count.
        key: int64 [2].
        row: a value of AUGMENTATIONS.

    Returns:
        The image and the mask, of the same shapes and dtypes.
    """
    numbers = _draw(key, len(row.transforms) + len(row.intensities))
    for op, some in zip(row.transforms, numbers, strict=False):
        image, mask = tf.cond(
            _acts(op, some),
            functools.partial(op.apply, some[1:], image, mask),
            lambda image=image, mask=mask: (tf.identity(image), tf.identity(mask)),
        )
    for op, some in zip(row.intensities, numbers[len(row.transforms) :], strict=True):
        image = tf.cond(
            _acts(op, some),
            functools.partial(op.apply, some[1:], image),
            functools.partial(tf.identity, image),
        )
    return image, mask


def mirror(index: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Folds int32 indices into [0, size) by reflection, without repeating the first and the last.

    Indices any number of sizes away are folded as often as needed, so `tf.gather` with them pads
    an image by more than its own size, which `tf.pad` cannot.
    """
    period = tf.maximum(2 * (size - 1), 1)
    index = tf.math.floormod(index, period)
    return tf.minimum(index, period - index)


def _take_lines(image, mask, centre, matrix, crop):
    """Samples under a matrix of one ±1 per row and column: gathers rows, then columns."""
    line = tf.range(crop, dtype=tf.float32) - (crop - 1) / 2
    row, column = tf.unstack(
        tf.cast(centre[:, tf.newaxis] + tf.reduce_sum(matrix, 1)[:, tf.newaxis] * line, tf.int32)
    )
    height, width = tf.unstack(tf.shape(mask))
    rows, columns = mirror(row, height), mirror(column, width)
    inside = tf.logical_and((row == rows)[:, tf.newaxis], (column == columns)[tf.newaxis])
    image = tf.gather(tf.gather(image, rows), columns, axis=1)
    mask = tf.where(inside, tf.gather(tf.gather(mask, rows), columns, axis=1), IGNORE)
    image, mask = tf.cond(
        matrix[0, 0] == 0.0,
        lambda: (tf.transpose(image, [1, 0, 2]), tf.transpose(mask)),
        lambda: (image, mask),
    )
    return tf.cast(image, tf.float32), mask


def _sources(centre, matrix, displacements, crop):
    """Returns the place of each pixel of the crop in the image: (rows, columns), float32."""
    line = tf.range(crop, dtype=tf.float32) - (crop - 1) / 2
    y, x = line[:, tf.newaxis], line[tf.newaxis]
    for op, some in displacements:
        change = tf.cond(
            _acts(op, some),
            functools.partial(op.apply, some[1:], crop),
            lambda: tf.zeros([crop, crop, 2]),
        )
        y, x = y + change[..., 0], x + change[..., 1]
    rows = centre[0] + matrix[0, 0] * y + matrix[0, 1] * x
    columns = centre[1] + matrix[1, 0] * y + matrix[1, 1] * x
    return rows, columns


def _interpolate(image, mask, sources):
    """Samples at any positions: images bilinearly, masks from the nearest pixel."""
    rows, columns = sources
    height, width = tf.unstack(tf.shape(mask))
    pixels = tf.reshape(image, [-1, image.shape[-1]])
    top, left = tf.floor(rows), tf.floor(columns)
    down, right = (rows - top)[..., tf.newaxis], (columns - left)[..., tf.newaxis]
    top, left = tf.cast(top, tf.int32), tf.cast(left, tf.int32)
    line_above, line_below = (mirror(y, height) * width for y in (top, top + 1))
    left, right_of_it = mirror(left, width), mirror(left + 1, width)

    def between_columns(line):
        near = tf.cast(tf.gather(pixels, line + left), tf.float32)
        far = tf.cast(tf.gather(pixels, line + right_of_it), tf.float32)
        return near + (far - near) * right

    above, below = between_columns(line_above), between_columns(line_below)

    row, column = tf.cast(tf.round(rows), tf.int32), tf.cast(tf.round(columns), tf.int32)
    inside_row, inside_column = mirror(row, height), mirror(column, width)
    inside = tf.logical_and(row == inside_row, column == inside_column)
    nearest = tf.gather(tf.reshape(mask, [-1]), inside_row * width + inside_column)
    return above + (below - above) * down, tf.where(inside, nearest, IGNORE)


def _smooth_rows(image, weights):
    """Convolves along the rows' axis with an odd number of weights, mirrored at the edges."""
    reach, height = weights.shape[0] // 2, tf.shape(image)[0]
    padded = tf.gather(image, mirror(tf.range(-reach, height + reach), height))
    terms = [weights[k] * padded[k : k + height] for k in range(weights.shape[0])]
    return tf.ensure_shape(tf.add_n(terms), image.shape)


def _draw(key: tf.Tensor, rows: int) -> list[tf.Tensor]:
    """Returns the numbers of some operations, float32 [1 + NUMBERS] each."""
    return tf.unstack(tf.random.stateless_uniform([rows, 1 + NUMBERS], key, alg="philox"))


def _acts(op: Op, numbers: tf.Tensor) -> tf.Tensor:
    """Decides by the first of its numbers whether an operation acts; it gets the others."""
    return numbers[0] < op.probability


def _between(number: tf.Tensor, low: float, high: float) -> tf.Tensor:
    return low + (high - low) * number
