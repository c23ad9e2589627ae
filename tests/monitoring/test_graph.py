"""The network's graph."""

from trainer.models import build_unet
from trainer.monitoring import graph


def test_layers_are_nodes_whose_inputs_are_the_layers_before():
    model = build_unet((None, None, 1), 4, 1, depth=1)
    nodes = {node.name: node for node in graph.of_layers(model).node}
    assert {name.split("/")[1] for name in nodes} == {layer.name for layer in model.layers}
    assert {name.split("/")[0] for name in nodes} == {"encoder_0", "encoder_1", "decoder_0"}
    pool = next(node for node in nodes.values() if node.op == "MaxPooling2D")
    concatenate = next(node for node in nodes.values() if node.op == "Concatenate")
    assert len(concatenate.input) == 2
    assert pool.input[0] in concatenate.input  # the skip
    assert concatenate.name.startswith("decoder_0/")
    logits = nodes["decoder_0/logits"]
    assert logits.attr["parameters"].i == 5  # four weights and a bias
    shape = logits.attr["_output_shapes"].list.shape[0]
    assert [axis.size for axis in shape.dim] == [-1, -1, -1, 1]
