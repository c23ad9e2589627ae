"""Networks for prediction: batch normalisation is folded into the convolution before it.

Normalising by fixed statistics scales and shifts; a convolution can do both by itself.
"""

import keras
import numpy as np

from trainer.models import functional, layers


def fold(model):
    """Returns a copy of a network for prediction, without batch normalisation after convolutions.

    Its results, all outputs in their structure, are those of `model(images, training=False)` but
    for rounding. What is no such pair of layers is copied as it is.

    Raises:
        InputError: the network is not functional.
    """
    functional.check(model)
    outputs = {id(tensor) for tensor in model.outputs}
    norm_of = {
        layer.name: norm for layer in model.layers if (norm := _following_norm(layer, outputs))
    }
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
        elif layer.weights and layer.name not in folded:
            copy.get_layer(layer.name).set_weights(layer.get_weights())
    return copy


def _following_norm(layer, outputs):
    """Returns the batch normalisation that alone takes a convolution's output, if there is one.

    Args:
        layer: any.
        outputs: the ids of the network's outputs, which must stay what they are.
    """
    if not isinstance(layer, layers.CONVOLUTIONS) or len(layer._inbound_nodes) > 1:
        return None
    if layer.activation is not keras.activations.linear or id(layer.output) in outputs:
        return None
    followers = [node.operation for node in layer._outbound_nodes]
    if len(followers) != 1 or not isinstance(followers[0], keras.layers.BatchNormalization):
        return None
    return followers[0] if len(followers[0]._inbound_nodes) == 1 else None


def _folded_weights(layer, norm):
    """Returns kernel and bias equal to a convolution with its normalisation."""
    scale = norm.moving_variance.numpy() + norm.epsilon
    scale = (norm.gamma.numpy() if norm.scale else 1.0) / np.sqrt(scale)
    shift = norm.beta.numpy() if norm.center else 0.0
    bias = layer.bias.numpy() if layer.use_bias else 0.0
    transposed = isinstance(layer, layers.TRANSPOSED)  # its kernel is [..., out, in]
    kernel = layer.kernel.numpy() * (scale[:, np.newaxis] if transposed else scale)
    return [kernel, (bias - norm.moving_mean.numpy()) * scale + shift]
