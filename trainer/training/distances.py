"""Distances between pixels and a mask, in the graph, of static shapes."""

import tensorflow as tf

from trainer.models import axes


def signed_distances(truth, reach):
    """Returns how far each pixel is from the other side of a mask's boundary, outside positive.

    As in the boundary loss of Kervadec et al. (2019): a pixel outside has the distance d to the
    nearest one inside, and a pixel inside 1 - d, with d to the nearest one outside. So two
    neighbours across the boundary have 1 and 0.

    Args:
        truth: float32 [B, *S, C], 1 inside and 0 outside of the mask of each class.
        reach: pixels; d is this where it is larger. It is exact up to there.

    Returns:
        float32 [B, *S, C]; 0 everywhere in an image of which a class covers nothing, or all.
    """
    space = axes.spatial(axes.rank_of(truth))
    outside = _distances(truth > 0, reach)
    inside = _distances(truth == 0, reach)
    divided = tf.reduce_max(truth, space, True) - tf.reduce_min(truth, space, True)
    return tf.where(truth > 0, 1.0 - inside, outside) * divided


def _distances(mask, reach):
    """Returns the Euclidean distance of each pixel to the nearest one of a mask, at most `reach`.

    Axis by axis, the square of a distance is the least of f(j) + (i - j)² over the places j of
    the line, with f the square along the axes before (Felzenszwalb and Huttenlocher, 2012). Here
    the shifts i - j are tried one after the other, so that a pass takes the memory of one mask.

    Args:
        mask: bool [B, *S, C].
        reach: the largest shift, in pixels.

    Returns:
        float32 [B, *S, C].
    """
    far = float(reach) ** 2
    squares = tf.where(mask, 0.0, far)
    for axis in axes.spatial(axes.rank_of(mask)):
        squares = _along(squares, axis, reach, far)
    return tf.sqrt(tf.minimum(squares, far))


def _along(squares, axis, reach, far):
    """Returns the least of `squares` and those of each shift along an axis, plus its square."""
    margins = [[0, 0]] * len(squares.shape)
    margins[axis] = [reach, reach]
    padded = tf.pad(squares, margins, constant_values=far)
    size = tf.shape(squares)
    first = tf.one_hot(axis, len(squares.shape), dtype=tf.int32)

    def shifted(places):
        return tf.ensure_shape(tf.slice(padded, first * (reach + places), size), squares.shape)

    def turn(shift, least):
        nearer = tf.minimum(shifted(-shift), shifted(shift)) + tf.cast(shift, tf.float32) ** 2
        return shift + 1, tf.minimum(least, nearer)

    _, least = tf.while_loop(
        lambda shift, _: shift <= reach,
        turn,
        (tf.constant(1), squares),
        parallel_iterations=1,
        maximum_iterations=reach,
    )
    return least
