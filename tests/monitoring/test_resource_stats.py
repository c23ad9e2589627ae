"""Weights and memory."""

import mmap

import keras
import numpy as np
import pytest

from tests.devices import strategy_of
from trainer.monitoring import resource_stats


@pytest.mark.parametrize("replicas", [1, 2])
def test_the_norm_is_that_of_all_trainable_weights(replicas):
    strategy = strategy_of(replicas)
    with strategy.scope():
        model = keras.Sequential([keras.layers.Dense(2), keras.layers.BatchNormalization()])
        model.build((None, 1))
    model.layers[0].set_weights([np.array([[3.0, 4.0]]), np.zeros(2)])
    model.layers[1].set_weights([np.full(2, value) for value in (12.0, 0.0, 9.0, 9.0)])
    measured = resource_stats.ResourceStats(strategy, model)
    found = measured.figures()
    assert found["weight_norm"] == pytest.approx((9 + 16 + 2 * 144) ** 0.5)
    model.layers[0].set_weights([np.zeros((1, 2)), np.zeros(2)])
    assert measured.figures()["weight_norm"] == pytest.approx((2 * 144) ** 0.5)
    assert "device_memory_gib" not in found  # of a CPU


def test_host_memory_is_what_the_process_holds():
    before = resource_stats.resident_bytes()
    with mmap.mmap(-1, 32 * 2**20) as held:  # pages of its own, none that was freed before
        held.write(b"1" * len(held))
        assert resource_stats.resident_bytes() - before > 24 * 2**20
