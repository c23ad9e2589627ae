"""ONNX: the whole network, from raw images of any size to probabilities."""

import importlib.util
import logging
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from trainer.errors import InputError

OPSET = 18


def check_installed() -> None:
    """Raises InputError unless what converts and runs such models is there."""
    missing = [name for name in ("tf2onnx", "onnxruntime") if not importlib.util.find_spec(name)]
    if missing:
        raise InputError(f'--onnx needs {" and ".join(missing)}; pip install ".[onnx]".')


def convert(model: keras.Model) -> bytes:
    """Returns the file of a network of Keras' own layers, images [B, H, W, C] → probabilities."""
    import tf2onnx

    logging.getLogger("tf2onnx").setLevel(logging.WARNING)

    spec = [tf.TensorSpec([None, None, None, model.input_shape[-1]], tf.float32, name="images")]
    function = tf.function(
        lambda images: {"probabilities": model(images, training=False)}, input_signature=spec
    )
    return tf2onnx.convert.from_function(function, spec, opset=OPSET)[0].SerializeToString()


def open_model(content: bytes) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function of one image in stored units, [H, W, C] → probabilities [H, W, K]."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"images": image[np.newaxis].astype(np.float32)})[0][0]
