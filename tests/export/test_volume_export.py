"""Exports of runs on volumes: equal to prediction here, in processes that lack this package."""

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from tests import jobs, runs
from tests.devices import strategy_of
from trainer import config, export
from trainer.data import preprocessing
from trainer.data.dataset.volume_examples import Channel, Volumes
from trainer.errors import InputError
from trainer.evaluate import sliding_window
from trainer.export import volume_serving
from trainer.models import plain_keras
from trainer.predict import masks
from trainer.predict.volume_predictor import VolumePredictor

pytestmark = pytest.mark.slow  # networks are traced and saved, and processes started

BOX = (4, 16, 8)
CHANNELS = (
    Channel("CT", "ct", mean=300.0, std=150.0, low=20.0, high=900.0),
    Channel("T1", "zscore"),
    Channel("T2", "nonzero"),
    Channel("mask", "none"),
)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = runs.write_run(
        tmp_path_factory.mktemp("run"),
        volumes=Volumes((3.0, 1.0, 0.75), CHANNELS),
        channels=4,
        dtype="float32",
        crop=BOX,
        filters=2,
        depth=2,
        strides="1,2,2/2",
        classes=("background", "a", "b"),
        values=(0, 7, 300),
    )
    runs.calibrate(folder, 0.7)
    return folder


@pytest.fixture(scope="module")
def loaded(run_dir):
    return VolumePredictor([run_dir], strategy_of(1))


@pytest.fixture(scope="module")
def exported(run_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    export.write(run_dir, str(folder))
    return folder


def volume(depth, height, width, margin=2, seed=0):
    """Numbers in zeros, with an enclosed hole, and a last channel of small ones."""
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 1000, (depth, height, width, 4)).astype(np.float32)
    values[..., 3] /= 1000
    values[depth // 2, 3:6, 3:5] = 0
    return np.pad(values, [(margin, 1)] * 3 + [(0, 0)])


def assert_predicts(found, expected, loaded):
    np.testing.assert_allclose(found["probabilities"], expected, atol=runs.CLOSE)
    ids = masks.lookup(loaded.networks.values)[masks.class_ids(expected)]
    runs.assert_same_mask(found["mask"], ids, expected)


@pytest.mark.parametrize("shape", [(3, 5, 6), (11, 20, 27)])
def test_the_saved_model_predicts_what_prediction_does(exported, loaded, shape):
    # Smaller than a window, which is mirrored, and some windows along each axis.
    values = np.stack([volume(*shape, seed=seed) for seed in range(2)])
    values[1, 3] = 0  # each volume has its own box, and its own holes
    model = tf.saved_model.load(str(exported))
    found = model.signatures["serving_default"](tf.constant(values))
    expected = np.stack([loaded.probabilities(one, (3.0, 1.0, 0.75)) for one in values])
    assert_predicts(found, expected, loaded)
    assert found["mask"].dtype == tf.uint16
    assert len(np.unique(found["mask"])) == 3
    prepared = loaded.preprocessing.apply(values[0], (3.0, 1.0, 0.75))
    found = model.signatures["prepared"](tf.constant(prepared.values[np.newaxis]))
    part = tuple(slice(*ends) for ends in prepared.box.tolist())
    np.testing.assert_allclose(found["probabilities"][0], expected[0][part], atol=runs.CLOSE)


def test_of_two_classes_the_network_has_one_logit(tmp_path):
    of_ct = Volumes(None, CHANNELS[:1])
    sizes = {"crop": (4, 8, 8), "filters": 2, "depth": 1}
    run = runs.write_run(tmp_path, volumes=of_ct, dtype="float32", **sizes)
    networks = VolumePredictor([run], strategy_of(1))
    server = volume_serving.VolumeServer(
        plain_keras.network(networks.networks.members[0].model),
        channels=of_ct.channels,
        values=(0, 255),
        mask_dtype="uint8",
        box=sizes["crop"],
    )
    values = volume(3, 5, 6)[..., :1]
    found = {key: value[0] for key, value in server.predict(tf.constant(values[None])).items()}
    assert_predicts(found, networks.probabilities(values), networks)


def test_what_is_not_finite_is_refused_by_the_graph(exported):
    values = volume(3, 5, 6)[np.newaxis]
    values[0, 1, 1, 1, 1] = np.nan
    model = tf.saved_model.load(str(exported))
    with pytest.raises(tf.errors.InvalidArgumentError, match="values that are not finite"):
        model.signatures["serving_default"](tf.constant(values))


def test_the_python_of_the_card_needs_nothing_of_ours(exported, loaded, tmp_path):
    values = volume(5, 17, 9)
    np.save(tmp_path / "volume.npy", values)
    described = json.loads((exported / "signature.json").read_text())
    code = described["examples"]["python"]
    assert (
        code.replace("\n", "\n    ").replace("\n    \n", "\n\n")
        in (exported / "model_card.md").read_text()
    )
    code = f"import os\nos.chdir(sys.argv[1])\n{code.replace('OUTPUT', str(exported))}"
    jobs.in_a_clean_process(code, tmp_path)
    expected = loaded.predict(values, (3.0, 1.0, 0.75))
    probabilities = loaded.probabilities(values, (3.0, 1.0, 0.75))
    runs.assert_same_mask(np.load(tmp_path / "mask.npy"), expected, probabilities)


def test_plain_keras_computes_normalised_volumes_whole(exported, loaded, tmp_path):
    values = np.random.default_rng(0).normal(size=(3, 13, 10, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", values)
    code = (
        "import numpy, keras\n"
        "model = keras.models.load_model(sys.argv[1])\n"
        "numpy.save(sys.argv[3], model(numpy.load(sys.argv[2])[None])[0])"
    )
    jobs.in_a_clean_process(code, exported / "model.keras", tmp_path / "x.npy", tmp_path / "y.npy")
    # The strides are 2, 4 and 4: sides become 4, 16 and 12.
    longer = values
    for axis, (length, side) in enumerate(zip(values.shape[:3], (4, 16, 12), strict=True)):
        longer = np.take(longer, sliding_window.mirror(np.arange(side), length), axis)
    logits = loaded.networks.members[0].logits(tf.constant(longer[np.newaxis]), training=False)
    expected = tf.nn.softmax(logits)[0, :3, :13, :10]
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, atol=runs.CLOSE)


def test_card_and_signature_say_how_volumes_are_prepared(exported):
    described = json.loads((exported / "signature.json").read_text())
    assert described["volumes"]["spacing"] == [3.0, 1.0, 0.75]
    assert described["window"] == [4, 16, 8]
    schemes = [one["scheme"] for one in described["volumes"]["channels"]]
    assert schemes == ["ct", "zscore", "nonzero", "none"]
    assert "[[[[[0]]]]]" in described["examples"]["ask_tensorflow_serving"]
    assert described["signatures"]["serving_default"] == {
        "inputs": {"volumes": {"dtype": "float32", "shape": [None, None, None, None, 4]}},
        "outputs": {
            "mask": {"dtype": "uint16", "shape": [None, None, None, None]},
            "probabilities": {"dtype": "float32", "shape": [None, None, None, None, 3]},
        },
    }
    card = (exported / "model_card.md").read_text()
    for said in (
        "gives each voxel of a volume one of 3 classes",
        "- Spacing along them: 3×1×0.75 mm; the SavedModel does not resample",
        "Normalisation of CT, inside the SavedModel: clipped to 20 … 900, then minus 300 and",
        "share of training voxels",
        "Logits are divided by the temperature 0.7, fitted on the validation split",
    ):
        assert said in card
    assert "pixel" not in card
    assert "image" not in card


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (config.Export(tile=64), "--tile=64 is for images, and --run_dir="),
        (config.Export(tflite=True), "--tflite is for images, and --run_dir="),
        (config.Export(onnx=True), "--onnx is for images, and --run_dir="),
    ],
)
def test_what_is_for_images_is_refused_before_anything_is_written(
    run_dir, tmp_path, settings, line
):
    with pytest.raises(InputError, match=line):
        export.write(run_dir, str(tmp_path / "out"), settings)
    assert list(pathlib.Path(tmp_path).iterdir()) == []


def test_holes_are_filled_behind_walls_with_corners_and_not_through_gaps():
    values = np.zeros((9, 12, 12, 1), np.float32)
    values[1:8, 1:11, 1:11] = 1
    values[2:7, 2:10, 2:10] = 0
    values[3:6, 3:9, 3:9] = 1
    values[4, 4:8, 4:8] = 0  # a room within a room
    for hole in ((), (1, 2, 2, 0), (5, 6, 6, 0)):  # closed; the outer one opened; both
        if hole:
            values[hole] = 0
        expected = preprocessing.nonzero_mask(values)
        np.testing.assert_array_equal(volume_serving.nonzero_mask(tf.constant(values)), expected)


def test_a_volume_of_zeros_has_a_box_and_a_constant_one_becomes_zero():
    zeros = tf.zeros((2, 3, 4, 4))
    first, end = volume_serving.nonzero_box(zeros)
    assert (first.numpy().tolist(), end.numpy().tolist()) == ([0, 0, 0], [2, 3, 4])
    for values in (zeros, zeros + 0.1):
        expected = preprocessing.normalize(values.numpy().copy(), CHANNELS)
        np.testing.assert_array_equal(volume_serving.normalize(values, CHANNELS), expected)
