"""An encoder from outside the package that brings its weights: how to add one."""

import keras
import numpy as np
import pytest

from tests import rounding
from tests.runs import draw, write_run
from trainer import config, models
from trainer.checkpointing import best_weights, init_from, run_metadata
from trainer.errors import InputError
from trainer.models import build, channel_packing, norms, plain_keras


def pretrained(channels):
    """Returns an encoder that was trained elsewhere; here its weights are all 1/10."""
    images = keras.Input((None, None, channels))
    x = keras.layers.DepthwiseConv2D(3, padding="same")(images)
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same", use_bias=False)(x)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    encoder = keras.Model(images, x, name="encoder")
    encoder.set_weights([np.full(w.shape, 0.1, np.float32) for w in encoder.get_weights()])
    return encoder


def with_encoder(input_shape, n_filters, num_classes, **options):
    """Builds a network upon the encoder; `keep_weights` says that its weights are brought."""
    images = keras.Input(input_shape)
    encoder = pretrained(input_shape[-1])
    models.keep_weights(encoder)
    x = models.up_conv(encoder(images), n_filters, norm="none")
    logits = keras.layers.Conv2D(num_classes, 1, dtype="float32", name="logits")(x)
    return keras.Model(images, logits)


def brought(model):
    return [np.ptp(w) == 0 for w in model.get_layer("encoder").get_weights()]


def test_initializing_sets_the_decoder_and_keeps_what_the_encoder_brought():
    pair = [with_encoder((None, None, 3), 2, 1) for _ in range(2)]
    for model in pair:
        models.initialize_weights(model, 0)
        assert all(brought(model))
        assert model.get_layer("encoder").get_weights()[0].flat[0] == np.float32(0.1)
    kernels = [model.layers[2].kernel.numpy() for model in pair]
    np.testing.assert_array_equal(*kernels)  # by the seed
    assert np.ptp(kernels[0]) > 0


def test_layers_of_an_encoder_that_is_no_layer_of_its_own_are_kept_as_well():
    encoder = pretrained(1)
    models.keep_weights(encoder)
    x = keras.layers.Conv2D(1, 1, name="logits")(encoder.output)
    model = keras.Model(encoder.input, x)
    models.initialize_weights(model, 0)
    assert np.ptp(model.layers[2].kernel) == 0
    assert np.ptp(model.get_layer("logits").kernel) > 0


def test_statistics_of_its_norms_are_averaged_over_replicas():
    model = with_encoder((None, None, 3), 2, 1)
    statistics = [variable.name for variable in norms.own_statistics(model)]
    assert statistics == ["moving_mean", "moving_variance"]


def test_a_copy_for_the_moving_average_has_them():
    model = with_encoder((None, None, 3), 2, 1)
    models.initialize_weights(model, 0)
    average = keras.models.clone_model(model)
    average.set_weights(model.get_weights())  # as the loop does
    assert all(brought(average))


def test_an_encoder_without_weights_of_its_own_is_initialized_by_the_seed():
    kernels = []
    for seed in (0, 0, 1):
        encoder = pretrained(2)
        fresh = keras.models.clone_model(encoder)
        model = keras.Model(fresh.input, fresh(fresh.input))
        models.initialize_weights(model, seed)
        kernels.append(model.get_weights())
    for one, same, other in zip(*kernels, strict=True):
        np.testing.assert_array_equal(one, same)
        assert one.ndim == 1 or np.all(one != other)


def test_weights_that_are_brought_without_saying_so_are_refused():
    images = keras.Input((None, None, 1))
    layer = keras.layers.Conv2D(2, 1, name="stem")
    model = keras.Model(images, layer(images))
    layer.set_weights([np.ones((1, 1, 1, 2)), np.array([0.0, 0.5])])
    with pytest.raises(InputError) as error:
        models.initialize_weights(model, 0)
    assert str(error.value) == (
        "The layer stem has weights bias that --seed does not set; if it brings its weights, call "
        "models.keep_weights where it is built, else give it the attribute bias_initializer."
    )


def test_weights_of_another_run_replace_those_that_fit_and_leave_the_encoders(
    tmp_path, monkeypatch, caplog
):
    caplog.set_level("INFO", logger="absl")
    monkeypatch.setitem(models.MODELS, "unet", with_encoder)
    source = write_run(tmp_path / "source", channels=1)
    job = config.Job(model=config.Model(filters=4, depth=2))
    model = build.build_model(job.model, 3, 2)
    models.initialize_weights(model, 1)
    init_from.begin(model, init_from.describe(source), job)
    theirs, _ = best_weights.best_model(source, run_metadata.read(source))
    # The encoder of three channels does not fit that of one; the layers behind it do.
    assert all(brought(model))
    np.testing.assert_array_equal(model.layers[2].kernel, theirs.layers[2].kernel)
    rows = caplog.messages[-1].splitlines()
    assert rows[1] == "    0  Functional of 7 weights  its own; there Functional of 7 weights"
    assert rows[2].endswith("  transferred")


def test_packing_folding_and_export_compute_it():
    model = with_encoder((None, None, 3), 4, 3)
    draw(model)
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    expected = model(images).numpy()
    for forward in (channel_packing.packed(model, 16), models.fold(model)):
        rounding.assert_close(forward(images), expected, rounding.operations_of(model))
    assert "trainer" not in plain_keras.core(model).to_json()
