"""The axes of images [B, H, W, C] and volumes [B, D, H, W, C], named once.

Their spatial rank is 2 or 3. Docstrings write *S for the spatial axes, whichever they are.
"""

import math

import tensorflow as tf

NAMES = {2: ("height", "width"), 3: ("depth", "height", "width")}


def spatial(rank):
    """Returns the numbers of the spatial axes: (1, 2) or (1, 2, 3)."""
    return tuple(range(1, 1 + rank))


def rank_of(x):
    """Returns the spatial rank of [B, *S, C]."""
    return len(x.shape) - 2


def sizes(x):
    """Returns *S of [B, *S, C]: integers where static, else scalar tensors."""
    dynamic = tf.shape(x)
    return [
        dynamic[axis] if x.shape[axis] is None else x.shape[axis] for axis in spatial(rank_of(x))
    ]


def along(number, rank):
    """Returns a number for each of `rank` axes: those given, or one number for all of them."""
    return (number,) * rank if isinstance(number, int) else tuple(number)


def as_images(x):
    """Returns [B, *S, C] as [B, H, W, C]: an image as it is, a volume's planes below each other.

    It is for operations on images that take each pixel, or the whole image, alike.
    """
    if rank_of(x) == 2:
        return x
    *heights, width = sizes(x)
    batch = tf.shape(x)[0] if x.shape[0] is None else x.shape[0]
    return tf.reshape(x, (batch, math.prod(heights), width, x.shape[-1]))


def restore(images, like):
    """Undoes `as_images`: returns the images in the shape of `like`."""
    if rank_of(like) == 2:
        return images
    if like.shape.is_fully_defined():
        return tf.reshape(images, like.shape)
    return tf.ensure_shape(tf.reshape(images, tf.shape(like)), like.shape)
