"""How far apart rounding may bring two computations of the same numbers.

Machines add in different orders, and round a product before it is added or do not. Each operation
rounds by at most a unit of its result; such errors have random signs, so n of them add up like √n.
The margin of ten is for what this leaves out: numbers on the way that are larger than the result.
"""

import math

import numpy as np

UNITS = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
MARGIN = 10.0


def tolerance(operations, magnitude=1.0, dtype="float32"):
    """Returns the largest difference that is rounding.

    Args:
        operations: how many follow one another, additions of a sum included.
        magnitude: of the numbers that are rounded.
        dtype: that they are rounded to.
    """
    return MARGIN * UNITS[dtype] * math.sqrt(operations) * magnitude


def operations_of(model):
    """Returns how many products are added, one after the other, for an output of a network."""
    layers = [layer for layer in model.layers if hasattr(layer, "kernel")]
    return sum(math.prod(layer.kernel.shape) // layer.output.shape[-1] for layer in layers)


def assert_close(found, expected, operations, magnitude=None):
    """Asserts that two arrays differ by rounding.

    Args:
        found: an array.
        expected: another one.
        operations: see `tolerance`.
        magnitude: see `tolerance`; the largest number of `expected` if None.
    """
    if magnitude is None:
        magnitude = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance(operations, magnitude))
