"""The shapes to which images are padded: their own, rounded up, or a few that serve all.

A network is traced, and for a GPU or TPU compiled, once for each shape. Which shape an image is in
changes no result, see `models.partial_images`.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.data.input import augment

PADDED_SIDE = 64  # sides are padded to multiples of it, so that few shapes occur
MOST = 8  # shapes in which a split's images are predicted
FINEST = 256  # shapes among which these are sought: more take seconds

Shape = tuple[int, int]


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


def few(own: np.ndarray, counts: np.ndarray, batch_size: int, most: int) -> list[Shape]:
    """Returns shapes that serve all images, each image in the smallest that covers it.

    Shapes become one, two by two, those first that add the fewest pixels to what is computed, until
    they are few and one less would add some. More than FINEST are rounded up before.

    Args:
        own: integers [N, 2], shapes of images.
        counts: integers [N], images of each.
        batch_size: images of a shape that are predicted at once; the last ones are filled up.
        most: of the shapes that are returned; 0: any number.

    Returns:
        (H, W) of each; none if all images are to be predicted in their own.
    """
    rounded, step = own, np.gcd.reduce(own, axis=None)
    while most and len(np.unique(rounded, axis=0)) > max(FINEST, most):
        step *= 2
        rounded = np.minimum(-(-own // step) * step, own.max(axis=0))
    shapes, places = np.unique(rounded, axis=0, return_inverse=True)
    number = np.bincount(places.ravel(), counts, len(shapes)).astype(np.int64)
    while most and len(shapes) > 1:
        union = np.maximum(shapes[:, np.newaxis], shapes)
        pixels = _filled(number, batch_size) * shapes.prod(axis=1)
        added = _filled(number[:, np.newaxis] + number, batch_size) * union.prod(axis=2)
        added -= pixels[:, np.newaxis] + pixels
        np.fill_diagonal(added, np.iinfo(np.int64).max)
        if len(shapes) <= most and added.min() >= 0:
            break
        one, other = sorted(divmod(int(added.argmin()), len(shapes)))
        shapes[one] = union[one, other]
        number[one] += number[other]
        shapes, number = np.delete(shapes, other, 0), np.delete(number, other)
    found = {(height, width) for height, width in shapes.tolist()}
    return [] if found == set(map(tuple, own.tolist())) else sorted(found)


def _filled(number: np.ndarray, batch_size: int) -> np.ndarray:
    """Returns how many images are predicted in full batches of so many."""
    return -(-number // batch_size) * batch_size


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


class GrowingShapes:
    """A few shapes for images that are not known before they come.

    The first MOST shapes are taken as they are. The sides of others are rounded up to a power of
    two times `multiple`: of up to 1024 pixels and multiples of 64 these are 25 more at most, each
    with less than four times an image's pixels.
    """

    def __init__(self, multiple: int, longest: int, most: int = MOST):
        """Has no shape yet.

        Args:
            multiple: of which sides are multiples, but for `longest`.
            longest: side.
            most: shapes that are taken as they are.
        """
        self._multiple, self._longest, self._most = multiple, longest, most
        self._own: set[Shape] = set()

    def of(self, own: Shape) -> Shape:
        """Returns the shape in which an image is predicted, by its own."""
        if len(self._own) < self._most:
            self._own.add(own)
        if own in self._own:
            return own
        height, width = (min(self._power(side), self._longest) for side in own)
        return height, width

    def is_own(self, shape: Shape, own: Sequence[int]) -> bool:
        """Returns whether an image that is predicted in a shape is one that has it alone."""
        return shape == tuple(own) and shape in self._own

    def _power(self, side: int) -> int:
        """Returns the smallest power of two times `multiple` that is no less than a side."""
        return self._multiple * 2 ** (-(-side // self._multiple) - 1).bit_length()
