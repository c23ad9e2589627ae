"""The weights that an encoder begins with, from files that Keras wrote, and those that it lacks."""

import os
import shutil

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import jobs, rounding
from tests.encoders import NAME, ROW, drawn, small
from trainer import config, export, loop, models
from trainer.checkpointing import encoder_weights
from trainer.errors import InputError
from trainer.models import build, encoders


@pytest.fixture(scope="module", autouse=True)
def _row():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(encoders.ENCODERS, NAME, ROW)
        yield


def begin(path, channels=3):
    """Returns a network whose encoder begins with the weights of a file, and the settings."""
    settings = config.Model(encoder=NAME, encoder_weights=str(path), filters=2)
    model = build.build_model(settings, channels, 2)
    models.initialize_weights(model, 0)
    encoder_weights.begin(model, settings)
    return model


def encoder_of(model):
    return [x for layer in encoders.layers_of(model) for x in layer.get_weights()]


def refusal(path):
    with pytest.raises(InputError) as error:
        begin(path)
    return str(error.value)


@pytest.mark.parametrize("name", ["w.weights.h5", "w.keras", "w.h5"])
def test_weights_that_keras_wrote_in_any_of_its_forms_are_read(tmp_path, name):
    whole = drawn(NAME)
    (whole.save_weights if name == "w.weights.h5" else whole.save)(tmp_path / name)
    first, *others = encoder_of(begin(tmp_path / name))
    expected, *rest = whole.get_weights()
    np.testing.assert_array_equal(first, expected[:, :, ::-1])  # blue first, in this row
    for ours, theirs in zip(others, rest, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_weights_in_an_object_store_are_read(tmp_path, bucket):
    from trainer.storage import files

    whole = drawn(NAME)
    whole.save_weights(tmp_path / "w.weights.h5")
    files.copy_to_store(str(tmp_path / "w.weights.h5"), f"{bucket}/w.weights.h5")
    np.testing.assert_array_equal(
        encoder_of(begin(f"{bucket}/w.weights.h5"))[-1], whole.get_weights()[-1]
    )


def test_the_encoder_keeps_them_and_the_decoder_is_drawn_by_the_seed(tmp_path):
    drawn(NAME).save_weights(tmp_path / "w.weights.h5")
    model = begin(tmp_path / "w.weights.h5")
    before = model.get_weights()
    models.initialize_weights(model, 0)
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_random_weights_are_asked_for_by_name():
    settings = config.Model(encoder=NAME, encoder_weights="none", filters=2)
    model = build.build_model(settings, 3, 2)
    before = model.get_weights()
    encoder_weights.begin(model, settings)
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_weights_of_another_network_are_refused(tmp_path):
    images = keras.Input((None, None, 3))
    other = keras.Model(images, keras.layers.Conv2D(4, 5)(images))
    for name in ("w.weights.h5", "w.h5"):
        (other.save_weights if name == "w.weights.h5" else other.save)(tmp_path / name)
        said = refusal(tmp_path / name)
        assert said.startswith(f"--encoder_weights={tmp_path / name} does not hold the weights of ")
        assert said.endswith("by keras.applications.small(include_top=False).save_weights.")
        assert "\n" not in said


def test_a_file_that_leaves_layers_without_weights_is_refused(tmp_path, monkeypatch):
    """Keras only warns of some."""
    whole = drawn(NAME)
    whole.save_weights(tmp_path / "w.weights.h5")
    with h5py.File(tmp_path / "w.weights.h5", "r+") as file:
        kernel = file["layers/conv2d_2/vars/0"]
        kernel[...] = np.full(kernel.shape, np.nan)
    assert "1 of 10 layers are left without weights" in refusal(tmp_path / "w.weights.h5")


@pytest.mark.parametrize("name", ["w.weights.h5", "w.keras", "w.h5"])
def test_a_file_that_is_none_of_keras_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\x03\x04 and no more")
    assert refusal(tmp_path / name).startswith(f"--encoder_weights={tmp_path / name} does not hold")


def test_a_file_that_is_missing_or_of_another_name_is_refused(tmp_path):
    assert refusal(tmp_path / "w.h5") == (
        f"--encoder_weights={tmp_path / 'w.h5'} does not exist; name a file that Keras wrote of "
        "resnet50, imagenet, or none."
    )
    assert refusal("imagnet") == (
        "--encoder_weights=imagnet is neither imagenet nor none nor a file whose name ends in "
        ".weights.h5, .keras, .h5, as Keras writes them; name one of these."
    )


def test_what_keras_says_of_a_download_that_fails_is_in_the_refusal(monkeypatch):
    def offline(weights, **options):
        if weights:
            raise Exception("URL fetch failure on https://x: None -- no route")
        return small(weights, **options)

    row = encoders.Encoder(offline, ROW.layers, ROW.range)
    monkeypatch.setitem(encoders.ENCODERS, NAME, row)
    assert refusal("imagenet") == (
        "--encoder_weights=imagenet: Keras cannot download the weights of resnet50 (URL fetch "
        "failure on https://x: None -- no route); name a file of them, local or gs://, in place of "
        "imagenet, or begin with random ones by --encoder_weights=none."
    )


@pytest.mark.slow
def test_a_job_without_a_way_out_is_refused_and_leaves_nothing_behind(data_dir, tmp_path):
    offline = {"https_proxy": "http://127.0.0.1:9", "KERAS_HOME": str(tmp_path / "keras")}
    flags = ["--encoder=mobilenetv2", "--depth=4"]  # 4: the default, in place of SMALL's
    result = jobs.train(data_dir, tmp_path / "run", *flags, environment=offline)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith(
        "--encoder_weights=imagenet: Keras cannot download the weights of mobilenetv2 (URL fetch f"
    )
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
    """A run that trained its encoder from step 3 on, and its settings; the file is gone."""
    folder = tmp_path_factory.mktemp("run")
    drawn(NAME).save_weights(folder / "w.weights.h5")
    values = {"data_dir": data_dir, "run_dir": str(folder / "run"), "strategy": "one_device"}
    values |= {"encoder": NAME, "encoder_weights": str(folder / "w.weights.h5"), "filters": 2}
    values |= {"crop": 32, "batch_size": 2, "steps": 4, "eval_every": 4, "freeze_until": 3}
    values |= {"checkpoint_every": 2, "encoder_rate": 0.5, "ema": 0.9, "augment": "none"}
    values |= {"jit_compile": "false", "precision": "float32", "panels": 0, "worst_panels": 0}
    loop.train(config.from_dict(config.Job, values))
    (folder / "w.weights.h5").unlink()
    return values


def tensors(run_dir, step):
    reader = tf.train.load_checkpoint(os.path.join(run_dir, f"checkpoints/{step:08d}/state"))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


@pytest.mark.slow
def test_a_run_that_resumes_in_the_frozen_steps_ends_bit_equal_without_the_file(run, tmp_path):
    run_dir = shutil.copytree(run["run_dir"], tmp_path / "run")
    for name in ("checkpoints/00000004", "best"):
        shutil.rmtree(run_dir / name)
    loop.train(config.from_dict(config.Job, {**run, "run_dir": str(run_dir)}))
    expected = tensors(run["run_dir"], 4)
    found = tensors(run_dir, 4)
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
    frozen = tensors(run_dir, 2)
    drawn_alike = [w for w in drawn(NAME).get_weights() if w.ndim == 1]  # of the normalisation
    for kept in drawn_alike:
        assert any(np.array_equal(kept, values) for values in frozen.values())
        assert not any(np.array_equal(kept, values) for values in found.values())


@pytest.mark.slow
def test_a_run_is_exported_without_the_file(run, tmp_path):
    export.write(run["run_dir"], str(tmp_path / "exported"))
    served = tf.saved_model.load(tmp_path / "exported").signatures["serving_default"]
    (given,) = served.structured_input_signature[1].values()
    images = np.random.default_rng(0).integers(0, 256, (1, 40, 56, given.shape[-1]))
    images = tf.constant(images, given.dtype)
    loaded = keras.models.load_model(tmp_path / "exported" / "model.keras")
    # The longest way adds up 9 products of 8 channels at 5 levels, and of 192 in the decoder.
    apart = rounding.tolerance(operations=5 * 9 * 8 + 10 * 9 * 192)
    np.testing.assert_allclose(served(images)["probabilities"], loaded(images), rtol=0, atol=apart)
