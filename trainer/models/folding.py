"""Networks for prediction: batch normalisation becomes part of the convolution before it.

What is normalised by fixed statistics is scaled and shifted; a convolution can do both by itself.
"""

import keras
import numpy as np

CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.Conv2DTranspose)


def fold(model):
    """Returns a copy of a network for prediction, without batch normalisation after convolutions.

    Its results are those of `model(images, training=False)` but for rounding.
    """
    norm_of = {layer.name: norm for layer in model.layers if (norm := _following_norm(layer))}
    folded = {norm.name for norm in norm_of.values()}

    def folding(layer):
        settings = layer.get_config()
        if layer.name in norm_of:
            return type(layer).from_config({**settings, "use_bias": True})
        return type(layer).from_config(settings)

    def calling(layer, *inputs, **options):
        return inputs[0] if layer.name in folded else layer(*inputs, **options)

    copy = keras.models.clone_model(model, clone_function=folding, call_function=calling)
    for layer in model.layers:
        if layer.name in norm_of:
            copy.get_layer(layer.name).set_weights(_folded_weights(layer, norm_of[layer.name]))
        elif layer.name not in folded:
            copy.get_layer(layer.name).set_weights(layer.get_weights())
    return copy


def _following_norm(layer):
    """Returns the batch normalisation that alone takes a convolution's output, if there is one."""
    if not isinstance(layer, CONVOLUTIONS) or layer.activation is not keras.activations.linear:
        return None
    followers = [node.operation for node in layer._outbound_nodes]
    if len(followers) == 1 and isinstance(followers[0], keras.layers.BatchNormalization):
        return followers[0]
    return None


def _folded_weights(layer, norm):
    """Returns kernel and bias that do what a convolution and its normalisation did."""
    scale = norm.moving_variance.numpy() + norm.epsilon
    scale = (norm.gamma.numpy() if norm.scale else 1.0) / np.sqrt(scale)
    shift = norm.beta.numpy() if norm.center else 0.0
    bias = layer.bias.numpy() if layer.use_bias else 0.0
    transposed = isinstance(layer, keras.layers.Conv2DTranspose)  # its kernel is [k, k, out, in]
    kernel = layer.kernel.numpy() * (scale[:, np.newaxis] if transposed else scale)
    return [kernel, (bias - norm.moving_mean.numpy()) * scale + shift]
