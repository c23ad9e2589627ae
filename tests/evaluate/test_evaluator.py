"""Evaluation: exact, whole, and independent of how it is computed."""

import dataclasses
import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import rounding
from tests.devices import strategy_of
from tests.evaluations import (
    OFFSETS,
    SLOPES,
    assert_decided,
    evaluate,
    evaluator_of,
    pointwise_model,
    read_split,
)
from tests.shards import write_data
from trainer import models
from trainer.data.dataset import schema
from trainer.data.input import normalization
from trainer.errors import InputError
from trainer.evaluate import case_tables, evaluator
from trainer.evaluate import scores as scoring

# Sums over the pixels of an image, padded to 128×128 at most.
CLOSE = rounding.tolerance(operations=128 * 128)


def test_counts_equal_numpy_on_a_set_that_no_batch_divides(data, scores):
    for n, (image, mask) in enumerate(read_split(data, "val")):
        image = normalization.normalize(image, "image", (), ()).numpy()
        predicted = np.argmax(image @ SLOPES + OFFSETS, axis=-1)
        known = mask != schema.IGNORE
        for k in range(3):
            truth, found = (mask == k) & known, (predicted == k) & known
            expected = [truth.sum(), found.sum(), (truth & found).sum()]
            np.testing.assert_array_equal(scores.counts[n, k], expected)
    assert scores.summary["images"] == 7


@pytest.mark.parametrize(
    ("replicas", "batch_size"),
    [(1, 7), (2, 4), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((1, 1), (4, 3)))],
)
def test_the_result_does_not_depend_on_batch_size_or_replicas(data, scores, replicas, batch_size):
    model = pointwise_model(replicas)
    found = evaluate(evaluator_of(data, model, replicas=replicas, batch_size=batch_size), "val")
    np.testing.assert_array_equal(found.counts, scores.counts)
    np.testing.assert_allclose(found.soft, scores.soft, rtol=CLOSE, atol=CLOSE)
    assert found.summary["loss"] == pytest.approx(scores.summary["loss"], rel=CLOSE)


@pytest.mark.slow
def test_logits_of_tiles_equal_those_of_the_whole_image(tmp_path):
    data = str(tmp_path), write_data(tmp_path, {"train": [(8, 8)], "val": [(300, 200)]})
    keras.utils.set_random_seed(0)
    with strategy_of(1).scope():
        model = models.build_unet((None, None, 1), 4, depth=2)
    whole, tiled = (evaluator_of(data, model, tile=tile) for tile in (1024, 96))
    image = np.random.default_rng(0).normal(size=(1, 320, 256, 1)).astype(np.float32)
    size = tf.constant([[320, 256]])
    expected, found = (
        one._source._logits(tf.constant(image), size, one._forward).numpy()
        for one in (whole, tiled)
    )
    assert np.ptp(expected) > 0.1
    rounding.assert_close(found, expected, rounding.operations_of(model))


@pytest.mark.slow
def test_counts_of_tiles_equal_those_of_the_whole_image(tmp_path):
    sizes = {"train": [(8, 8)], "val": [(300, 200)]}
    data = str(tmp_path), write_data(tmp_path, sizes, num_classes=3)
    assert_decided(data)
    whole, tiled = (
        evaluate(evaluator_of(data, pointwise_model(), tile=tile), "val") for tile in (1024, 96)
    )
    np.testing.assert_array_equal(tiled.counts, whole.counts)
    assert whole.counts.sum() > 300 * 200


# Padded to multiples of 64 they have five shapes; two more are longer than a tile of 192.
MANY = [(40, 33), (64, 90), (100, 50), (120, 120), (33, 180)]
LONG = [(200, 50), (250, 170)]


@pytest.fixture(scope="module")
def many_shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    sizes = {"train": [(8, 8)], "val": [*MANY, *LONG, *MANY]}
    return str(folder), write_data(folder, sizes, num_classes=3)


def traced_network(replicas):
    """Returns a network of neighbourhoods, and the shapes that it is traced with."""
    keras.utils.set_random_seed(0)
    shapes = []

    def note(outputs):
        shapes.append(tuple(outputs.shape))
        return outputs

    with strategy_of(replicas).scope():
        network = models.build_unet((None, None, 1), 4, 3, depth=1, norm="instance")
        model = keras.Model(network.input, keras.layers.Lambda(note)(network.output))
    shapes.clear()  # of building it
    return model, shapes


@pytest.mark.parametrize(
    ("replicas", "most_shapes", "options"),
    [
        (1, 2, {"batch_size": 4}),
        pytest.param(2, 2, {"batch_size": 4}, marks=pytest.mark.slow),
        pytest.param(1, 1, {"batch_size": 3, "tile": 192}, marks=pytest.mark.slow),
    ],
)
def test_a_few_shapes_serve_images_of_all_and_change_no_score(
    many_shapes, replicas, most_shapes, options
):
    model, shapes = traced_network(replicas)
    expected = evaluate(evaluator_of(many_shapes, model, replicas=replicas, **options), "val")
    assert len(set(shapes)) >= 7
    shapes.clear()
    few = evaluator_of(many_shapes, model, replicas=replicas, most_shapes=most_shapes, **options)
    found = evaluate(few, "val")
    assert len(set(shapes)) == 2  # with tiles, they have one
    assert len(shapes) == 2 * replicas
    assert few._score.experimental_get_tracing_count() <= 3
    np.testing.assert_array_equal(found.counts[..., 0], expected.counts[..., 0])
    operations = rounding.operations_of(model) + 256 * 256
    apart = rounding.tolerance(operations, magnitude=256 * 256) / 256  # of sums of so many pixels
    np.testing.assert_allclose(found.soft, expected.soft, rtol=0, atol=apart)
    assert found.summary["loss"] == pytest.approx(expected.summary["loss"], rel=1e-5)
    shapes.clear()
    evaluate(few, "val")
    assert not shapes


def test_tiles_that_are_all_halo_are_refused_before_anything_is_computed(tmp_path):
    sizes = {"train": [(300, 300)], "val": [(40, 40)], "test": [(40, 100)]}
    data = str(tmp_path), write_data(tmp_path, sizes)
    # Its smallest images are padded to 64.
    with pytest.raises(InputError, match=r"^--tile=60 leaves nothing .* use at least 64\.$"):
        evaluator_of(data, pointwise_model(), tile=60).check("val")
    evaluator_of(data, pointwise_model(), tile=64).check("val", "test")


@pytest.mark.parametrize("tta", ["flips", "d4"])
def test_turned_images_give_the_scores_of_upright_ones_where_each_pixel_is_by_itself(
    data, scores, tta
):
    found = evaluate(evaluator_of(data, pointwise_model(), tta=tta), "val")
    np.testing.assert_array_equal(found.counts, scores.counts)
    np.testing.assert_allclose(found.soft, scores.soft, rtol=CLOSE, atol=CLOSE)
    assert found.summary["loss"] == pytest.approx(scores.summary["loss"], rel=CLOSE)


def test_confusions_and_probabilities_count_every_valid_pixel_once(scores):
    confusions, probabilities = scores.scores.confusions, scores.scores.probabilities
    np.testing.assert_array_equal(np.diag(confusions), scores.counts[..., 2].sum(axis=0))
    np.testing.assert_array_equal(confusions.sum(axis=1), scores.counts[..., 0].sum(axis=0))
    np.testing.assert_array_equal(confusions.sum(axis=0), scores.counts[..., 1].sum(axis=0))
    for k in (1, 2):
        others, own = probabilities[k - 1].sum(axis=0)
        assert own == scores.counts[:, k, 0].sum()
        assert others + own == scores.counts[..., 0].sum()


def test_an_unreadable_case_counts_for_nothing_and_has_no_line(data, scores, tmp_path):
    folder, manifest = data
    split = manifest.splits["val"]
    examples = [one for shard in split.shards for one in schema.read_shard(folder, shard)]
    examples[2] = schema.blank_example(manifest)
    shard = schema.write_shard(str(tmp_path), "val-00000-of-00001.tfrecord", examples)
    split = dataclasses.replace(split, shards=(shard,))
    other = dataclasses.replace(manifest, splits={**manifest.splits, "val": split})
    found = evaluate(evaluator_of((str(tmp_path), other), pointwise_model()), "val")

    kept = [0, 1, 3, 4, 5, 6]
    assert np.flatnonzero(found.scores.evaluated).tolist() == found.rows.cases.tolist() == kept
    np.testing.assert_array_equal(found.counts, scores.counts[kept])
    assert found.summary["unreadable"] == [split.cases[2]]
    assert scores.summary["unreadable"] == []
    names = [entry.name for entry in manifest.classes]
    expected = scoring.summarize(scores.counts[kept], scores.soft[kept], names)
    assert found.summary["images"] == expected["images"] == 6
    assert found.summary["dice"] == expected["dice"]
    rows = case_tables.to_csv(split.cases, names, found.rows).splitlines()[1:]
    assert [row.split(",")[0] for row in rows[::3]] == [split.cases[n] for n in kept]


def test_an_image_that_cannot_be_decoded_is_named(data, tmp_path):
    folder, manifest = data
    shards = []
    for shard in manifest.splits["val"].shards:
        examples = list(schema.read_shard(folder, shard))
        if shards:
            examples[1] = examples[1].replace(b"IHDR", b"IxDR")
        shards.append(schema.write_shard(str(tmp_path), shard.name, examples))
    split = dataclasses.replace(manifest.splits["val"], shards=tuple(shards))
    other = dataclasses.replace(manifest, splits={**manifest.splits, "val": split})
    with pytest.raises(InputError, match=r"val-00001-of-00002.tfrecord: record 1 \(val5\) at byte"):
        evaluator_of((str(tmp_path), other), pointwise_model())("val")


def test_workers_with_unequal_work_leave_an_evaluation_together(monkeypatch):
    monkeypatch.setattr(evaluator, "ROUND_SECONDS", 0.01)

    def run(counts, asked=None):
        """Has a thread per worker go through its batches; `asked` = (worker, batch) is stopped."""
        barrier, states, found = threading.Barrier(len(counts)), {}, {}

        def work(worker):
            def sum_over_workers(array):
                states[worker] = array
                barrier.wait(timeout=120)
                total = sum(states.values())
                barrier.wait(timeout=120)
                return total

            def batches():
                for number in range(counts[worker]):
                    time.sleep(0.004)
                    found[worker] = number + 1
                    yield number

            def is_cancelled():
                return asked is not None and asked[0] == worker and found[worker] >= asked[1]

            found[worker] = 0
            try:
                list(evaluator.lockstep(batches(), is_cancelled, len(counts), sum_over_workers))
            except evaluator.CancelledError:
                cancelled.add(worker)

        cancelled = set()
        threads = [threading.Thread(target=work, args=(worker,)) for worker in range(len(counts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found, cancelled

    assert run([0, 30, 3]) == ({0: 0, 1: 30, 2: 3}, set())
    found, cancelled = run([2, 300, 300], asked=(1, 9))
    assert cancelled == {0, 1, 2}
    assert found[0] == 2
    assert found[1] == 9
    assert found[2] < 100
