"""What the trainer requires of any network: one input, and logits among its outputs.

A network with several outputs is trained by all of them (deep supervision, Lee et al., 2015). One
is its prediction, at the image's resolution: the first of a list, or `logits` of a dict.
Evaluation, prediction and export take that one.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras

from trainer.errors import InputError
from trainer.models import axes

PREDICTION = "logits"  # the key of the prediction among outputs in a dict


def check(model: keras.Model, num_logits: int | None = None) -> None:
    """Raises InputError for a network that cannot be trained, evaluated and exported.

    Args:
        model: a network.
        num_logits: channels that its outputs must have; None: any.
    """
    # Channel packing, folding, copies and export all walk the graph of layers.
    if not isinstance(model, keras.Function) or len(model.inputs) != 1:
        raise InputError(
            f"The network {model.name} is no functional model of one input; "
            "return keras.Model(images, logits)."
        )
    prediction(model.output)
    rank = axes.rank_of(model.inputs[0])
    for output in model.outputs:
        channels = num_logits or output.shape[-1]
        if axes.rank_of(output) != rank or output.shape[-1] != channels:
            raise InputError(
                f"The network {model.name} has an output of shape {output.shape}; the logits of "
                f"such data have {rank} spatial axes and {channels} channels."
            )


def prediction(outputs: Any) -> Any:
    """Returns the output that is a network's prediction.

    Args:
        outputs: a tensor, a list or tuple of tensors, or a dict of them.

    Raises:
        InputError: no output of a dict is named `logits`.
    """
    if isinstance(outputs, Mapping):
        if PREDICTION not in outputs:
            raise InputError(
                f"The network has the outputs {', '.join(outputs)}, and none is named "
                f"{PREDICTION}; give the full resolution that name."
            )
        return outputs[PREDICTION]
    return outputs[0] if isinstance(outputs, (list, tuple)) else outputs


def prediction_model(model: keras.Model) -> keras.Model:
    """Returns the network of the prediction alone, made of the same layers and variables.

    Layers that only other outputs need are not computed. A network of one output is returned as
    it is.
    """
    output = prediction(model.output)
    if output is model.output:
        return model
    return keras.Model(model.inputs[0], output, name=model.name)


def strides(model: keras.Model, sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """Returns how many pixels of an image a place of each output covers, along each axis.

    Args:
        model: a network.
        sizes: *S of the image.

    Returns:
        *S of each of `model.outputs`; (1, 1) at the image's resolution.

    Raises:
        InputError: a size is no multiple of an output's, or that of the prediction is another.
    """
    images = keras.KerasTensor((1, *sizes, model.inputs[0].shape[-1]))
    outputs = model.compute_output_spec(images)
    found = tuple(prediction(outputs).shape[1:-1])
    if found != tuple(sizes):
        raise InputError(
            f"The network {model.name} predicts {_times(found)} pixels of images of "
            f"{_times(sizes)}; give the prediction the size of the image."
        )
    return [stride_of(sizes, output.shape[1:-1]) for output in keras.tree.flatten(outputs)]


def stride_of(sizes: Sequence[int], places: Sequence[int]) -> tuple[int, ...]:
    """Returns how many pixels of an image of *S a place of an output covers, as `strides`."""
    if any(size % number for size, number in zip(sizes, places, strict=True)):
        raise InputError(
            f"The network has an output of {_times(places)} for images of {_times(sizes)}, which "
            "is no whole number of pixels; use a crop that the strides of all outputs divide."
        )
    return tuple(size // number for size, number in zip(sizes, places, strict=True))


def layers_of(model: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """Yields the layers of a network, each followed by its own layers.

    A layer that is a network, as an encoder may be, has layers of its own.
    """
    for layer in model._flatten_layers(include_self=False, recursive=False):
        yield layer
        yield from layers_of(layer)


def _times(sizes: Sequence[int]) -> str:
    return "×".join(map(str, sizes))
