"""A network like those of keras.applications, small enough for tests, as a row of ENCODERS."""

import keras
import numpy as np

from trainer.models import encoders

NAME = "resnet50"  # the row whose place it takes


def small(weights, include_top, input_shape):
    """Builds it; the arguments are those of keras.applications."""
    images = x = keras.Input(input_shape)
    for level in range(5):
        x = keras.layers.ZeroPadding2D(1)(x)
        x = keras.layers.Conv2D(4 + level, 3, strides=2, use_bias=False)(x)
        x = keras.layers.BatchNormalization(epsilon=1e-5)(x)
        x = keras.layers.Activation("swish", name=f"level{level}")(x)
    return keras.Model(images, x)


ROW = encoders.Encoder(small, tuple(f"level{level}" for level in range(4)), encoders.CAFFE)


def drawn(name, seed=0):
    """Returns an encoder as Keras builds it, its statistics and normalisation drawn, too."""
    keras.utils.set_random_seed(seed)
    whole = encoders.build_whole(encoders.ENCODERS[name])
    rng = np.random.default_rng(seed)
    for layer in whole.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
        if isinstance(layer, keras.layers.Normalization) and layer.weights:
            figures = rng.uniform(0.1, 0.4, 3), rng.uniform(0.1, 0.2, 3)
            layer.set_weights([*figures, np.int64(0)])
            layer.finalize_state()
    return whole
