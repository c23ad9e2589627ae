"""The network as TensorBoard's graph: a node for each layer, a box for each level."""

from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from trainer.models import layers

DOWN, UP = layers.MAX_POOLING.values(), (*layers.TRANSPOSED, *layers.UPSAMPLING.values())


def of_layers(model: keras.Model) -> tf.compat.v1.GraphDef:
    """Returns the graph of a functional model's layers, with the shapes that they return.

    A node of several outputs has the shape of each; operations that are no layers are nodes, too.

    A traced graph has a node for each of some thousand operations, and takes seconds.
    """
    graph = tf.compat.v1.GraphDef()
    places: dict[str, tuple[str, int]] = {}  # layer → side and level
    operations = {operation.name: operation for operation in model.operations}
    for entry in model.get_config()["layers"]:
        layer = operations[entry["name"]]
        inputs = list(dict.fromkeys(_sources(entry["inbound_nodes"])))
        before = [places[name] for name in inputs]  # of which a skip is the encoder's
        side = "decoder" if any(side == "decoder" for side, _ in before) else "encoder"
        level = min((level for _, level in before), default=0)
        if type(layer) in DOWN:
            level += 1
        elif type(layer) in UP:
            side, level = "decoder", level - 1
        places[layer.name] = side, level
        node = graph.node.add(name=_path(layer.name, places), op=type(layer).__name__)
        node.input.extend(_path(name, places) for name in inputs)
        outputs = layer._inbound_nodes[0].outputs  # a layer that is called twice is one node
        shapes = (tf.TensorShape(x.shape).as_proto() for x in outputs)
        node.attr["_output_shapes"].list.shape.extend(shapes)
        if isinstance(layer, keras.layers.Layer):
            node.attr["parameters"].i = layer.count_params()
    return graph


def _path(name: str, places: dict[str, tuple[str, int]]) -> str:
    side, level = places[name]
    return f"{side}_{level}/{name}"


def _sources(config: Any) -> Iterator[str]:
    """Yields the names of the layers whose tensors a layer takes, nested ones included."""
    if isinstance(config, dict):
        history = config.get("config", {}).get("keras_history")
        if history:
            yield history[0]
            return
        for value in config.values():
            yield from _sources(value)
    elif isinstance(config, (list, tuple)):
        for value in config:
            yield from _sources(value)
