"""First weights: at random by the seed, or brought by a layer that was trained elsewhere."""

import hashlib

import keras
import numpy as np

from trainer.errors import InputError
from trainer.models import functional


def keep_weights(layer: keras.layers.Layer) -> None:
    """Marks a layer, or a whole network, as one that brings its weights.

    `initialize_weights` leaves it and all layers within it as they are. Call it where the network
    is built, after the weights have been loaded. Copies of a network need no mark: their weights
    are set to those of the original.
    """
    for kept in (layer, *functional.layers_of(layer)):
        kept.brings_weights = True


def brings_weights(layer: keras.layers.Layer) -> bool:
    """Whether a layer has been marked by `keep_weights`."""
    return getattr(layer, "brings_weights", False)


def initialize_weights(model: keras.Model, seed: int) -> None:
    """Sets a network's random weights, and its dropout, by the seed and each layer's place.

    Keras uses Python's global random numbers, from which other threads, such as a store's client
    between two attempts, take theirs as well: the same seed would not give the same run. Weights
    that a layer brought stay (see `keep_weights`).

    Raises:
        InputError: a layer has weights that are neither constant nor from an initializer of Keras:
            it brought them unmarked, or made them in a way that the seed does not reach.
    """
    for place, layer in enumerate(functional.layers_of(model)):
        digest = hashlib.sha256(f"{seed} {place}".encode()).digest()
        numbers = [int.from_bytes(digest[i : i + 4], "big") // 2 for i in range(0, 32, 4)]
        if hasattr(layer, "seed_generator"):
            layer.seed_generator.state.assign([numbers[0], 0])
        if not brings_weights(layer):
            _initialize(layer, numbers)


def _initialize(layer, numbers):
    """Sets a layer's own random weights by numbers, one for each weight."""
    own = {variable.name: variable for variable in layer._trainable_variables}
    for name, number in zip(_initializers(layer), numbers, strict=False):
        initializer = getattr(layer, name)
        # Keras calls a depthwise kernel `kernel`, or where there are two, `depthwise_kernel`.
        stem = name.removesuffix("_initializer")
        found = [key for key in (stem, f"{stem}_kernel", "kernel") if key in own]
        if found:
            settings = {**initializer.get_config(), "seed": number}
            variable = own.pop(found[0])
            seeded = type(initializer).from_config(settings)
            variable.assign(seeded(variable.shape, variable.dtype))
    for name, variable in own.items():
        if np.ptp(variable.numpy()) > 0:
            raise InputError(
                f"The layer {layer.name} has weights {name} that --seed does not set; if it "
                "brings its weights, call models.keep_weights where it is built, else give it "
                f"the attribute {name}_initializer."
            )


def _initializers(layer):
    """Returns the names of a layer's random initializers."""
    return [
        name
        for name, value in vars(layer).items()
        if isinstance(value, keras.initializers.Initializer) and "seed" in value.get_config()
    ]
