"""Networks: sizes, parameters, saving, precision."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import rounding
from tests.devices import strategy_of, without_bfloat16
from trainer.errors import InputError
from trainer.models import (
    MODELS,
    blocks,
    build_unet,
    fold,
    functional,
    initialize_weights,
    layers,
    norms,
    plain_keras,
)


@pytest.fixture
def mixed_float16():
    keras.mixed_precision.set_global_policy("mixed_float16")


def small(**options):
    return build_unet(**{"input_shape": (32, 32, 1), "n_filters": 2, "depth": 2, **options})


def random_images(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def layers_of(model, kind):
    return [layer for layer in model.layers if isinstance(layer, kind)]


def test_filters_double_up_to_a_limit():
    widths = {
        layer.filters
        for layer in layers_of(small(max_filters=5), keras.layers.Conv2D)
        if layer.name != "logits"
    }
    assert widths == {2, 4, 5}  # of 2, 4, 8


def test_the_default_network_has_the_known_31_million_parameters():
    widths = [64, 128, 256, 512, 1024]
    encoder = sum(9 * i * o + 9 * o * o for i, o in zip([1, *widths], widths, strict=False))
    # Upwards: 2x2 kernels from 2o to o channels, then two 3x3 from 2o (with the skip) and o.
    decoder = sum(4 * 2 * o * o + 9 * 2 * o * o + 9 * o * o for o in widths[:4])
    head = 64 + 1
    # Channels behind convolutions: two a block, one an up-convolution.
    channels = 2 * sum(widths) + 3 * sum(widths[:4])
    # With a bias per channel, that is the count of the network without norms.
    assert encoder + decoder + head + channels == 31_030_593

    # Ours has a scale and a shift per channel instead,
    model = build_unet(input_shape=(256, 256, 1), n_filters=64)
    trainable = sum(np.prod(variable.shape) for variable in model.trainable_variables)
    assert trainable == encoder + decoder + head + 2 * channels == 31_037_441
    # and a running mean and variance, which are not trained.
    assert model.count_params() == trainable + 2 * channels == 31_051_137


def parameters_of_the_residual_encoder(widths, numbers, kernel, transposed):
    """Returns the numbers of all kernels but the head's, and of channels that have a norm."""
    levels = list(zip(widths, widths[1:], numbers[1:], strict=False))
    kernels = kernel * widths[0] + numbers[0] * 2 * kernel * widths[0] ** 2
    channels = widths[0] * (1 + 2 * numbers[0])
    for above, width, number in levels:
        projected = above != width
        kernels += kernel * above * width + (2 * number - 1) * kernel * width**2
        kernels += projected * above * width
        channels += width * (2 * number + projected)
        # Upwards: from `width` to `above`, then one convolution of both halves.
        kernels += transposed * width * above + kernel * 2 * above**2
        channels += 2 * above
    return kernels, channels


def test_the_residual_encoder_has_the_102_million_parameters_of_nnunets():
    numbers = [1, 3, 4, 6, 6, 6]
    widths = [32, 64, 128, 256, 320, 320]
    kernels, _ = parameters_of_the_residual_encoder(widths, numbers, kernel=27, transposed=8)
    assert kernels == 102_306_656
    # The same, at an eighth of the width.
    widths = [width // 8 for width in widths]
    kernels, channels = parameters_of_the_residual_encoder(widths, numbers, 27, 8)
    shape = (None, None, None, 1)
    model = MODELS["residual_encoder_unet"](shape, 4, 3, rank=3, depth=5, max_filters=40)
    trainable = sum(np.prod(variable.shape) for variable in model.trainable_variables)
    assert trainable == kernels + 2 * channels + (4 * 3 + 3)


def test_unet_plus_plus_has_the_9_million_parameters_of_the_paper():
    # Table 1 of Zhou et al., 2018: 9.04 M, of 32 to 512 channels, colour images and four outputs.
    model = MODELS["unet_plus_plus"]((None, None, 3), 32, 1, norm="none", deep_supervision=True)
    widths = [32, 64, 128, 256, 512]
    encoder = sum(9 * i * o + 9 * o * o + 2 * o for i, o in zip([3, *widths], widths, strict=False))
    rest = 4 * (32 + 1)
    for level, (width, below) in enumerate(zip(widths, widths[1:], strict=False)):
        for node in range(1, 5 - level):  # of as many earlier ones and what comes from below
            rest += 4 * below * width + width
            rest += 9 * (node + 1) * width**2 + 9 * width**2 + 2 * width
    assert model.count_params() == encoder + rest == 9_042_276


def test_unet_plus_plus_is_trained_by_each_node_of_the_top_at_full_resolution():
    model = MODELS["unet_plus_plus"]((32, 32, 1), 2, depth=3, deep_supervision=True)
    outputs = model(random_images(1, 32, 32, 1))
    assert [output.shape for output in outputs] == [(1, 32, 32, 1)] * 3
    predicting = functional.prediction_model(model)
    plain = MODELS["unet_plus_plus"]((32, 32, 1), 2, depth=3)
    assert predicting.count_params() == plain.count_params() == model.count_params() - 2 * 3
    with pytest.raises(InputError) as error:
        MODELS["unet_plus_plus"]((32, 32, 1), 2, depth=1, deep_supervision=True)
    assert str(error.value) == (
        "deep_supervision with depth=1 has one node with logits; use depth=2 or more, or leave it "
        "out."
    )


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        ((11, 14), {"strides": [(1, 2), 3], "kernels": [(1, 3), 3, 5], "upsampling": "bilinear"}),
        ((5, 12, 10), {"strides": [(1, 2, 2), 2], "kernels": [(1, 3, 3), 3, 3], "max_filters": 3}),
    ],
)
def test_every_network_takes_images_and_volumes_of_any_size_and_levels(name, sizes, options):
    rank = len(sizes)
    model = MODELS[name]((*[None] * rank, 2), 2, 3, rank=rank, depth=2, dropout=0.2, **options)
    assert model(random_images(1, *sizes, 2)).shape == (1, *sizes, 3)


def test_without_norms_every_channel_has_a_bias_instead():
    # Depth 1 with 2 filters of 1 channel: 3x3 kernels, a 2x2 kernel, the head, and biases.
    kernels = 9 * (1 * 2 + 2 * 2 + 2 * 4 + 4 * 4 + 4 * 2 + 2 * 2) + 4 * 4 * 2 + 2
    biases = 2 + 2 + 4 + 4 + 2 + 2 + 2 + 1
    assert small(depth=1, norm="none").count_params() == kernels + biases


def test_depth_and_filters_set_the_deepest_convolution():
    model = small(depth=3, n_filters=3)
    filters = [layer.filters for layer in layers_of(model, keras.layers.Conv2D)]
    assert max(filters) == 3 * 2**3
    assert len(layers_of(model, keras.layers.MaxPooling2D)) == 3


@pytest.mark.parametrize("norm", norms.NORMS)
@pytest.mark.parametrize("name", MODELS)
def test_every_network_takes_every_norm(name, norm):
    model = MODELS[name](input_shape=(16, 16, 3), n_filters=4, depth=2, num_classes=3, norm=norm)
    logits = model(random_images(2, 16, 16, 3), training=True)
    assert logits.shape == (2, 16, 16, 3)
    assert np.all(np.isfinite(logits))


@pytest.mark.parametrize("norm", norms.NORMS)
def test_only_convolutions_without_a_norm_have_a_bias(norm):
    model = small(norm=norm, residual=True, upsampling="transpose")
    hidden = [x for x in layers_of(model, keras.layers.Conv2D) if x.name != "logits"]
    hidden += layers_of(model, keras.layers.Conv2DTranspose)
    assert {layer.use_bias for layer in hidden} == {norm == "none"}
    assert model.get_layer("logits").use_bias


@pytest.mark.parametrize(
    ("rank", "strides", "shapes"),
    [
        (2, (), [(32, 32), (16, 16), (8, 8)]),
        (3, [(1, 2, 2), 2, 2, 2], [(16, 32, 16), (16, 16, 8), (8, 8, 4)]),
    ],
)
def test_deep_supervision_gives_logits_at_each_level_of_the_decoder_but_the_lowest(
    rank, strides, shapes
):
    options = {"rank": rank, "depth": 4, "strides": strides, "num_classes": 3}
    options["input_shape"] = (*[None] * rank, 1)
    plain, model = small(**options), small(**options, deep_supervision=True)
    outputs = model(np.zeros((1, *shapes[0], 1), np.float32))
    assert [output.shape[1:] for output in outputs] == [(*shape, 3) for shape in shapes]
    # 1x1 kernels from 2·2 and 2·4 channels to 3, with a bias each.
    assert model.count_params() - plain.count_params() == (4 * 3 + 3) + (8 * 3 + 3)
    # What is left without them is the plain network, its layers in the same order.
    predicting = functional.prediction_model(model)
    kinds = [
        [(type(x), [w.shape for w in x.weights]) for x in m.layers] for m in (plain, predicting)
    ]
    assert kinds[0] == kinds[1]
    exported = [layer.name for layer in plain_keras.core(model).layers]
    assert [name for name in exported if name.startswith("logits")] == ["logits"]


def test_skip_connections_reach_the_decoder():
    model = small()
    for level, joined in enumerate(reversed(layers_of(model, keras.layers.Concatenate))):
        assert joined.output.shape[-1] == 2 * 2 * 2**level


@pytest.mark.parametrize("upsampling", ["transpose", "bilinear"])
def test_up_conv_doubles_height_and_width(upsampling):
    x = keras.Input((3, 5, 8))
    assert blocks.up_conv(x, 4, upsampling=upsampling).shape == (None, 6, 10, 4)


def test_attention_scales_the_skip_by_a_factor_between_0_and_1():
    skip, signal = keras.Input((4, 4, 6)), keras.Input((4, 4, 3))
    gate = keras.Model([skip, signal], blocks.attention_gate(skip, signal))
    ones = np.ones((1, 4, 4, 6), np.float32)
    factors = gate([ones, random_images(1, 4, 4, 3)]).numpy()
    assert np.all((factors > 0) & (factors < 1))
    np.testing.assert_allclose(factors, factors[..., :1] * ones)


def test_instance_norm_makes_each_channel_of_each_image_mean_0_and_deviation_1():
    x = keras.Input((4, 4, 3))
    model = keras.Model(x, norms.normalize(x, "instance"))
    normal = model(100 * random_images(2, 4, 4, 3) + 7).numpy()
    apart = rounding.tolerance(operations=4 * 4 * 4, magnitude=3)
    np.testing.assert_allclose(normal.mean(axis=(1, 2)), 0, atol=apart)
    np.testing.assert_allclose(normal.std(axis=(1, 2)), 1, atol=apart)


def trained(layer, images, weights, *, size=(5, 4), jit_compile=False):
    """Returns a norm's outputs and gradients, scale and offset being nothing special."""
    layer.build(images.shape)
    layer.gamma.assign([1.0, 2.0, 3.0, -1.0, -2.0, 0.5])
    layer.beta.assign([0.0, 1.0, -1.0, 2.0, 0.0, 3.0])

    @tf.function(input_signature=[tf.TensorSpec((3, *size, 6))], jit_compile=jit_compile)
    def train(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
            loss = tf.reduce_sum(weights * y * y)
        return y, tape.gradient(loss, [x, layer.gamma.value, layer.beta.value])

    return train(images)


def assert_same_norm(found, expected):
    """Sums of 3·5·4 pixels, six after one another, on means of up to ten deviations."""
    largest = np.abs(np.asarray(expected)).max()
    rounding.assert_close(found, expected, operations=6 * 60, magnitude=10 * largest)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_fused_batch_norm_is_batch_norm(jit_compile):
    images, weights = random_images(3, 5, 4, 6), random_images(3, 5, 4, 6)
    results = []
    for layer in (keras.layers.BatchNormalization(momentum=0.9), norms.NORMS["batch"](6)):
        result = trained(layer, 100 * images + 7, weights, jit_compile=jit_compile)
        moving = [layer.moving_mean.numpy(), layer.moving_variance.numpy()]
        results.append([result, moving, layer(images, training=False)])
    keras_figures, ours = (tf.nest.flatten(result) for result in results)
    for expected, found in zip(keras_figures, ours, strict=True):
        assert_same_norm(found, expected)


@pytest.mark.parametrize(
    ("channels", "dtype"), [(8, "float32"), (16, "bfloat16"), (24, "float32"), (32, "bfloat16")]
)
def test_fused_batch_norm_computes_in_bfloat16_what_onednn_has_a_kernel_for(channels, dtype):
    layer = norms.NORMS["batch"](channels)
    layer.dtype_policy = keras.DTypePolicy("mixed_bfloat16")
    layer.build((None, 4, 4, channels))

    @tf.function(input_signature=[tf.TensorSpec((2, 4, 4, channels), tf.bfloat16)])
    def normalized(x):
        return layer(x, training=True)

    graph = normalized.get_concrete_function().graph
    kernels = [op for op in graph.get_operations() if op.type == "FusedBatchNormV3"]
    assert [op.get_attr("T").name for op in kernels] == [dtype]
    assert graph.structured_outputs.dtype == tf.bfloat16


@pytest.mark.parametrize(("norm", "groups"), [("instance", 6), ("group", 2)])
@pytest.mark.parametrize(
    ("size", "jit_compile"), [((5, 4), False), ((5, 4), True), ((None, None), False)]
)
def test_group_norm_is_that_of_keras(norm, groups, size, jit_compile):
    # 100 x + 7 and images of other means: statistics of another image or channel would show.
    images = 100 * random_images(3, 5, 4, 6) * np.arange(1, 4).reshape(3, 1, 1, 1) + 7
    weights = random_images(3, 5, 4, 6)
    layers = keras.layers.GroupNormalization(groups=groups), norms.NORMS[norm](6)
    results = [
        tf.nest.flatten(trained(layer, images, weights, size=size, jit_compile=jit_compile))
        for layer in layers
    ]
    for expected, found in zip(*results, strict=True):
        assert_same_norm(found, expected)


@pytest.mark.parametrize(("norm", "groups"), [("instance", 6), ("group", 2)])
def test_group_norm_of_a_large_image_is_that_of_exact_sums(norm, groups):
    images = random_images(1, 1500, 1000, 6) + np.arange(6, dtype=np.float32)
    images[:, :700] *= 0.25
    exact = images.astype(np.float64).reshape(1, 1500, 1000, groups, -1)
    exact -= exact.mean((1, 2, 4), keepdims=True)
    exact /= np.sqrt((exact**2).mean((1, 2, 4), keepdims=True) + 1e-3)
    found = norms.NORMS[norm](6)(images)
    np.testing.assert_allclose(found, exact.reshape(images.shape), atol=2e-5)


@pytest.mark.parametrize("number", [1, 2, 4])
def test_sync_batch_norm_is_batch_norm_of_the_whole_batch(number):
    # The parts have other means and variances than the whole; 100 x + 7 cancels where squares do.
    images = 100 * random_images(4, 3, 5, 6) * np.arange(1, 5).reshape(4, 1, 1, 1) + 7
    weights = random_images(4, 3, 5, 6)[:, ::-1].copy()
    images[0] += 300
    results = []
    for count, norm in ((1, "batch"), (number, "sync_batch")):
        strategy = strategy_of(count)
        with strategy.scope():
            layer = norms.NORMS[norm](6)
            layer.build(images.shape)
        layer.gamma.assign([1.0, 2.0, 3.0, -1.0, -2.0, 0.5])
        layer.beta.assign([0.0, 1.0, -1.0, 2.0, 0.0, 3.0])

        def part(x, w, layer=layer):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x, training=True)
                loss = tf.reduce_sum(w * y * y)
            at_x, *sums = tape.gradient(loss, [x, layer.gamma.value, layer.beta.value])
            context = tf.distribute.get_replica_context()
            return y, at_x, context.all_reduce(tf.distribute.ReduceOp.SUM, sums)

        @tf.function
        def train(*batches, strategy=strategy, part=part):
            return strategy.run(part, args=batches)

        batches = [
            strategy.experimental_distribute_values_from_function(
                lambda context, whole=whole, count=count: tf.constant(
                    np.split(whole, count)[context.replica_id_in_sync_group]
                )
            )
            for whole in (images.astype(np.float32), weights)
        ]
        y, at_x, sums = train(*batches)
        local = strategy.experimental_local_results
        results.append([np.concatenate(local(value)) for value in (y, at_x)])
        results[-1] += [local(value)[0].numpy() for value in sums]
        results[-1] += [layer.moving_mean.numpy(), layer.moving_variance.numpy()]
    for expected, found in zip(*results, strict=True):
        assert_same_norm(found, expected)


def test_batch_and_sync_batch_name_their_variables_alike():
    paths = []
    for norm in ("batch", "sync_batch"):
        keras.backend.clear_session()  # which restarts the count of names
        paths.append([variable.path for variable in small(norm=norm).variables])
    assert paths[0] == paths[1]


def test_the_norm_of_a_setting_is_that_of_the_whole_batch_by_default():
    assert [norms.choose("auto", number) for number in (1, 2, 8)] == [
        "batch",
        "sync_batch",
        "sync_batch",
    ]
    assert norms.choose("batch", 8) == "batch"


def test_weights_move_between_fused_batch_norm_and_keras():
    fused, plain = norms.NORMS["batch"](2), keras.layers.BatchNormalization()
    for layer in (fused, plain):
        layer.build((None, 4, 4, 2))
    fused.moving_mean.assign([3.0, 4.0])
    plain.set_weights(fused.get_weights())
    assert [v.path.split("/")[-1] for v in plain.variables] == [
        v.path.split("/")[-1] for v in fused.variables
    ]
    np.testing.assert_array_equal(plain.moving_mean, [3.0, 4.0])


@pytest.mark.parametrize("norm", ["batch", "sync_batch", "group", "instance"])
def test_statistics_are_float32_under_mixed_precision(norm, mixed_float16):
    x = keras.Input((4, 4, 8))
    model = keras.Model(x, norms.normalize(x, norm))
    # The variance of +-300 is 90000, beyond float16.
    signs = np.sign(random_images(2, 4, 4, 8))
    signs[:, ::2] = -signs[:, 1::2]
    normal = model(300 * signs, training=True)
    assert normal.dtype == tf.float16
    apart = rounding.tolerance(operations=2, dtype="float16")
    np.testing.assert_allclose(np.asarray(normal, np.float32), signs, rtol=apart)


def test_logits_are_float32_under_mixed_precision(mixed_float16):
    model = small()
    assert layers_of(model, keras.layers.MaxPooling2D)[0].output.dtype == "float16"
    assert model(random_images(1, 32, 32, 1)).dtype == tf.float32
    assert small(head_activation="sigmoid").output.dtype == "float32"


def test_head_activations_are_those_of_the_logits():
    logits = small(num_classes=3)
    images = random_images(1, 32, 32, 1)
    for name, function in {"sigmoid": tf.sigmoid, "softmax": tf.nn.softmax}.items():
        model = small(num_classes=3, head_activation=name)
        model.set_weights(logits.get_weights())
        expected = function(logits(images)).numpy()
        rounding.assert_close(model(images), expected, rounding.operations_of(model))


def test_fixed_sizes_that_the_stride_divides_add_no_layer():
    added = (keras.layers.ZeroPadding2D, keras.layers.Cropping2D, blocks.PadToStride)
    assert not layers_of(small(), added)
    assert layers_of(small(input_shape=(30, 32, 1)), added)


def test_any_size_is_padded_with_zeros_below_and_right_and_cropped_back():
    images = random_images(2, 13, 18, 1)
    padded = np.zeros((2, 16, 20, 1), np.float32)
    padded[:, :13, :18] = images
    divisible = small(input_shape=(16, 20, 1))
    expected = divisible(padded)[:, :13, :18]
    for shape in [(13, 18, 1), (None, None, 1), (13, None, 1)]:
        model = small(input_shape=shape)
        model.set_weights(divisible.get_weights())
        assert model.output.shape == (None, *shape)
        rounding.assert_close(model(images), expected, rounding.operations_of(model))


@pytest.mark.slow
def test_sizes_known_at_run_time_work_inside_xla():
    model = small(input_shape=(None, None, 1))
    compiled = tf.function(model, jit_compile=True)
    for height, width in [(13, 18), (16, 20)]:
        images = random_images(1, height, width, 1)
        rounding.assert_close(compiled(images), model(images), rounding.operations_of(model))


def test_sizes_known_at_run_time_work_in_one_graph_for_all_sizes():
    model = small(input_shape=(None, None, 1))
    graph = tf.function(model, input_signature=[tf.TensorSpec([None, None, None, 1])])
    for height, width in [(13, 18), (16, 20)]:
        images = random_images(1, height, width, 1)
        rounding.assert_close(graph(images), model(images), rounding.operations_of(model))


def test_sizes_that_the_stride_divides_cost_nothing_in_the_graph_of_one_size():
    model = small(input_shape=(None, None, 1))
    graph = tf.function(model).get_concrete_function(tf.TensorSpec([1, 16, 20, 1])).graph
    assert not {"Pad", "StridedSlice"} & {operation.type for operation in graph.get_operations()}


def test_valid_padding_reproduces_the_sizes_of_the_paper():
    model = build_unet((572, 572, 1), n_filters=1, num_classes=2, padding="valid")
    assert model.output.shape == (None, 388, 388, 2)


def test_valid_padding_equals_the_middle_of_same_padding():
    # Depth 1, without bias or norm: same padding differs only near the border.
    options = {"input_shape": (32, 32, 1), "depth": 1, "n_filters": 2, "norm": "none"}
    same, valid = build_unet(**options), build_unet(**options, padding="valid", residual=False)
    valid.set_weights(same.get_weights())
    images = random_images(1, 32, 32, 1)
    # Each side loses 2 + 2 * 2 + 2 pixels.
    middle = same(images)[:, 8:-8, 8:-8]
    rounding.assert_close(valid(images), middle, rounding.operations_of(same))


def test_dropout_acts_in_training_only():
    model = small(dropout=0.5)
    images = random_images(1, 32, 32, 1)
    assert len(layers_of(model, keras.layers.Dropout)) == 2
    np.testing.assert_array_equal(model(images), model(images))
    assert not np.allclose(model(images, training=True), model(images, training=True))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"input_shape": (None, None, 1)}, {}, {"norm": "group"}])
def test_a_saved_network_is_read_back(options, tmp_path):
    model = small(**options, attention=True, residual=True)
    model.save(tmp_path / "model.keras")
    images = random_images(2, 32, 32, 1)
    restored = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(restored(images), model(images))


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["batch", "sync_batch", "instance"])
def test_plain_keras_can_read_the_copy_made_for_it(norm):
    model = small(input_shape=(None, None, 1), attention=True, norm=norm, num_classes=3)
    images = random_images(2, 32, 32, 1)
    model(images, training=True)  # moves the statistics
    core = plain_keras.core(model)
    assert "trainer" in model.to_json()
    assert "trainer" not in core.to_json()
    logits = model(images).numpy()
    apart = rounding.tolerance(rounding.operations_of(model), np.abs(logits).max())
    np.testing.assert_allclose(core(images), tf.nn.softmax(logits), rtol=0, atol=apart)


@pytest.mark.slow
def test_weights_are_a_function_of_the_seed_whatever_else_draws_random_numbers():
    kernels = []
    for seed in (3, 3, 4):
        random.random()
        model = small(dropout=0.5)
        initialize_weights(model, seed)
        kernels.append([variable.numpy() for variable in model.variables])
    for first, second in zip(kernels[0], kernels[1], strict=True):
        np.testing.assert_array_equal(first, second)
    assert not np.array_equal(kernels[0][0], kernels[2][0])
    # The initialisation's own spread, sqrt(2 / fan-in), is kept.
    wide = small(n_filters=64)
    initialize_weights(wide, 0)
    kernel = layers_of(wide, keras.layers.Conv2D)[1].kernel
    assert np.std(kernel) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
    assert not np.array_equal(layers_of(wide, keras.layers.Conv2D)[2].kernel[..., :64, :64], kernel)


def volume_of(images, depth):
    """Returns a volume of equal planes, [B, D, H, W, C]."""
    return np.repeat(images[:, np.newaxis], depth, axis=1)


def give_weights_of_planes(volumes, images):
    """Gives a network of volumes the weights that make each plane what a network of images makes.

    Kernels are those of the other in their middle plane, and 0 in the others. A transposed
    convolution makes two planes of one, both by the same kernel.
    """
    for ours, theirs in zip(volumes.layers, images.layers, strict=True):
        weights = theirs.get_weights()
        if isinstance(ours, keras.layers.Conv3DTranspose):
            weights[0] = np.stack([weights[0], weights[0]])
        elif isinstance(ours, keras.layers.Conv3D):
            kernel = np.zeros(ours.kernel.shape, np.float32)
            kernel[len(kernel) // 2] = weights[0]
            weights[0] = kernel
        ours.set_weights(weights)


@pytest.mark.parametrize("norm", norms.NORMS)
def test_a_network_of_volumes_makes_of_equal_planes_what_that_of_images_makes_of_one(norm):
    options = {"norm": norm, "activation": "silu", "residual": True, "attention": True}
    options.update(n_filters=4, num_classes=3, depth=1)
    of_images = build_unet((6, 9, 2), **options)
    of_volumes = build_unet((4, 6, 9, 2), rank=3, **options)
    initialize_weights(of_images, 0)
    give_weights_of_planes(of_volumes, of_images)
    images = random_images(2, 6, 9, 2)
    upstream = random_images(2, 6, 9, 3)

    def computed(model, inputs, weights):
        with tf.GradientTape() as tape:
            outputs = model(inputs, training=True)
            value = tf.reduce_sum(outputs * weights)
        return outputs.numpy(), tape.gradient(value, model.trainable_variables)

    plane, gradients = computed(of_images, images, upstream)
    planes, of_kernels = computed(of_volumes, volume_of(images, 4), volume_of(upstream, 4) / 4)
    operations = rounding.operations_of(of_volumes)
    rounding.assert_close(planes, volume_of(plane, 4), operations)
    # The gradient of the last kernel, as that of every plane alike, is the mean over planes.
    summed = 2 * 6 * 9 * 4 * operations
    rounding.assert_close(of_kernels[-2][0], gradients[-2], summed)
    assert all(np.all(np.isfinite(gradient)) for gradient in of_kernels)
    statistics = zip(
        of_volumes.non_trainable_variables, of_images.non_trainable_variables, strict=True
    )
    for ours, theirs in statistics:
        rounding.assert_close(ours.numpy(), theirs.numpy(), summed)


@pytest.mark.parametrize("strides", [(), [(1, 2, 2), 2], [(2, 1, 1), (1, 1, 2)], [(3, 1, 2), 1]])
def test_volumes_of_any_size_are_padded_and_cropped_back(strides):
    volume = random_images(1, 5, 6, 7, 1)
    fixed, free = (
        build_unet(shape, 2, rank=3, depth=2, strides=strides)
        for shape in [(5, 6, 7, 1), (None, None, None, 1)]
    )
    assert fixed.output.shape == (None, 5, 6, 7, 1)
    free.set_weights(fixed.get_weights())
    rounding.assert_close(free(volume), fixed(volume), rounding.operations_of(fixed))


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_along_an_axis_with_strides_and_kernels_of_1_each_plane_is_an_image_by_itself(axis):
    def numbers(value):
        """Returns `value` for all axes but this one, which has 1."""
        return tuple(1 if place == axis else value for place in (1, 2, 3))

    options = {"n_filters": 4, "depth": 2, "norm": "none", "residual": True, "attention": True}
    of_images = build_unet((8, 12, 2), kernels=[1, 3, 3], **options)
    of_volumes = build_unet(
        np.insert((8, 12, 2), axis - 1, 5),
        rank=3,
        strides=[numbers(2)] * 2,
        kernels=[1, numbers(3), numbers(3)],
        **options,
    )
    for ours, theirs in zip(of_volumes.layers, of_images.layers, strict=True):
        weights = theirs.get_weights()
        if weights:
            weights[0] = np.expand_dims(weights[0], axis - 1)
        ours.set_weights(weights)
    volume = random_images(1, *np.insert((8, 12, 2), axis - 1, 5))
    planes = of_images(np.moveaxis(volume[0], axis - 1, 0))
    expected = np.moveaxis(planes.numpy(), 0, axis - 1)[np.newaxis]
    rounding.assert_close(of_volumes(volume), expected, rounding.operations_of(of_volumes))


@pytest.mark.parametrize(
    ("depth", "kernel", "stride"),
    [(2, 3, 1), (3, 5, 1), (1, 3, 1), (4, 3, 1), (2, 3, 2), (3, 5, 2), (4, 5, 2)],
)
def test_gradients_of_shallow_volumes_are_right_in_bfloat16(depth, kernel, stride):
    without_bfloat16()
    layer = layers.CONVOLUTION[3](8, kernel, strides=stride, padding="same", dtype="mixed_bfloat16")
    volume = tf.cast(tf.cast(random_images(2, depth, 4, 4, 8), tf.bfloat16), tf.float32)
    layer.build(volume.shape)
    layer.kernel.assign(tf.cast(tf.cast(layer.kernel, tf.bfloat16), tf.float32))

    @tf.function
    def gradients(convolve):
        with tf.GradientTape() as tape:
            tape.watch(volume)
            outputs = tf.cast(convolve(volume), tf.float32)
            loss = tf.reduce_sum(outputs * random_images(*outputs.shape))
        return outputs, *tape.gradient(loss, [volume, layer.kernel.value])

    exact = gradients(lambda x: tf.nn.convolution(x, layer.kernel.value, stride, "SAME"))
    # Inputs, kernels and what comes back are rounded once each, and so is each result.
    for found, expected in zip(gradients(layer), exact, strict=True):
        apart = rounding.tolerance(2, np.abs(expected).max(), "bfloat16")
        np.testing.assert_allclose(found, expected, rtol=0, atol=apart)


def test_a_graph_convolves_padded_volumes_as_python_does():
    model = build_unet((5, 4, 7, 1), 2, rank=3, depth=1)  # padded to 6×4×8
    volume = random_images(2, 5, 4, 7, 1)
    expected = model(volume)
    rounding.assert_close(tf.function(model)(volume), expected, rounding.operations_of(model))


def test_a_graph_convolves_shallow_volumes_in_bfloat16_as_python_does():
    without_bfloat16()
    volume = keras.Input((2, 4, 4, 8))
    convolution = layers.CONVOLUTION[3](8, 3, padding="same", dtype="mixed_bfloat16")
    model = keras.Model(volume, convolution(volume))
    found, expected = (
        tf.cast(call(random_images(2, 2, 4, 4, 8)), tf.float32).numpy()
        for call in (tf.function(model), model)
    )
    apart = rounding.tolerance(2, np.abs(expected).max(), "bfloat16")
    np.testing.assert_allclose(found, expected, rtol=0, atol=apart)


def test_networks_of_volumes_compute_in_float16_on_a_cpu(mixed_float16):
    model = build_unet((4, 4, 4, 1), 2, rank=3, depth=1)
    volume = random_images(1, 4, 4, 4, 1)
    found = tf.function(model)(volume)
    keras.mixed_precision.set_global_policy("float32")
    exact = build_unet((4, 4, 4, 1), 2, rank=3, depth=1)
    exact.set_weights(model.get_weights())
    expected = exact(volume).numpy()
    apart = rounding.tolerance(rounding.operations_of(exact), np.abs(expected).max(), "float16")
    np.testing.assert_allclose(found, expected, rtol=0, atol=apart)


def test_valid_padding_takes_its_pixels_off_volumes_too():
    # 20 → 16 → 8 → 4 → 8 → 4, at depth 1; a skip of 16 is cropped to 8.
    model = build_unet((20, 20, 22, 1), 2, rank=3, depth=1, padding="valid")
    assert model.output.shape == (None, 4, 4, 6, 1)
    # Along the first axis nothing is halved, and only the bottom's kernels take 2 · 2 off.
    levels = {"strides": [(1, 2, 2)], "kernels": [(1, 3, 3), 3]}
    model = build_unet((7, 20, 22, 1), 2, rank=3, depth=1, padding="valid", **levels)
    assert model.output.shape == (None, 3, 4, 6, 1)


@pytest.mark.slow
@pytest.mark.parametrize("strides", [(), [(1, 2, 2)]])
def test_folding_and_export_take_networks_of_volumes(strides):
    model = build_unet((None, None, None, 1), 4, rank=3, depth=1, num_classes=2, strides=strides)
    volume = random_images(1, 8, 8, 8, 1)
    model(volume, training=True)  # moves the statistics
    logits = model(volume).numpy()
    folded = fold(model)
    assert not layers_of(folded, keras.layers.BatchNormalization)
    rounding.assert_close(folded(volume), logits, rounding.operations_of(model))
    whole = plain_keras.plain(model, "none", (0.0,), (1.0,), "float32", 4)
    apart = rounding.tolerance(rounding.operations_of(model), np.abs(logits).max())
    np.testing.assert_allclose(whole(volume), tf.nn.softmax(logits), rtol=0, atol=apart)
    assert whole(random_images(1, 3, 8, 5, 1)).shape == (1, 3, 8, 5, 2)


@pytest.mark.slow
def test_fit_on_numpy_arrays_learns():
    keras.utils.set_random_seed(0)
    images = random_images(8, 16, 16, 1)
    masks = (images > 0).astype(np.float32)
    model = small(input_shape=(16, 16, 1), n_filters=4)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile("adam", loss, jit_compile=False)  # which takes longer than these few steps
    model.optimizer.learning_rate = 0.01
    losses = model.fit(images, masks, batch_size=4, epochs=20, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"norm": "layer"},
            "norm=layer is not a choice; use one of: batch, sync_batch, group, instance, none.",
        ),
        ({"activation": "rely"}, "activation=rely is not an activation of Keras; use relu."),
        ({"padding": "full"}, "padding=full is not a choice; use one of: same, valid."),
        (
            {"upsampling": "nearest"},
            "upsampling=nearest is not a choice; use one of: transpose, bilinear.",
        ),
        (
            {"head_activation": "relu"},
            "head_activation=relu is not a choice; use one of: None, sigmoid, softmax.",
        ),
        (
            {"head_activation": "softmax"},
            "head_activation=softmax of num_classes=1 is 1 everywhere; use sigmoid or two classes.",
        ),
        ({"rank": 4}, "rank=4 is not a choice; use one of: 2, 3."),
        (
            {"rank": 3},
            "input_shape=(32, 32, 1) is not (depth, height, width, channels) with a known number of"
            " channels; use for example (64, 64, 64, 1).",
        ),
        (
            {"rank": 3, "input_shape": (32, 32, 32, 1), "upsampling": "bilinear"},
            "upsampling=bilinear is for images; with rank=3 use transpose.",
        ),
        ({"depth": 0}, "depth=0 must be at least 1."),
        ({"n_filters": 0}, "n_filters=0 must be at least 1."),
        (
            {"max_filters": 1},
            "max_filters=1 is less than n_filters=2; use 0 for no limit.",
        ),
        ({"num_classes": 0}, "num_classes=0 must be at least 1."),
        ({"dropout": 1.0}, "dropout=1.0 is not a fraction; use at least 0 and less than 1."),
        (
            {"input_shape": (32, 32)},
            "input_shape=(32, 32) is not (height, width, channels) with a known number of"
            " channels; use for example (256, 256, 1).",
        ),
        (
            {"input_shape": (None, 44, 1), "padding": "valid"},
            "height=None needs padding=same; padding=valid takes fixed sizes, as 572.",
        ),
        (
            {"input_shape": (44, 50, 1), "padding": "valid"},
            "width=50 cannot be reduced 2 times with padding=valid and kernels of 3/3/3;"
            " use 52 or padding=same.",
        ),
        (
            {"encoder_blocks": (1,), "padding": "valid", "input_shape": (44, 44, 1)},
            "encoder_blocks are padded; use padding=same.",
        ),
        (
            {"deep_supervision": True},
            "deep_supervision with depth=2 has no level between the lowest of the decoder and the "
            "full resolution; use depth=3 or more, or leave it out.",
        ),
        (
            {"deep_supervision": True, "depth": 3, "head_activation": "sigmoid"},
            "deep_supervision is for training by logits of padded images; use padding=same and "
            "head_activation=None.",
        ),
        (
            {"strides": [2]},
            "strides=[2] has 1 levels; give 2, by depth.",
        ),
        (
            {"kernels": [3, (1, 3, 3), 3]},
            "kernels=[3, (1, 3, 3), 3] is not whole numbers from 1 up, one or 2 for each level.",
        ),
    ],
)
def test_arguments_out_of_range_are_named(options, message):
    with pytest.raises(InputError) as error:
        small(**options)
    assert str(error.value) == message
