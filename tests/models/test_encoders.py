"""Encoders of keras.applications: their features, any number of channels, and what reads them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import rounding
from tests.devices import strategy_of
from tests.encoders import NAME, ROW, drawn
from tests.runs import draw
from trainer import config, models
from trainer.errors import InputError
from trainer.models import build, channel_packing, encoders, norms, plain_keras
from trainer.models.sync_norm import SyncBatchNormalization
from trainer.training import losses, train_step

PIXELS = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3)).astype(np.float32)


@pytest.fixture
def row(monkeypatch):
    monkeypatch.setitem(encoders.ENCODERS, NAME, ROW)


def features_of(name, whole, channels=3, normalize="none", norm="batch"):
    """Returns our network of the features, with the weights of `whole`."""
    images = keras.Input((None, None, channels))
    found = encoders.features(name, images, normalize=normalize, norm=norm)
    model = keras.Model(images, found)
    encoders.set_weights(model, name, whole)
    return model


@pytest.fixture
def whole(row):
    return drawn(NAME)


@pytest.fixture
def network(row):
    """A whole network with an encoder, of images of three channels."""
    model = build.build_model(config.Model(encoder=NAME, filters=4), 3, 3)
    draw(model)
    return model


# What Keras' documentation says that each takes, as pixels of 0 to 255 become it.
PREPROCESSED = {
    "resnet50": lambda x: x[..., ::-1] - np.float32([103.939, 116.779, 123.68]),
    "resnet50v2": lambda x: x / 127.5 - 1,
    "efficientnetb0": lambda x: x,
    "efficientnetv2b0": lambda x: (
        (x / 255 - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    ),
    "efficientnetv2s": lambda x: x / 128 - 1,
    "mobilenetv2": lambda x: x / 127.5 - 1,
}
PREPROCESSED["densenet121"] = PREPROCESSED["convnexttiny"] = PREPROCESSED["efficientnetv2b0"]


def assert_features_are_those_of_keras(name, whole, share):
    found = features_of(name, whole)(PIXELS / 255)
    expected = encoders.truncate(encoders.ENCODERS[name], whole)(PREPROCESSED[name](PIXELS))
    for level, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        assert theirs.shape[1] * 2 ** (level + 6 - len(found)) == 64
        size = np.abs(theirs).max()
        assert size > 0
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=share * size)


def test_features_are_those_of_keras_to_a_hundred_thousandth(whole):
    assert_features_are_those_of_keras(NAME, whole, share=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", encoders.ENCODERS)
def test_features_of_every_row_are_those_of_keras_at_every_stride(name):
    whole = drawn(name)
    # Rounding in hundreds of layers may exceed 1e-5 of the largest feature.
    operations = rounding.operations_of(whole)
    assert_features_are_those_of_keras(name, whole, rounding.tolerance(operations))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6])
def test_equal_channels_have_the_features_of_the_grey_image(whole, channels):
    grey = PIXELS[..., :1] / 255
    found = features_of(NAME, whole, channels)(np.repeat(grey, channels, axis=-1))
    expected = features_of(NAME, whole)(np.repeat(grey, 3, axis=-1))
    for ours, theirs in zip(found, expected, strict=True):
        rounding.assert_close(ours, theirs, operations=10_000)


def test_kernels_are_those_of_the_colours_in_turn_divided_among_the_channels():
    red, green, blue = 1.0, 2.0, 3.0
    kernel = np.float32([red, green, blue]).reshape(1, 1, 3, 1)

    def of(channels):
        return encoders._kernels(kernel, channels, False).ravel().tolist()

    assert of(3) == [red, green, blue]
    assert of(4) == [red / 2, green, blue, red / 2]
    assert of(6) == [red / 2, green / 2, blue / 2] * 2  # times 3/n, n being a multiple of 3


def test_images_of_mean_0_and_deviation_1_take_the_mean_and_deviation_of_imagenet():
    images = keras.Input((None, None, 3))
    model = keras.Model(images, encoders._in_colours(images, encoders.SYMMETRIC, "image"))
    zero, one = model(np.float32([0, 1]).reshape(2, 1, 1, 1) * np.ones((1, 1, 1, 3), np.float32))
    red = 0.485 * 2 - 1, (0.485 + 0.229) * 2 - 1
    assert (float(zero[0, 0, 0]), float(one[0, 0, 0])) == pytest.approx(red, abs=1e-6)
    # What was trained on such images takes them as they are.
    assert encoders._in_colours(images, encoders.IMAGENET, "dataset") is images


@pytest.mark.slow
def test_keras_own_weights_of_efficientnetb0_mean_their_deviation_twice():
    """With them Keras appends a layer that divides by the root of the deviation once more."""
    whole, images = drawn("efficientnetb0"), keras.Input((None, None, 3))
    mean, deviation = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    normalization = next(x for x in whole.layers if isinstance(x, keras.layers.Normalization))
    normalization.set_weights([mean, deviation**2, np.int64(0)])
    normalization.finalize_state()
    first = encoders.truncate(encoders.ENCODERS["efficientnetb0"], whole)(PIXELS)[0]
    normalization.set_weights([mean, deviation, np.int64(0)])  # as in the file
    found = encoders.features("efficientnetb0", images, normalize="none", norm="batch")
    model = keras.Model(images, found[0])
    encoders.set_weights(keras.Model(images, found), "efficientnetb0", whole)
    rounding.assert_close(model(PIXELS / 255), first, operations=1000)


def test_its_batch_normalisation_is_ours_whatever_that_of_the_decoder(row):
    for norm, replicas, kind in [
        ("group", 2, SyncBatchNormalization),
        ("auto", 1, norms.FusedBatchNormalization),
        ("batch", 2, norms.FusedBatchNormalization),
    ]:
        settings = config.Model(encoder=NAME, filters=4, norm=norm)
        model = build.build_model(settings, 3, 2, replicas)
        found = {
            type(layer)
            for layer in encoders.layers_of(model)
            if isinstance(layer, keras.layers.BatchNormalization)
        }
        assert found == {kind}
    assert len(norms.own_statistics(model)) == 2 * sum(
        isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers
    )


def test_random_weights_are_set_by_the_seed(network):
    pair = [keras.models.clone_model(network) for _ in range(2)]
    for model in pair:
        models.initialize_weights(model, 3)
    for one, other in zip(*(model.get_weights() for model in pair), strict=True):
        np.testing.assert_array_equal(one, other)


def test_packing_folding_and_export_compute_the_network_with_an_encoder(network):
    images = PIXELS[:, :32, :32] / 255 - 0.5
    expected = network(images).numpy()
    for forward in (channel_packing.packed(network, 16), models.fold(network)):
        rounding.assert_close(forward(images), expected, rounding.operations_of(network))
    core = plain_keras.core(network)
    assert "trainer" not in core.to_json()
    probability = tf.nn.softmax(expected).numpy()
    rounding.assert_close(core(images), probability, rounding.operations_of(network), 10)


def test_images_of_any_size_are_segmented(network):
    assert network(np.zeros((1, 33, 47, 3), np.float32)).shape == (1, 33, 47, 3)


def test_dropout_is_at_the_two_last_levels(row):
    model = build.build_model(config.Model(encoder=NAME, filters=4, dropout=0.5), 3, 2)
    found = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    assert {layer.output.shape[-1] for layer in found} == {7, 8}


def test_volumes_are_refused():
    with pytest.raises(InputError) as error:
        build.build_model(config.Model(encoder=NAME), 1, 2, rank=3)
    assert str(error.value) == (
        "--encoder=resnet50 is for images, and the data are volumes; leave it out."
    )


def test_a_network_that_takes_no_encoder_is_refused(monkeypatch):
    def own(input_shape, n_filters, num_classes, **options):
        images = keras.Input(input_shape)
        return keras.Model(images, keras.layers.Conv2D(num_classes, 1)(images))

    monkeypatch.setitem(models.MODELS, "unet", own)
    with pytest.raises(InputError, match="^--encoder=resnet50 has no effect on --model=unet, "):
        build.build_model(config.Model(encoder=NAME), 1, 2)


def frozen_then_trained(number):
    """Trains a step without the encoder and one with it; returns losses, weights and averages.

    Of both steps, over `number` replicas; before them, too.
    """
    strategy = strategy_of(number)
    with strategy.scope():
        images = keras.Input((None, None, 3))
        norm = norms.of_encoder("auto", number)
        x = encoders.features(NAME, images, normalize="image", norm=norm)[1]
        x = keras.layers.Conv2D(1, 1, name="logits")(keras.layers.UpSampling2D(4)(x))
        model = keras.Model(images, x)
        models.initialize_weights(model, 0)
        average = keras.models.clone_model(model)
        optimizer = keras.optimizers.SGD(0.01)
        optimizer.build(model.trainable_variables)
    average.set_weights(model.get_weights())
    images = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype(np.float32)
    batch = {"images": images, "labels": (images[..., 0] > 0.5).astype(np.int32)}
    batch |= {"valid": np.ones((4, 32, 32), np.float32)}
    batch = {k: np.concatenate([x[r::number] for r in range(number)]) for k, x in batch.items()}
    data = tf.data.Dataset.from_tensor_slices(batch).batch(4 // number, drop_remainder=True)
    iterator = iter(strategy.distribute_datasets_from_function(lambda context: data.repeat()))
    found, series = [], [[*model.get_weights(), *average.get_weights()]]
    for frozen in (encoders.layers_of(model), ()):
        loop = train_step.train_loop(
            strategy,
            model,
            optimizer,
            losses.LOSSES["ce_dice"],
            tf.ones(2),
            average=average,
            average_decay=0.9,
            frozen=frozen,
        )
        found.append(float(loop(iterator, tf.constant(1))["loss"][0]))
        series.append([*model.get_weights(), *average.get_weights()])
    ids = {id(v) for layer in encoders.layers_of(model) for v in layer.variables}
    return found, series, [id(v) in ids for v in model.variables] * 2


@pytest.mark.slow
def test_a_frozen_encoder_keeps_weights_and_statistics_and_two_replicas_train_like_one(row):
    (one, series, of_encoder), (two, others, _) = map(frozen_then_trained, (1, 2))
    assert 0 < sum(of_encoder) < len(of_encoder)
    before, after, trained = series
    for is_frozen, *weights in zip(of_encoder, before, after, trained, strict=True):
        changed = [np.any(a != b) for a, b in zip(weights, weights[1:], strict=False)]
        assert changed == [not is_frozen, True]
    # Two steps: some 100 products there and back, and sums over 4 images of 32×32 pixels.
    apart = rounding.tolerance(operations=2 * (2 * 100 + 4 * 32 * 32))
    np.testing.assert_allclose(two, one, rtol=0, atol=apart)
    for ours, theirs in zip(others[-1], trained, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=apart * max(1, np.abs(theirs).max()))
