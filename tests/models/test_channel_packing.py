"""Packed networks: equal to the plain ones, in outputs, gradients and moving statistics."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import rounding
from tests.devices import strategy_of, without_bfloat16
from trainer import models
from trainer.models import channel_packing
from trainer.training import losses, train_step

# Of the largest number of each tensor. Gradients are sums over 2048 pixels, one after the other
# through twelve layers, each of them two convolutions' and two norms' worth.
TOLERANCE = rounding.tolerance(operations=12 * 4 * 2048)
# Where a ReLU's input is nearly 0, rounding decides its gradient: of some pixel in 100,000.
TOLERANCE_OF_RELU = 5e-3


def small(build=models.build_unet, **options):
    """A network of 4 and 8 channels, and 16 at the bottom, none of whose weights is special."""
    keras.utils.set_random_seed(0)
    model = build(**{"input_shape": (None, None, 1), "n_filters": 4, "depth": 2, **options})
    random = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(variable + random.normal(size=variable.shape) * 0.1)
    return model


def computed(model, forward, images, training):
    """Returns logits, the gradients of variables and images, and all variables afterwards."""
    before = [variable.numpy() for variable in model.variables]
    weights = tf.random.stateless_normal(model(images).shape, (0, 1))

    @tf.function
    def compute(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            logits = forward(images, training=training)
            value = tf.reduce_mean(tf.cast(logits, tf.float32) * weights)
        return logits, tape.gradient(value, [*model.trainable_variables, images])

    logits, gradients = compute(images)
    result = [tensor.numpy() for tensor in (logits, *gradients, *model.variables)]
    for variable, value in zip(model.variables, before, strict=True):
        variable.assign(value)
    return result


def largest_difference(ours, theirs):
    """Returns the largest difference, of the largest number of its tensor."""
    return max(
        np.abs(one.astype(np.float64) - other).max() / (np.abs(other).max() + 1e-12)
        for one, other in zip(ours, theirs, strict=True)
    )


def images_of(*shape):
    return tf.random.stateless_normal(shape, (0, 0))


@pytest.mark.parametrize(
    ("lane_width", "training", "options"),
    [
        pytest.param(16, True, {}, marks=pytest.mark.slow),
        pytest.param(16, True, {"activation": "relu"}, marks=pytest.mark.slow),
        pytest.param(8, False, {}, marks=pytest.mark.slow),
        pytest.param(8, True, {"attention": True, "residual": True}, marks=pytest.mark.slow),
        pytest.param(8, True, {"upsampling": "bilinear"}, marks=pytest.mark.slow),
        pytest.param(16, True, {"norm": "none", "kernel_size": 5}, marks=pytest.mark.slow),
        pytest.param(16, True, {"norm": "sync_batch", "dropout": 0.3}, marks=pytest.mark.slow),
        pytest.param(16, True, {"norm": "instance"}, marks=pytest.mark.slow),
        pytest.param(
            16,
            True,
            {"strides": [(1, 2), (2, 1)], "kernels": [(3, 1), (1, 5), 3]},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            8,
            False,
            {"norm": "group", "num_classes": 3, "head_activation": "softmax"},
            marks=pytest.mark.slow,
        ),
        pytest.param(16, True, {"encoder_blocks": (1, 2)}, marks=pytest.mark.slow),
        pytest.param(16, True, {"build": models.MODELS["unet_plus_plus"]}, marks=pytest.mark.slow),
        pytest.param(16, True, {"rank": 3}, marks=pytest.mark.slow),
        pytest.param(
            8,
            True,
            {"rank": 3, "norm": "instance", "strides": [(1, 2, 2), (2, 2, 1)]},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_packed_network_computes_what_the_plain_one_does(lane_width, training, options):
    sides = {2: (32, 32), 3: (8, 8, 16)}[options.get("rank", 2)]
    model = small(**{"activation": "silu", "input_shape": (*[None] * len(sides), 1), **options})
    images = images_of(2, *sides, 1)
    ours = computed(model, channel_packing.packed(model, lane_width), images, training)
    has_relu = "activation" in options or "attention" in options  # whose gates have it
    tolerance = TOLERANCE_OF_RELU if has_relu else TOLERANCE
    assert largest_difference(ours, computed(model, model, images, training)) < tolerance


@pytest.mark.slow
def test_pixels_share_a_place_where_that_fills_the_lanes():
    model = small(input_shape=(32, 32, 1))
    graph = tf.function(lambda images: channel_packing.packed(model, 16)(images, training=True))
    graph = graph.get_concrete_function(tf.TensorSpec((2, 32, 32, 1))).graph
    shapes = [op.outputs[0].shape.as_list() for op in graph.get_operations() if op.type == "Conv2D"]
    # 32 pixels of 4 channels are 8 places of 16 lanes, and so are 16 pixels of 8 channels each 8.
    encoder = [[2, 32, 8, 16]] * 2 + [[2, 16, 8, 16]] * 2
    # The head's one channel stays in its places.
    decoder = [[2, 16, 8, 16]] * 2 + [[2, 32, 8, 16]] * 2 + [[2, 32, 8, 4]]
    assert shapes == [*encoder, *[[2, 8, 8, 16]] * 2, *decoder]


def test_voxels_share_a_place_along_the_width():
    model = small(input_shape=(4, 8, 16, 1), rank=3, depth=1, strides=[(1, 2, 2)])
    packed = channel_packing.packed(model, 16)
    graph = tf.function(lambda volumes: packed(volumes, training=False))
    graph = graph.get_concrete_function(tf.TensorSpec((2, 4, 8, 16, 1))).graph
    shapes = [op.outputs[0].shape.as_list() for op in graph.get_operations() if op.type == "Conv3D"]
    # 16 voxels of 4 channels are 4 places of 16 lanes, and so are 8 voxels of 8 channels.
    top, bottom = [2, 4, 8, 4, 16], [2, 4, 4, 4, 16]
    assert shapes == [top, top, bottom, bottom, top, top, [2, 4, 8, 4, 4]]


def test_the_packed_kernel_by_hand():
    # Taps a b c of one channel: the left pixel of a place sees its left neighbour, itself, and the
    # right pixel; the right pixel of a place sees the left one, itself, and the next place's left.
    kernel = tf.reshape(tf.constant([1.0, 2.0, 3.0]), (1, 3, 1, 1))
    left, own, right = channel_packing._widen(kernel, 2)[0].numpy()
    assert left.tolist() == [[0, 0], [1, 0]]
    assert own.tolist() == [[2, 1], [3, 2]]
    assert right.tolist() == [[0, 3], [0, 0]]


@pytest.mark.parametrize("shape", [(2, 30, 31, 1), (1, 12, 13, 1)])
def test_sizes_that_no_place_divides_are_computed_all_the_same(shape):
    model = small()
    images = images_of(*shape)
    packed = channel_packing.packed(model, 16)(images)
    rounding.assert_close(packed, model(images), rounding.operations_of(model))


def test_layers_without_a_rule_are_computed_as_they_are():
    # Factors of each channel, operations that are no layers, and a layer that is called twice.
    images = keras.Input((8, 8, 2))
    x = keras.layers.Conv2D(4, 3, padding="same", activation="silu")(images)
    factors = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
    x = keras.layers.Multiply()([x, keras.layers.Conv2D(4, 1, activation="sigmoid")(factors)])
    twice = keras.layers.Conv2D(4, 3, padding="same")
    x = keras.layers.Concatenate()([twice(x), twice(x + 1.0)])
    x = keras.layers.BatchNormalization(scale=False)(keras.layers.Conv2D(4, 1)(x))
    model = keras.Model(images, [keras.layers.DepthwiseConv2D(3)(x), x[:, ::2]])
    inputs = images_of(2, 8, 8, 2)
    packed = channel_packing.packed(model, 16)(inputs)
    for found, expected in zip(packed, model(inputs), strict=True):
        rounding.assert_close(found, expected, operations=100)


def test_with_one_lane_the_network_itself_is_used():
    model = small()
    assert channel_packing.packed(model, channel_packing.LANE_WIDTHS["CPU"]) is model


def test_the_largest_of_four_pixels_by_hand():
    # Two rows of one place of four pixels: 1 9 3 3 above 5 2 0 7.
    place = tf.constant([1.0, 9, 3, 3, 5, 2, 0, 7], shape=(1, 2, 1, 4))
    layer = keras.layers.MaxPooling2D(2)
    with tf.GradientTape() as tape:
        tape.watch(place)
        pooled = channel_packing._max_pooling(
            layer, [channel_packing.Packed((place,), 4)], 4, False
        )
        weighted = pooled.parts[0] * [10.0, 20.0]
    assert pooled.group == 2
    assert pooled.parts[0].numpy().ravel().tolist() == [9, 7]
    assert tape.gradient(weighted, place).numpy().ravel().tolist() == [0, 10, 0, 0, 0, 0, 0, 20]


@pytest.mark.slow
def test_in_bfloat16_both_are_as_far_from_float32():
    without_bfloat16()
    images = images_of(2, 32, 32, 1)
    exact = small()
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        rounded = small()
    finally:
        keras.mixed_precision.set_global_policy("float32")
    rounded.set_weights(exact.get_weights())
    reference = computed(exact, exact, images, training=True)

    def distance(forward):
        ours = computed(rounded, forward, images, training=True)
        return np.sqrt(
            sum(
                np.sum((a.astype(np.float64) - b) ** 2)
                for a, b in zip(ours, reference, strict=True)
            )
            / sum(np.sum(b.astype(np.float64) ** 2) for b in reference)
        )

    plain = distance(rounded)
    assert plain > 1e-4
    assert distance(channel_packing.packed(rounded, 16)) == pytest.approx(plain, rel=0.5)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "norm"), [(1, "batch"), (2, "sync_batch")])
def test_training_packed_gives_the_same_weights(number, norm):
    def train(lane_width):
        strategy = strategy_of(number)
        keras.utils.set_random_seed(0)
        with strategy.scope():
            model = models.build_unet((None, None, 1), 4, depth=2, norm=norm, activation="silu")
            optimizer = keras.optimizers.SGD(0.5)
            optimizer.build(model.trainable_variables)
        images = images_of(8, 16, 16, 1)
        labels = tf.cast(images[..., 0] > 0.5, tf.int32)
        batch = {"images": images, "labels": labels, "valid": tf.ones((8, 16, 16))}
        data = tf.data.Dataset.from_tensor_slices(batch).batch(8 // number, drop_remainder=True)
        iterator = iter(strategy.distribute_datasets_from_function(lambda context: data.repeat()))
        loop = train_step.train_loop(
            strategy,
            model,
            optimizer,
            losses.LOSSES["ce_dice"],
            tf.ones(2),
            lane_width=lane_width,
            jit_compile=number == 1,
        )
        return loop(iterator, tf.constant(3))["loss"].numpy(), model.get_weights()

    (ours, our_weights), (theirs, their_weights) = train(16), train(1)
    steps_apart = 3**0.5 * TOLERANCE
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=steps_apart)
    assert largest_difference(our_weights, their_weights) < steps_apart
