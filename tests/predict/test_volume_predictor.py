"""Prediction of volumes from arrays: prepared, in windows, and back in their own grid."""

import keras
import numpy as np
import pytest
from scipy import special

from tests import runs
from tests.devices import strategy_of
from trainer.data import preprocessing, resampling
from trainer.data.dataset.volume_examples import Channel, Volumes
from trainer.errors import InputError
from trainer.predict import load
from trainer.predict.volume_predictor import VolumePredictor

BOX = (8, 16, 8)


def volumes_of(spacing=None, scheme="zscore", channels=1):
    return Volumes(spacing, tuple(Channel(f"MR{n}", scheme) for n in range(channels)))


def write_run(folder, volumes, **settings):
    kind = {"dtype": "float32", "crop": BOX, "filters": 2, "depth": 1, "values": (0, 7)}
    return runs.write_run(folder, volumes=volumes, **{**kind, **settings})


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"), volumes_of())


@pytest.fixture(scope="module")
def loaded(run_dir):
    return VolumePredictor([run_dir], strategy_of(1))


def volume(*shape, seed=0):
    return np.random.default_rng(seed).integers(1, 1000, shape).astype(np.int16)


def directly(networks, windows):
    """What a network says of prepared windows [B, *BOX, C]."""
    logits = networks.networks.members[0].model(windows, training=False)
    return special.expit(logits.numpy())


def test_a_volume_as_large_as_a_window_is_one(loaded):
    values = volume(*BOX)
    normalised = preprocessing.normalize(
        values[..., np.newaxis].astype(np.float32), loaded.preprocessing.channels
    )
    expected = directly(loaded, normalised[np.newaxis])[0]
    found = loaded.probabilities(values)
    assert found.shape == (*BOX, 2)
    np.testing.assert_allclose(found[..., 1:], expected, atol=runs.CLOSE)
    np.testing.assert_array_equal(loaded.predict(values) == 7, found[..., 1] >= 0.5)
    assert 0.1 < (found[..., 1] >= 0.5).mean() < 0.9


def test_what_is_cropped_away_is_background_and_the_rest_comes_back_to_its_place(loaded):
    values = np.zeros((20, 30, 12), np.int16)
    values[9:17, 4:20, 2:10] = volume(*BOX)
    found = loaded.probabilities(values)
    np.testing.assert_allclose(
        found[9:17, 4:20, 2:10], loaded.probabilities(values[9:17, 4:20, 2:10]), atol=runs.CLOSE
    )
    outside = np.ones(values.shape, bool)
    outside[9:17, 4:20, 2:10] = False
    assert (found[outside] == (1, 0)).all()
    assert not loaded.predict(values)[outside].any()


@pytest.mark.slow
def test_volumes_are_resampled_for_the_networks_and_logits_brought_back(tmp_path):
    run_dir = write_run(tmp_path, volumes_of((1.0, 1.0, 1.0)), classes=("a", "b", "c"))
    networks = VolumePredictor([run_dir], strategy_of(1))
    values = volume(4, 16, 8)  # 2 mm slices: 8 of 1 mm are one window
    normalised = preprocessing.normalize(
        values[..., np.newaxis].astype(np.float32), networks.preprocessing.channels
    )
    window = resampling.resample(normalised, BOX, 3)
    logits = networks.networks.members[0].model(window[np.newaxis], training=False)[0]
    expected = special.softmax(resampling.resample(logits.numpy(), values.shape, 1), axis=-1)
    found = networks.probabilities(values, spacing=(2, 1, 1))
    np.testing.assert_allclose(found, expected, atol=runs.CLOSE)
    with pytest.raises(InputError) as error:
        networks.predict(values)
    assert str(error.value) == (
        "The networks take voxels of 1×1×1 mm; give spacing=(…, …, …), that of the volume along D, "
        "H and W, so that it is resampled."
    )


@pytest.mark.slow
def test_batches_of_windows_and_replicas_change_nothing(run_dir, loaded):
    values = volume(17, 20, 21)
    expected = loaded.probabilities(values)
    found = VolumePredictor([run_dir], strategy_of(2), batch_size=3).probabilities(values)
    np.testing.assert_allclose(found, expected, atol=runs.CLOSE)


@pytest.mark.slow
def test_mirrored_volumes_and_several_runs_are_averaged(run_dir, loaded, tmp_path):
    other = write_run(tmp_path / "other", volumes_of(), seed=1, depth=2)
    alone = VolumePredictor([other], strategy_of(1))
    values = volume(*BOX)
    expected = (loaded.probabilities(values) + alone.probabilities(values)) / 2
    both = VolumePredictor([run_dir, other], strategy_of(1))
    np.testing.assert_allclose(both.probabilities(values), expected, atol=runs.CLOSE)

    flips = VolumePredictor([run_dir], strategy_of(1), tta="flips").probabilities(values)
    mirrors = [np.s_[::a, ::b, ::c] for a in (1, -1) for b in (1, -1) for c in (1, -1)]
    back = [loaded.probabilities(values[mirror])[mirror] for mirror in mirrors]
    np.testing.assert_allclose(flips, np.mean(back, axis=0), atol=runs.CLOSE)
    assert np.abs(flips - back[0]).max() > 1e-3


@pytest.mark.slow
def test_runs_whose_volumes_were_prepared_otherwise_make_no_ensemble(run_dir, tmp_path):
    others = {
        "spacing 1×1×1 and": {"volumes": volumes_of((1.0, 1.0, 1.0))},
        "crop 16×16×16 and": {"volumes": volumes_of(), "crop": 16},
        "axes height, width and": {"volumes": None, "crop": 16},
    }
    for n, (message, settings) in enumerate(others.items()):
        other = write_run(tmp_path / str(n), **settings)
        with pytest.raises(InputError, match=message):
            VolumePredictor([run_dir, other], strategy_of(1))
    with pytest.raises(InputError, match="--tta=d4 exchanges rows and columns"):
        VolumePredictor([run_dir], strategy_of(1), tta="d4")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4)), "has shape (4, 4); expected D×H×W or D×H×W×C: the networks were"),
        (np.zeros((4, 4, 4, 2)), "has 2 channels and the networks take 1 (MR0); give"),
        (np.full((4, 4, 4), np.nan), "has values that are not finite; replace them."),
    ],
)
def test_arrays_of_another_kind_are_refused(loaded, array, message):
    with pytest.raises(InputError) as error:
        loaded.predict(array)
    assert message in str(error.value)


@pytest.mark.parametrize("spacing", [(1, 1), (1, 0, 1), (1, -1, 1), (1, 1, float("nan"))])
def test_a_spacing_that_is_none_is_refused(loaded, spacing):
    with pytest.raises(InputError, match=r"^spacing=\(1, .*\) is not three lengths in mm; give"):
        loaded.predict(volume(*BOX), spacing=spacing)


@pytest.mark.slow
def test_load_knows_what_a_run_was_trained_on(run_dir, loaded):
    values = volume(*BOX)
    np.testing.assert_array_equal(load.load(run_dir).predict(values), loaded.predict(values))


def test_networks_of_volumes_are_folded_for_prediction(loaded):
    kinds = [type(layer) for layer in loaded.networks.members[0].model.layers]
    assert keras.layers.BatchNormalization not in kinds
