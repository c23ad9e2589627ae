"""Networks of only Keras' own layers and operations, from raw images to probabilities.

What is saved of them is read by plain Keras, which knows none of our layers.
"""

import keras
from keras import ops

from trainer.models import axes, blocks, functional, layers, norm_folding, norms
from trainer.models.convolution import Convolution3D
from trainer.models.dropout import Dropout
from trainer.models.sync_norm import SyncBatchNormalization

# Layers of ours → those of Keras that have the same variables and, in prediction, results.
KERAS_LAYERS = {
    Convolution3D: keras.layers.Conv3D,
    Dropout: keras.layers.Dropout,
    SyncBatchNormalization: keras.layers.BatchNormalization,
    norms.FusedBatchNormalization: keras.layers.BatchNormalization,
}


def plain(model, normalize, mean, std, dtype, multiple, temperature=None):
    """Returns a network of any image size that does everything prediction does with a whole image.

    Args:
        model: normalised images [B, None, None, C] → logits [B, H, W, K], or its prediction among
            several outputs; of volumes with a spatial axis more.
        normalize: a key of `normalization.NORMALIZATIONS`.
        mean: of each channel of the training split, in stored units.
        std: as `mean`.
        dtype: of stored images, "uint8", "uint16" or "float32".
        multiple: to which sides are extended, of all axes or of each, as in a mirror; multiples of
            the model's stride.
        temperature: by which logits are divided; None: they are not.

    Returns:
        keras.Model, images [B, H, W, C] in stored units, of any dtype → float32 [B, H, W, classes].
    """
    rank = axes.rank_of(model.inputs[0])
    images = keras.Input((*[None] * rank, model.input_shape[-1]), name="images")
    x = NORMALIZED[normalize](ops.cast(images, "float32"), mean, std, dtype)
    for axis, of_axis in zip(axes.spatial(rank), axes.along(multiple, rank), strict=True):
        x = ops.take(x, _mirrored(images, axis, of_axis), axis=axis)
    x = core(model, temperature)(x)
    for axis in axes.spatial(rank):
        x = ops.take(x, _places(images, axis), axis=axis)
    return keras.Model(images, x, name="unet")


def core(model, temperature=None):
    """Returns `network` with the final activation: float32 [B, *S, C] → [B, *S, classes]."""
    inner = network(model, temperature)
    x = inner.outputs[0]
    if x.shape[-1] == 1:
        x = ops.sigmoid(x)
        x = ops.concatenate([1.0 - x, x], axis=-1)
    else:
        x = ops.softmax(x, axis=-1)
    return keras.Model(inner.inputs[0], x, name="core")


def network(model, temperature=None):
    """Returns the network for images whose sides are multiples of its stride, already normalised.

    Args:
        model: normalised images [B, *S, C] → logits [B, *S, K], or its prediction among several
            outputs.
        temperature: by which logits are divided; None: they are not.

    Returns:
        keras.Model, float32 [B, *S, C] → logits, float32 [B, *S, K].
    """
    folded = norm_folding.fold(functional.prediction_model(model))

    grouped = {
        layer.name: layer
        for layer in folded.layers
        if isinstance(layer, keras.layers.GroupNormalization)
    }

    def calling(layer, *inputs, **options):
        # With such sides neither layer of ours has anything to do.
        if isinstance(layer, (blocks.PadToStride, blocks.CropTo)):
            return inputs[0]
        if layer.name in grouped:
            return layer(_by_group(inputs[0], grouped[layer.name]))
        return layer(*inputs, **options)

    copy = keras.models.clone_model(
        folded, clone_function=_keras_layer, call_function=calling, recursive=True
    )
    for layer in folded.layers:
        if layer.name in grouped:
            scaling = copy.get_layer(layer.name)
            scaling.set_weights([*layer.get_weights(), *scaling.get_weights()[-2:]])
        elif layer.weights:
            copy.get_layer(layer.name).set_weights(layer.get_weights())
    logits = copy.outputs[0]
    if temperature is not None:
        logits = logits / temperature
    return keras.Model(copy.inputs[0], logits, name="network")


def _keras_layer(layer):
    """Returns a new layer with the settings of another: Keras' own where that is one of ours.

    Of a group normalisation it is what scales and shifts after `_by_group`: a batch normalisation
    whose mean is 0 and whose variance is 1.
    """
    if isinstance(layer, keras.layers.GroupNormalization):
        return keras.layers.BatchNormalization(
            epsilon=0.0,
            center=layer.center,
            scale=layer.scale,
            name=layer.name,
            dtype=layer.dtype_policy,
        )
    of_keras = KERAS_LAYERS.get(type(layer), type(layer))
    return of_keras.from_config(layer.get_config())


def _mean(x):
    """Returns the mean over space, [B, 1 …, C], one axis after the other.

    TensorFlow's sum over two axes adds pixels one by one to a float32 number: the variance of 24
    megapixels is wrong by a hundredth then, and by a millionth so.
    """
    for axis in axes.spatial(axes.rank_of(x)):
        x = ops.mean(x, axis=axis, keepdims=True)
    return x


def _by_group(x, layer):
    """Returns what a keras.layers.GroupNormalization makes of x before it scales and shifts."""
    channels = x.shape[-1]
    groups = channels if layer.groups == -1 else layer.groups
    inside = channels // groups

    def mean(x):
        x = _mean(x)
        if inside == 1:
            return x
        of_groups = ops.mean(ops.reshape(x, (-1, *x.shape[1:-1], groups, inside)), axis=-1)
        return ops.repeat(of_groups, inside, axis=-1)

    centred = ops.cast(x, "float32")
    centred = centred - mean(centred)
    normal = centred / ops.sqrt(mean(ops.square(centred)) + layer.epsilon)
    return ops.cast(normal, x.dtype)


def _by_image(x, mean, std, dtype):
    space = axes.spatial(axes.rank_of(x))
    # See `normalization`: exact for a channel that does not vary.
    origin = x[(slice(None), *(slice(1) for _ in space))]
    offset = origin + _mean(x - origin)
    variance = _mean(ops.square(x - offset))
    varies = ops.cast(variance > 0, "float32")
    return varies * (x - offset) / (ops.sqrt(variance) + (1.0 - varies))


def _by_dataset(x, mean, std, dtype):
    factors = [1 / deviation if deviation else 0.0 for deviation in std]
    return (x - ops.array(list(mean), "float32")) * ops.array(factors, "float32")


def _by_dtype(x, mean, std, dtype):
    highest = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}
    return x / highest[dtype]


NORMALIZED = {"image": _by_image, "dataset": _by_dataset, "none": _by_dtype}


def _line(images, axis):
    """Returns ones along an axis of the images, and of size 1 along the others: float32."""
    line = images[tuple(slice(None if place == axis else 1) for place in range(images.ndim))]
    return ops.ones_like(line, dtype="float32")


def _count(line):
    """Returns 0, 1, 2, … as long as a line, int32 [L]."""
    return ops.cast(ops.cumsum(ops.reshape(line, (-1,))), "int32") - 1


def _places(images, axis):
    return _count(_line(images, axis))


def _mirrored(images, axis, multiple):
    """Returns the places of an axis, and beyond its end those of its mirror image, int32 [L'].

    L' is the next multiple. Keras has no operation that gives a size known only at run time;
    pooling rounds it down and up-sampling multiplies it.
    """
    line = _line(images, axis)
    rank = axes.rank_of(images)
    pool, margin = [1] * rank, [(0, 0)] * rank
    pool[axis - 1], margin[axis - 1] = multiple, (0, multiple - 1)
    longer = layers.ZERO_PADDING[rank](margin)(line)
    longer = layers.UPSAMPLING[rank](pool)(layers.MAX_POOLING[rank](pool)(longer))
    last = ops.cast(ops.sum(line), "int32") - 1
    place = _count(ops.ones_like(longer))
    period = ops.maximum(2 * last, 1)
    place = ops.mod(place, period)
    return ops.minimum(place, period - place)
