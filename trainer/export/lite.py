"""TensorFlow Lite: the network with half-precision or 8-bit weights, for one size of images."""

import contextlib
import importlib.util
import io
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.errors import InputError


def check_installed() -> None:
    """Raises InputError unless what runs such models, and so measures them, is there."""
    if importlib.util.find_spec("ai_edge_litert") is None:
        raise InputError('--tflite needs ai-edge-litert; pip install ".[tflite]".')


def convert(core: keras.Model, size: int, examples: Iterable[np.ndarray] | None) -> bytes:
    """Returns the model's file.

    Args:
        core: normalised images [B, H, W, C] → probabilities.
        size: side of its images.
        examples: normalised images, float32 [size, size, C], whose activations give the ranges of
            8-bit integers; None: weights become float16.
    """
    images = keras.Input((size, size, core.input_shape[-1]), batch_size=1, name="images")
    converter = tf.lite.TFLiteConverter.from_keras_model(keras.Model(images, core(images)))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if examples is None:
        converter.target_spec.supported_types = [tf.float16]
    else:
        kept = list(examples)
        converter.representative_dataset = lambda: ([image[np.newaxis]] for image in kept)
    # Keras and the converter say what they do, and that inputs stay float32.
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return converter.convert()


def open_model(content: bytes) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function of one image, float32 [S, S, C] → probabilities [S, S, K]."""
    from ai_edge_litert import interpreter

    runner: Any = interpreter.Interpreter(model_content=content)
    runner.allocate_tensors()
    (given,), (taken,) = runner.get_input_details(), runner.get_output_details()

    def run(image: np.ndarray) -> np.ndarray:
        runner.set_tensor(given["index"], image[np.newaxis])
        runner.invoke()
        return runner.get_tensor(taken["index"])[0]

    return run
