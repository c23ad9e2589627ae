"""Evaluation: exact, whole, and independent of how it is computed."""

import csv
import dataclasses
import json
import pathlib
import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import rounding
from tests.devices import strategy_of
from tests.shards import write_data
from trainer import models
from trainer.data.dataset import schema
from trainer.data.input import normalization
from trainer.errors import InputError
from trainer.evaluate import evaluator, metrics
from trainer.monitoring import tensorboard
from trainer.training import losses

# Seven images of three sizes: no batch size but 1 and 7 divides them, and sides are not multiples
# of the stride.
SIZES = {"train": [(32, 32)], "val": [(40, 33)] * 3 + [(70, 65)] * 3 + [(9, 21)]}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return str(folder), write_data(folder, SIZES, num_classes=3, num_shards=2)


SLOPES, OFFSETS = np.array([[-1.0, 0.1, 1.0]], np.float32), np.array([0.0, 0.2, -0.3], np.float32)


def pointwise_model(replicas=1):
    """Returns a model whose logits NumPy computes, too: brightness × SLOPES + OFFSETS."""
    with strategy_of(replicas).scope():
        layers = [keras.Input((None, None, 1)), keras.layers.Conv2D(3, 1)]
        model = keras.Sequential(layers)
    model.set_weights([SLOPES[np.newaxis, np.newaxis], OFFSETS])
    return model


def evaluator_of(
    data, model, *, replicas=1, batch_size=2, tile=1024, normalize="image", tta="none"
):
    return evaluator.Evaluator(
        strategy_of(replicas),
        model,
        *data,
        terms=losses.LOSSES["ce_dice"],
        class_weights=tf.ones(3),
        normalize=normalize,
        depth=2,
        kernel_size=3,
        batch_size=batch_size,
        tile=tile,
        tta=tta,
    )


# Sums over the pixels of an image, padded to 128×128 at most.
CLOSE = rounding.tolerance(operations=128 * 128)


def assert_decided(data):
    """Asserts that no pixel is of two classes but for rounding: counts do not depend on a batch."""
    for image, _ in read_split(data, "val"):
        operations = tf.size(image).numpy()  # of a mean over all pixels
        image = normalization.normalize(image, "image", (), ()).numpy()
        second, first = np.moveaxis(np.sort(image @ SLOPES + OFFSETS, axis=-1)[..., 1:], -1, 0)
        assert (first - second).min() > rounding.tolerance(operations, magnitude=3)


@pytest.fixture(scope="module")
def scores(data):
    """The scores of the validation split, in batches of two on one device."""
    assert_decided(data)
    return evaluator_of(data, pointwise_model())("val")


def read_split(data, split):
    """Yields (image, mask) of a split, read without the pipeline."""
    folder, manifest = data
    for shard in manifest.splits[split].shards:
        for serialized in schema.read_shard(folder, shard):
            example = schema.decode(serialized, manifest)
            yield example["image"], example["mask"].numpy()


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
    found = evaluator_of(data, model, replicas=replicas, batch_size=batch_size)("val")
    np.testing.assert_array_equal(found.counts, scores.counts)
    np.testing.assert_allclose(found.soft, scores.soft, rtol=CLOSE, atol=CLOSE)
    assert found.loss == pytest.approx(scores.loss, rel=CLOSE)


@pytest.mark.slow
def test_logits_of_tiles_equal_those_of_the_whole_image(tmp_path):
    data = str(tmp_path), write_data(tmp_path, {"train": [(8, 8)], "val": [(300, 200)]})
    keras.utils.set_random_seed(0)
    with strategy_of(1).scope():
        model = models.build_unet((None, None, 1), 4, depth=2)
    whole, tiled = (evaluator_of(data, model, tile=tile) for tile in (1024, 96))
    image = np.random.default_rng(0).normal(size=(1, 320, 256, 1)).astype(np.float32)
    expected = whole._logits(tf.constant(image)).numpy()
    assert np.ptp(expected) > 0.1
    found = tiled._logits(tf.constant(image)).numpy()
    rounding.assert_close(found, expected, rounding.operations_of(model))


@pytest.mark.slow
def test_counts_of_tiles_equal_those_of_the_whole_image(tmp_path):
    sizes = {"train": [(8, 8)], "val": [(300, 200)]}
    data = str(tmp_path), write_data(tmp_path, sizes, num_classes=3)
    assert_decided(data)
    whole, tiled = (evaluator_of(data, pointwise_model(), tile=tile)("val") for tile in (1024, 96))
    np.testing.assert_array_equal(tiled.counts, whole.counts)
    assert whole.counts.sum() > 300 * 200


def test_tiles_that_are_all_halo_are_refused_before_anything_is_computed(tmp_path):
    sizes = {"train": [(300, 300)], "val": [(40, 40)], "test": [(40, 100)]}
    data = str(tmp_path), write_data(tmp_path, sizes)
    evaluate = evaluator_of(data, None, tile=60)  # its smallest images are padded to 64
    with pytest.raises(InputError, match=r"^--tile=60 leaves nothing .* use at least 64\.$"):
        evaluate.check_tile("val")
    evaluate = evaluator_of(data, None, tile=64)
    evaluate.check_tile("val", "test")


@pytest.mark.parametrize("tta", ["flips", "d4"])
def test_turned_images_give_the_scores_of_upright_ones_where_each_pixel_is_by_itself(
    data, scores, tta
):
    found = evaluator_of(data, pointwise_model(), tta=tta)("val")
    np.testing.assert_array_equal(found.counts, scores.counts)
    np.testing.assert_allclose(found.soft, scores.soft, rtol=CLOSE, atol=CLOSE)
    assert found.loss == pytest.approx(scores.loss, rel=CLOSE)


def test_the_worst_cases_come_worst_first():
    worst = evaluator.Extreme(2)
    for index, dice in enumerate([0.9, 0.2, 0.5, 0.4]):
        worst.offer(evaluator.Case(index, dice, *[np.zeros(0)] * 5))
    assert [case.index for case in worst.cases()] == [1, 3]


def test_the_best_cases_come_best_first_and_the_first_in_order():
    gallery = evaluator.Gallery(first=2, best=2)
    for index, dice in [(1, 0.9), (0, 0.2), (3, 0.5), (2, 0.95)]:
        gallery.offer(evaluator.Case(index, dice, *[np.zeros(0)] * 5))
    assert [case.index for case in gallery.cases("best")] == [2, 1]
    assert [case.index for case in gallery.cases("first")] == [0, 1]
    assert gallery.cases("worst") == []


@pytest.mark.parametrize("normalize", ["image", "dataset", "none"])
def test_cases_are_shown_as_they_are_stored(data, normalize):
    stored = {}
    for path in sorted(pathlib.Path(data[0]).glob("val*")):
        for record in tf.data.TFRecordDataset(str(path)):
            example = schema.decode(record, data[1])
            stored[example["name"].numpy().decode()] = example["image"].numpy()
    gallery = evaluator.Gallery(first=7)
    evaluator_of(data, pointwise_model(), normalize=normalize)("val", gallery.offer)
    for case in gallery.cases("first"):
        name = data[1].splits["val"].cases[case.index]
        np.testing.assert_array_equal(case.image, stored[name])


def test_confusions_and_probabilities_count_every_valid_pixel_once(scores):
    np.testing.assert_array_equal(np.diag(scores.confusions), scores.counts[..., 2].sum(axis=0))
    np.testing.assert_array_equal(scores.confusions.sum(axis=1), scores.counts[..., 0].sum(axis=0))
    np.testing.assert_array_equal(scores.confusions.sum(axis=0), scores.counts[..., 1].sum(axis=0))
    for k in (1, 2):
        others, own = scores.probabilities[k - 1].sum(axis=0)
        assert own == scores.counts[:, k, 0].sum()
        assert others + own == scores.counts[..., 0].sum()


def test_figures_name_classes_and_terms(scores):
    found = evaluator.figures(scores)
    assert list(found)[:3] == ["loss", "dice", "iou"]
    assert found["loss"] == pytest.approx(found["loss/cross_entropy"] + found["loss/soft_dice"])
    assert found["dice"] == pytest.approx((found["dice/class1"] + found["dice/class2"]) / 2)


def test_a_perfect_case_without_foreground_has_dice_1():
    assert evaluator._case_dice(np.array([[9, 9, 9], [0, 0, 0]])) == 1.0
    assert evaluator._case_dice(np.array([[9, 9, 9], [2, 2, 1]])) == 0.5


def test_cases_summary_and_pictures_are_written(data, tmp_path):
    gallery = evaluator.Gallery(worst=2, best=1)
    scores = evaluator_of(data, pointwise_model())("val", gallery.offer)
    evaluator.write(str(tmp_path / "out"), scores, gallery, data[1], "val")
    with open(tmp_path / "out" / "cases.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7 * 3
    assert [row["case"] for row in rows[::3]] == list(data[1].splits["val"].cases)
    assert [int(rows[4][key]) for key in ("truth", "prediction", "intersection")] == list(
        scores.counts[1, 1]
    )
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["dice"] == scores.summary["dice"]
    for kind, ranks in (("worst", ["01-", "02-"]), ("best", ["01-"])):
        pictures = sorted(path.name for path in (tmp_path / "out" / kind).iterdir())
        assert [name[:3] for name in pictures] == ranks


def test_pictures_of_others_stay_and_a_folder_that_was_not_finished_is_an_evaluations(
    data, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    gallery = evaluator.Gallery(worst=2)
    scores = evaluator_of(data, pointwise_model())("val", gallery.offer)
    with monkeypatch.context() as patch:
        patch.setattr(evaluator, "cases_csv", lambda *arguments: 1 / 0)  # in place of a kill
        with pytest.raises(ZeroDivisionError):
            evaluator.write(str(out), scores, gallery, data[1], "val")
    evaluator.check_output(str(out))
    evaluator.write(str(out), scores, gallery, data[1], "val")
    (out / "worst" / "notes.png").write_text("mine")
    evaluator.write(str(out), scores, evaluator.Gallery(), data[1], "val")
    assert [path.name for path in (out / "worst").iterdir()] == ["notes.png"]


def test_cases_may_have_any_name(data, tmp_path):
    folder, manifest = data
    split = manifest.splits["val"]
    names = ["p1/a", "p2/a", "two\nlines", "a,b", "back\\slash", "é" * 100, "a"]
    split = dataclasses.replace(split, cases=tuple(names))
    named = dataclasses.replace(manifest, splits={**manifest.splits, "val": split})
    gallery = evaluator.Gallery(worst=7, first=7)
    scores = evaluator_of((folder, named), pointwise_model())("val", gallery.offer)
    evaluator.write(str(tmp_path / "out"), scores, gallery, named, "val")
    with open(tmp_path / "out" / "cases.csv", newline="") as file:
        assert [row["case"] for row in csv.DictReader(file)][::3] == names
    pictures = {path.name[3:] for path in (tmp_path / "out" / "worst").iterdir()}
    assert pictures == {
        *("p1_a.png", "p2_a.png", "two_lines.png", "a,b.png", "back_slash.png", "a.png"),
        f"{'é' * 60}.png",
    }
    with tf.summary.create_file_writer(str(tmp_path / "events")).as_default(step=1):
        tensorboard.write_evaluation(scores, gallery, named, "val")


def test_an_unreadable_case_counts_for_nothing_and_has_no_line(data, scores, tmp_path):
    folder, manifest = data
    split = manifest.splits["val"]
    examples = [one for shard in split.shards for one in schema.read_shard(folder, shard)]
    examples[2] = schema.blank_example(manifest)
    shard = schema.write_shard(str(tmp_path), "val-00000-of-00001.tfrecord", examples)
    split = dataclasses.replace(split, shards=(shard,))
    other = dataclasses.replace(manifest, splits={**manifest.splits, "val": split})
    found = evaluator_of((str(tmp_path), other), pointwise_model())("val")

    kept = [0, 1, 3, 4, 5, 6]
    assert np.flatnonzero(found.evaluated).tolist() == kept
    np.testing.assert_array_equal(found.counts[kept], scores.counts[kept])
    assert found.summary["unreadable"] == [split.cases[2]]
    assert scores.summary["unreadable"] == []
    names = [entry.name for entry in manifest.classes]
    expected = metrics.summarize(scores.counts[kept], scores.soft[kept], names)
    assert found.summary["images"] == expected["images"] == 6
    assert found.summary["dice"] == expected["dice"]
    rows = evaluator.cases_csv(found, manifest, "val").splitlines()[1:]
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


def test_the_table_has_a_line_for_each_class_and_mean(scores):
    lines = evaluator.table(scores.summary).splitlines()
    heads = [line.split("  ")[0] for line in lines]
    assert heads == ["class", "class0", "class1", "class2", "mean, foreground", "mean, all"]
    assert len({len(line) for line in lines[:4]}) == 1


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
