"""Volumes are compared in the grids of their files."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import shards
from tests.devices import strategy_of
from tests.evaluations import evaluate
from trainer import config
from trainer.data.dataset import schema, volume_examples
from trainer.errors import InputError
from trainer.evaluate import eval_step, metrics, volumes
from trainer.evaluate.evaluator import Evaluator, source_of
from trainer.training import losses

SHAPES = {"train": [(6, 8, 8)], "val": [(6, 9, 7), (11, 8, 8), (5, 20, 13)], "test": [(6, 8, 8)]}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("volumes")
    return str(folder), shards.write_balls(folder, SHAPES, num_classes=3)


def evaluator_of(data, replicas=1, batch_size=2, tta="none"):
    """Evaluates a model of each voxel alone: its classes are the nearest whole brightness."""
    strategy = strategy_of(replicas)
    with strategy.scope():
        image = keras.Input((None, None, None, 1))
        model = keras.Model(image, keras.layers.Conv3D(3, 1)(image))
    # Logits -(x - k)² / 2 without their common part: k x - k² / 2.
    model.set_weights([np.array([[[[[0.0, 1, 2]]]]]), np.array([0.0, -0.5, -2])])
    job = config.Job(data=config.Data(crop=(8, 8, 8)), model=config.Model(depth=1))
    return Evaluator(
        strategy,
        eval_step.prediction_of(strategy, model),
        *data,
        source_of(job, strategy, *data, batch_size=batch_size, tile=1024),
        terms=losses.LOSSES["cross_entropy"],
        class_weights=tf.ones(3),
        tta=tta,
    )


def expected_counts(data):
    """Counts by NumPy, of each val volume and class: truth, prediction and both."""
    folder, manifest = data
    found = []
    for shard in manifest.splits["val"].shards:
        for serialized in schema.read_shard(folder, shard):
            image = schema.decode(serialized, manifest)["image"].numpy()[..., 0]
            original = volume_examples.decode_original(serialized)
            truth = original["original_mask"].numpy()
            # A file's voxels 2 i and 2 i + 1 are a quarter of a voxel beside the stored voxel i.
            left = np.concatenate([image[..., :1], image[..., :-1]], axis=2)
            right = np.concatenate([image[..., 1:], image[..., -1:]], axis=2)
            fine = np.stack([0.75 * image + 0.25 * left, 0.75 * image + 0.25 * right], axis=-1)
            fine = fine.reshape(*image.shape[:2], -1)
            inside = np.clip(np.floor(fine + 0.5), 0, 2).astype(np.uint8)
            predicted = np.pad(inside, 1)  # the background around it
            known = truth != schema.IGNORE
            found.append(
                [
                    [
                        (known & (truth == k)).sum(),
                        (known & (predicted == k)).sum(),
                        (known & (truth == k) & (predicted == k)).sum(),
                    ]
                    for k in range(3)
                ]
            )
    return np.array(found)


def test_counts_are_of_the_file_s_voxels_whatever_the_batch_and_the_replicas(data):
    expected = expected_counts(data)
    assert expected[:, 1:, 2].min() > 10
    alone = evaluate(evaluator_of(data), "val")
    np.testing.assert_array_equal(alone.counts, expected)
    many = evaluate(evaluator_of(data, replicas=2, batch_size=3), "val")
    np.testing.assert_array_equal(many.counts, expected)
    assert many.summary["loss"] == pytest.approx(alone.summary["loss"], rel=1e-5)


def test_mirrored_volumes_give_the_scores_of_upright_ones(data):
    found = evaluate(evaluator_of(data, tta="flips"), "val")
    np.testing.assert_array_equal(found.counts, expected_counts(data))


def test_volumes_that_are_compared_in_slabs_have_the_same_counts(data, monkeypatch):
    monkeypatch.setattr(volumes, "SLAB_VOXELS", 3 * 32 * 32)
    found = evaluate(evaluator_of(data), "val")
    np.testing.assert_array_equal(found.counts, expected_counts(data))


def test_surfaces_are_measured_in_millimetres(data):
    selected = []
    found = evaluate(evaluator_of(data), "val", selected.append, tolerance=1.0)
    for case in selected:
        assert case.spacing == (2.0, 1.0, 0.5)
        maps = case.labels, case.predicted, case.valid
        expected = metrics.measure(*maps, 3, (2.0, 1.0, 0.5), 1.0)
        assert 0 < expected["assd"][1] < np.linalg.norm(np.multiply(maps[0].shape, case.spacing))
        for name, values in expected.items():
            np.testing.assert_array_equal(found.measured[name][case.index], values)
    assert found.summary["tolerance"] == {"value": 1.0, "unit": "mm"}
    assert found.summary["metrics"]["hd95"]["unit"] == "mm"


def test_slabs_are_cut_to_one_height():
    values = np.arange(7)
    slabs = [(0, values[:1]), (1, values[1:6]), (6, values[6:])]
    found = [(first, part.tolist()) for first, part in volumes._of_height(slabs, 3)]
    assert found == [(0, [0, 1, 2]), (3, [3, 4, 5]), (6, [6])]


def test_blocks_of_volumes_are_not_evaluated():
    form = volume_examples.Volumes(None, (volume_examples.Channel("0", "none"),), (8, 8, 8))
    manifest = schema.Manifest(
        classes=(),
        channels=1,
        bit_depth=32,
        dtype="float32",
        encoding="zlib",
        splits={},
        volumes=form,
    )
    source = volumes.WindowedVolumes("", manifest, (8, 8, 8), 1)
    source.check("val", "test")
    with pytest.raises(InputError, match="--split=train has volumes that were cut into blocks"):
        source.check("train")


def test_volumes_have_no_tiles(data):
    job = config.Job(data=config.Data(crop=8), model=config.Model(depth=1))
    with pytest.raises(InputError, match="--tile=64 is for images; volumes are predicted in wind"):
        source_of(job, strategy_of(1), *data, batch_size=1, tile=64)
