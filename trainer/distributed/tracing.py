"""Graphs of which each shape of the input has its own, and graphs of all shapes."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def for_each_shape(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that is traced once for each shape and type of its tensors.

    TensorFlow rightly warns of a `tf.function` that is traced again and again: most are defects,
    such as one made at each call. Here a trace for each shape is intended. Asking for the graph by
    name says so, and leaves the warning for other cases.

    Args:
        function: of tensors, or structures of them.
    """
    traced = tf.function(function, autograph=False)
    return lambda *args: traced.get_concrete_function(*args)(*args)


def for_all_shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that is traced a few times, whatever the shapes of its tensors.

    Args:
        function: of tensors, or structures of them.
    """
    return tf.function(function, reduce_retracing=True, autograph=False)
