"""Statistics of a run besides its loss: the size of its weights and of its memory."""

import os

import keras
import tensorflow as tf

from trainer.distributed import strategies

GIB = 2**30


class ResourceStats:
    """Measures one model on this worker."""

    def __init__(self, strategy: tf.distribute.Strategy, model: keras.Model):
        """Measures nothing yet."""
        self._strategy = strategy
        weights = [variable.value for variable in model.trainable_variables]
        self._weight_norm = tf.function(lambda: tf.linalg.global_norm(weights))

    def figures(self) -> dict[str, float]:
        """Returns the figures of weights and memory for metrics.jsonl."""
        found = {
            "weight_norm": float(self._weight_norm()),
            "host_memory_gib": resident_bytes() / GIB,
        }
        device_bytes = strategies.device_memory(self._strategy)
        if device_bytes is not None:
            found["device_memory_gib"] = device_bytes / GIB
        return found


def resident_bytes() -> int:
    """Returns the memory of this process that is not swapped out."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
