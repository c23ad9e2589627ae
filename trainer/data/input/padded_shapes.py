"""The shapes to which images are padded: their own, rounded up, or a few that serve all.

A network is traced, and for a GPU or TPU compiled, once for each shape. Which shape an image is in
changes no result, see `models.partial_images`.
"""

import collections
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.data.input import augment

PADDED_SIDE = 64  # sides are padded to multiples of it, so that few shapes occur
MOST = 8  # shapes in which a split's images are predicted

Shape = tuple[int, ...]


def padded_to(stride: int) -> int:
    """Returns what the sides of evaluated images are multiples of, for a model's stride."""
    return math.lcm(PADDED_SIDE, stride)


def own(sizes: Any, stride: int) -> Any:
    """Returns the shapes that images are mirrored to: their sides, rounded up.

    Args:
        sizes: integers [..., 2], heights and widths, of NumPy or TensorFlow.
        stride: of the model.
    """
    multiple = padded_to(stride)
    return -(-sizes // multiple) * multiple


def mirrored(image: tf.Tensor, multiple: int) -> tf.Tensor:
    """Mirrors an image [H, W, C] at the bottom and the right, up to multiples of a number."""
    height, width = tf.unstack(tf.shape(image)[:2])
    rows = augment.mirror(tf.range(-(-height // multiple) * multiple), height)
    columns = augment.mirror(tf.range(-(-width // multiple) * multiple), width)
    return tf.gather(tf.gather(image, rows), columns, axis=1)


def few(counts: collections.Counter[Shape], most: int) -> list[Shape]:
    """Returns shapes of which the smallest that covers an image serves it; all, if they are few.

    As long as they are more, the two whose union pads the fewest pixels become one.

    Args:
        counts: number of images of each shape (H, W).
        most: of the shapes that are returned.
    """
    shapes = np.array(sorted(counts), np.int64).reshape(-1, 2)
    number = np.array([counts[shape] for shape in sorted(counts)], np.int64)
    while len(shapes) > most:
        union = np.maximum(shapes[:, np.newaxis], shapes)
        pixels = number * shapes.prod(axis=1)
        added = (number[:, np.newaxis] + number) * union.prod(axis=2)
        added -= pixels[:, np.newaxis] + pixels
        np.fill_diagonal(added, np.iinfo(np.int64).max)
        one, other = sorted(divmod(int(added.argmin()), len(shapes)))
        shapes[one] = union[one, other]
        number[one] += number[other]
        shapes, number = np.delete(shapes, other, 0), np.delete(number, other)
    return sorted({tuple(shape) for shape in shapes.tolist()})


def covering(shapes: Sequence[Shape], own: Any) -> tf.Tensor:
    """Returns the smallest of some shapes that covers each image, or the image's own if none does.

    Args:
        shapes: (H, W) of each.
        own: integers [..., 2], the images' own shapes.

    Returns:
        int32 [..., 2].
    """
    own = tf.cast(own, tf.int32)
    if not shapes:
        return own
    smallest_first = tf.constant(sorted(shapes, key=lambda shape: (math.prod(shape), shape)))
    covers = tf.reduce_all(smallest_first >= own[..., tf.newaxis, :], axis=-1)
    first = tf.argmax(covers, axis=-1)  # of equal ones, the first
    found = tf.gather(smallest_first, first)
    return tf.where(tf.reduce_any(covers, axis=-1, keepdims=True), found, own)
