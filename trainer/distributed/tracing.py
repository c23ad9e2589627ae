"""Graphs of which each shape of the input has its own."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def for_each_shape(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that is traced once for each shape and type of its tensors.

    TensorFlow warns of a `tf.function` that is traced again and again, which is right: most are
    defects, as where one is made at each call. Here a trace for each shape is what is meant, and
    asking for the graph by name says so; the warning is left for what is not.

    Args:
        function: of tensors, or structures of them.
    """
    traced = tf.function(function, autograph=False)
    return lambda *args: traced.get_concrete_function(*args)(*args)
