"""Devices of the tests: strategies over virtual CPU devices, and what a CPU cannot compute."""

import functools

import pytest

from tests import skips


@functools.cache
def strategy_of(number):
    """Returns the strategy over the first 1, 2 or 4 CPU devices, the same one at each call.

    TensorFlow numbers its collectives from the same start in every strategy, so a process can hold
    one strategy that has any. That of four devices reduces by copies instead.
    """
    import tensorflow as tf

    if number == 1:
        return tf.distribute.OneDeviceStrategy("/CPU:0")
    operations = tf.distribute.ReductionToOneDevice() if number == 4 else None
    devices = [f"/CPU:{i}" for i in range(number)]
    return tf.distribute.MirroredStrategy(devices, cross_device_ops=operations)


def has_bfloat16():
    """Returns whether the CPU, and what oneDNN may use of it, computes bfloat16."""
    from trainer.distributed import arithmetic

    return arithmetic.computes_bfloat16(rank=2)


def without_bfloat16():
    """Skips a test of bfloat16 where the CPU cannot compute it."""
    if not has_bfloat16():
        pytest.skip(f"this CPU computes no bfloat16, {skips.LEFT_OUT}")
