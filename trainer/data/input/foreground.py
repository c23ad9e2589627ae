"""Which examples of the run must hold a drawn class, and the place that each is cropped about.

Of each stream's examples a share F is forced. Position q of stream v is, if the whole part of
(q + 1) F + u is another than that of q F + u, where u, in [0, 1), is the stream's phase. So how
many of them were forced is arithmetic, too, and a stream can be opened at any position. The phases
of V streams are the multiples of 1/V in bit-reversed order: so a batch of B examples has F·B forced
ones, give or take one, where B is a power of two or a multiple of V, and three where it is neither.

Where shards say which of them have a foreground, a forced example is the next one of those shards,
in an order of their own. Otherwise it is the next one of all; if that has none, its crop is
anywhere.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.data.dataset import schema

ONE = 2**20  # shares and phases are counted in parts of it, as whole numbers: never rounded


def phases(num_streams: int) -> np.ndarray:
    """Returns the phase of each stream, int64 [V], in parts of ONE; V is a power of two."""
    bits = num_streams.bit_length() - 1
    reversed_ = [int(f"{v:0{bits}b}"[::-1], 2) for v in range(num_streams)]
    return np.array(reversed_, np.int64) * ONE // num_streams


def forced_before(position: Any, phase: Any, share: float) -> Any:
    """Returns how many of a stream's examples before a position are forced.

    Args:
        position: in the stream; an integer, array or int64 tensor.
        phase: of the stream, likewise.
        share: of its examples, in [0, 1].
    """
    return (position * round(share * ONE) + phase) // ONE


def is_forced(number: tf.Tensor, num_streams: int, share: float) -> tf.Tensor:
    """Whether example `number` of the run, int64 [], is forced."""
    position, stream = number // num_streams, number % num_streams
    phase = tf.gather(tf.constant(phases(num_streams)), stream)
    after = forced_before(position + 1, phase, share)
    return after > forced_before(position, phase, share)


def divides(shards: Sequence[schema.Shard], share: float) -> bool:
    """Whether forced examples come from shards of their own."""
    return share > 0 and any(shard.foreground is False for shard in shards)


def draw_place(example: Mapping[str, tf.Tensor], num_classes: int, key: tf.Tensor) -> tf.Tensor:
    """Draws a class of those in an example, then one of its places.

    Args:
        example: of `schema.decode`; where it has `places`, these are drawn from, else the mask is.
        num_classes: with the background, which is not drawn.
        key: int64 [2].

    Returns:
        int32 [rank], the place; -1 everywhere if the example has the background only.
    """
    mask = example["mask"]
    flat = example["places"][:, 0] if "places" in example else tf.reshape(mask, [-1])
    flat = tf.cast(flat, tf.int32)
    # IGNORE is above all classes, and not counted.
    counts = tf.math.bincount(flat, minlength=num_classes, maxlength=num_classes)
    present = tf.where(counts[1:] > 0)[:, 0] + 1
    numbers = tf.random.stateless_uniform([2], key, alg="philox")

    def draw() -> tf.Tensor:
        drawn = tf.cast(_one_of(present, numbers[0]), tf.int32)
        chosen = _one_of(tf.where(flat == drawn)[:, 0], numbers[1])
        if "places" in example:
            return example["places"][chosen, 1:]
        return tf.cast(tf.unravel_index(chosen, tf.shape(mask, tf.int64)), tf.int32)

    nowhere = tf.fill([mask.shape.rank], -1)
    return tf.cond(tf.size(present) > 0, draw, lambda: nowhere)


def _one_of(values: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
    """Returns one of the values, [N], by a number in [0, 1)."""
    return values[tf.cast(number * tf.cast(tf.size(values), tf.float32), tf.int32)]
