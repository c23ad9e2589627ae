"""Encoders of keras.applications, as the lower levels of a U-Net's contracting path: ENCODERS.

Their layers are made anew, one by one, in the network that they are for: batch normalisation is
ours, any number of channels enters, and folding, packing and export see plain layers.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from trainer.models import functional, norms
from trainer.models.sync_norm import SyncBatchNormalization

PREFIX = "encoder_"  # of the names of an encoder's layers
COLOURS = 3  # red, green and blue, which encoders were trained on
# Of ImageNet's pixels, red, green and blue, in [0, 1].
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


BATCH_NORMS: Mapping[str, type[keras.layers.BatchNormalization]] = {
    "batch": norms.FusedBatchNormalization,
    "sync_batch": SyncBatchNormalization,
}


@dataclasses.dataclass(frozen=True)
class Range:
    """The images that an encoder was trained on: (pixels of 0 to 255 - offset) / scale.

    Attributes:
        offset: of each colour.
        scale: of each colour.
        reversed: whether its kernels take blue first.
    """

    offset: tuple[float, ...]
    scale: tuple[float, ...]
    reversed: bool = False


# What keras.applications calls caffe, tf and torch, and what two families do inside.
CAFFE = Range((123.68, 116.779, 103.939), (1.0,) * COLOURS, reversed=True)
SYMMETRIC = Range((127.5,) * COLOURS, (127.5,) * COLOURS)
IMAGENET = Range(tuple(255 * one for one in MEAN), tuple(255 * one for one in STD))
BY_128 = Range((128.0,) * COLOURS, (128.0,) * COLOURS)
BYTES = Range((0.0,) * COLOURS, (1.0,) * COLOURS)


@dataclasses.dataclass(frozen=True)
class Encoder:
    """An encoder and where its features are.

    Attributes:
        build: of keras.applications.
        layers: whose outputs are the features, each at half the resolution of the one before; the
            last features, at a 32nd, are the network's own output.
        range: of the images that it takes.
    """

    build: Callable[..., keras.Model]
    layers: tuple[str, ...]
    range: Range


def _without_preprocessing(build: Callable[..., keras.Model]) -> Callable[..., keras.Model]:
    return functools.partial(build, include_preprocessing=False)


ENCODERS: Mapping[str, Encoder] = {
    "resnet50": Encoder(
        keras.applications.ResNet50,
        ("conv1_relu", "conv2_block3_out", "conv3_block4_out", "conv4_block6_out"),
        CAFFE,
    ),
    "resnet50v2": Encoder(
        keras.applications.ResNet50V2,
        ("conv1_conv", "conv2_block3_1_relu", "conv3_block4_1_relu", "conv4_block6_1_relu"),
        SYMMETRIC,
    ),
    "efficientnetb0": Encoder(
        keras.applications.EfficientNetB0,
        tuple(f"block{block}a_expand_activation" for block in (2, 3, 4, 6)),
        BYTES,  # it has the rest inside
    ),
    "efficientnetv2b0": Encoder(
        _without_preprocessing(keras.applications.EfficientNetV2B0),
        (
            *("block1a_project_activation", "block2b_add"),
            *("block4a_expand_activation", "block6a_expand_activation"),
        ),
        IMAGENET,
    ),
    "efficientnetv2s": Encoder(
        _without_preprocessing(keras.applications.EfficientNetV2S),
        (
            *("block1b_add", "block2d_add"),
            *("block4a_expand_activation", "block6a_expand_activation"),
        ),
        BY_128,
    ),
    "mobilenetv2": Encoder(
        keras.applications.MobileNetV2,
        tuple(f"block_{block}_expand_relu" for block in (1, 3, 6, 13)),
        SYMMETRIC,
    ),
    "densenet121": Encoder(
        keras.applications.DenseNet121,
        ("conv1_relu", "pool2_conv", "pool3_conv", "pool4_conv"),
        IMAGENET,
    ),
    "convnexttiny": Encoder(
        _without_preprocessing(keras.applications.ConvNeXtTiny),
        tuple(
            f"convnext_tiny_stage_{stage}_block_{block}_identity"
            for stage, block in ((0, 2), (1, 2), (2, 8))
        ),
        IMAGENET,
    ),
}


def features(
    name: str, images: keras.KerasTensor, *, normalize: str, norm: str
) -> list[keras.KerasTensor]:
    """Returns the features of images, each at half the resolution of the one before.

    Args:
        name: a key of ENCODERS.
        images: [B, H, W, C], in multiples of 32, normalised.
        normalize: how, a key of `normalization.NORMALIZATIONS`.
        norm: "sync_batch", or "batch": by each replica's own statistics.
    """
    row = ENCODERS[name]
    reference = truncate(row, build_whole(row))
    places = {id(layer): place for place, layer in enumerate(flat_layers(reference))}
    copies: dict[int, keras.layers.Layer] = {}

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        place = places[id(layer)]
        if place not in copies:
            copies[place] = _copy(layer, f"{PREFIX}{place:03d}_{layer.name}", norm)
        return copies[place]

    def call(operation: Any, *args: Any, **options: Any) -> Any:
        if isinstance(operation, keras.Sequential):
            return functools.reduce(lambda x, layer: copy(layer)(x), operation.layers, *args)
        if isinstance(operation, keras.layers.Dropout):  # of whole blocks, which few steps need not
            return args[0]
        has_copy = isinstance(operation, keras.layers.Layer)
        return (copy(operation) if has_copy else operation)(*args, **options)

    x = _in_colours(images, row.range, normalize)
    return reference._run_through_graph([x], call_fn=call)


def build_whole(row: Encoder, weights: str | None = None) -> keras.Model:
    """Returns the network of keras.applications for images of three colours."""
    return row.build(weights=weights, include_top=False, input_shape=(None, None, COLOURS))


def truncate(row: Encoder, whole: keras.Model) -> keras.Model:
    """Returns the network of the features alone, of the same layers."""
    outputs = [_output(whole.get_layer(layer)) for layer in row.layers]
    return keras.Model(whole.input, [*outputs, whole.output])


def _output(layer: keras.layers.Layer) -> keras.KerasTensor:
    """Returns a layer's output, or where an operation without a layer alone takes it, its result.

    ConvNeXt adds so what a block adds to its input.
    """
    nodes = layer._outbound_nodes
    if len(nodes) == 1 and not isinstance(nodes[0].operation, keras.layers.Layer):
        return nodes[0].outputs[0]
    return layer.output


def flat_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Returns the layers of a network, those of a sequence in its place."""
    return [
        part
        for layer in model.layers
        for part in (layer.layers if isinstance(layer, keras.Sequential) else [layer])
    ]


def layers_of(model: keras.Model) -> list[keras.layers.Layer]:
    """Returns the layers of the encoder in a network, in their order; none if it has no encoder."""
    found = (layer for layer in functional.layers_of(model) if layer.name.startswith(PREFIX))
    return sorted(found, key=lambda layer: layer.name)


def variables_of(model: keras.Model) -> list[keras.Variable]:
    """Returns what an optimizer may change of the encoder in a network."""
    return [variable for layer in layers_of(model) for variable in layer.trainable_variables]


def set_weights(model: keras.Model, name: str, whole: keras.Model) -> None:
    """Gives the encoder in a network the weights of `whole`, see `build_whole`.

    Images of one channel are taken as grey, and of n channels each as a colour, in turn. Channels
    share the kernels of their colour, so that n equal channels have the features of a grey image.

    Raises:
        ValueError: `whole` is another network.
    """
    row = ENCODERS[name]
    ours = {layer.name[len(PREFIX) :][:3]: layer for layer in layers_of(model)}
    first = True
    for place, layer in enumerate(flat_layers(truncate(row, whole))):
        if not layer.weights:
            continue
        target, weights = ours[f"{place:03d}"], layer.get_weights()
        if isinstance(layer, keras.layers.Normalization):
            weights = _figures(weights[0], weights[1], target.moving_mean.shape[0])
        elif first:
            weights[0] = _kernels(weights[0], target.kernel.shape[-2], row.range.reversed)
            first = False
        elif isinstance(target, keras.layers.DepthwiseConv2D):
            weights[0] = weights[0].reshape(target.kernel.shape)
        target.set_weights(weights)


def _copy(layer: keras.layers.Layer, name: str, norm: str) -> keras.layers.Layer:
    """Returns a new layer like another, of our own kind where that normalises."""
    settings = {**layer.get_config(), "name": name}
    if isinstance(layer, keras.layers.BatchNormalization):
        return BATCH_NORMS[norm].from_config({**settings, "momentum": norms.BATCH_MOMENTUM})
    if isinstance(layer, keras.layers.Normalization):
        # The same function, of variables that a checkpoint restores; Keras computes with a copy.
        return keras.layers.BatchNormalization(
            center=False, scale=False, epsilon=0.0, trainable=False, name=name
        )
    if isinstance(layer, keras.layers.Conv2D) and layer.groups == layer.filters > 1:
        # The same function, of a kernel in another order of axes; on CPUs Keras computes groups as
        # an XLA program of their own.
        return keras.layers.DepthwiseConv2D(layer.kernel_size, padding=layer.padding, name=name)
    return type(layer).from_config(settings)


def _in_colours(images: keras.KerasTensor, wanted: Range, normalize: str) -> keras.KerasTensor:
    """Returns normalised images in the range that an encoder takes, of three channels at least."""
    x = images
    channels = images.shape[-1]
    if channels < COLOURS:
        x = keras.layers.Concatenate()([images] * -(-COLOURS // channels))
    units = [(255.0, 0.0)] * COLOURS  # of 1, and where 0 is, in pixels of 0 to 255
    if normalize != "none":
        units = [(255 * std, 255 * mean) for mean, std in zip(MEAN, STD, strict=True)]
    scale, offset = [], []
    for channel in range(x.shape[-1]):
        colour = channel % COLOURS
        unit, zero = units[colour]
        scale.append(unit / wanted.scale[colour])
        offset.append((zero - wanted.offset[colour]) / wanted.scale[colour])
    if set(scale) == {1.0} and set(offset) == {0.0}:
        return x
    return keras.layers.Rescaling(scale, offset, dtype="float32", name=f"{PREFIX}range")(x)


def _colours(channels: int) -> np.ndarray:
    """Returns the colour of each channel, int [C]."""
    return np.arange(channels) % COLOURS


def _kernels(kernel: np.ndarray, channels: int, is_reversed: bool) -> np.ndarray:
    """Returns the first kernel [h, w, 3, F] for other channels, [h, w, C, F]; C is at least 3."""
    kernel = kernel[:, :, ::-1] if is_reversed else kernel
    colours = _colours(channels)
    shared_by = np.bincount(colours)[colours]
    return kernel[:, :, colours] / shared_by[:, np.newaxis].astype(kernel.dtype)


def _figures(mean: np.ndarray, variance: np.ndarray, channels: int) -> list[np.ndarray]:
    """Returns mean and variance of each channel, by those of each colour.

    Keras' own weights of EfficientNetB0 have the deviation as the variance, and with them, only, a
    layer behind that divides by its root once more.
    """
    if np.allclose(variance, STD, atol=1e-3):
        variance = variance * np.asarray(STD, variance.dtype)
    colours = _colours(channels)
    return [mean.reshape(-1)[colours], variance.reshape(-1)[colours]]
