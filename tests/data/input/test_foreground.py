"""Tests of forced examples: how many of a batch, from which shards, and about which place."""

import dataclasses
import hashlib
import itertools
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.shards import write_data
from tests.volumes import write_volumes
from trainer.data.dataset import integrity, schema
from trainer.data.input import foreground, pipeline, read_errors
from trainer.errors import InputError

SHARES = (0.1, 0.25, 0.33, 0.5, 0.9)


def forced_of(number, num_streams, share):
    """Returns for each of the run's first examples whether it is forced, as 0 or 1."""
    phases = foreground.phases(num_streams)
    position, stream = np.divmod(np.arange(number), num_streams)
    before, after = (
        foreground.forced_before(p, phases[stream], share) for p in (position, position + 1)
    )
    return after - before


def test_the_phases_of_streams_are_bit_reversed():
    in_eighths = foreground.phases(8) * 8 / foreground.ONE
    assert in_eighths.tolist() == [0, 4, 2, 6, 1, 5, 3, 7]
    assert foreground.phases(1).tolist() == [0]


@pytest.mark.parametrize("num_streams", [1, 4, 16])
def test_each_batch_has_its_share_of_forced_examples(num_streams):
    # Shares are rounded to a 2^20th, which is how much a count may be off by beyond one.
    for share, batch_size in itertools.product(SHARES, range(1, 33)):
        forced = forced_of(200 * batch_size, num_streams, share)
        assert set(forced) <= {0, 1}
        off = np.abs(forced.reshape(200, batch_size).sum(axis=1) - share * batch_size).max()
        exact = batch_size & (batch_size - 1) == 0 or batch_size % num_streams == 0
        assert off < (1.001 if exact else 3)
        assert forced.mean() == pytest.approx(share, abs=0.02)


def test_the_graph_forces_the_same_examples():
    numbers = tf.range(100, dtype=tf.int64)
    found = tf.map_fn(lambda n: foreground.is_forced(n, 4, 0.33), numbers, fn_output_signature=bool)
    np.testing.assert_array_equal(found, forced_of(100, 4, 0.33))


def test_all_or_none_may_be_forced():
    assert forced_of(50, 4, 1.0).all()
    assert not forced_of(50, 4, 0.0).any()


# The place ----------------------------------------------------------------------------------------


def places_of(example, num_classes, number=200):
    keys = tf.stack([tf.zeros(number, tf.int64), tf.range(number, dtype=tf.int64)], 1)
    draw = tf.function(lambda key: foreground.draw_place(example, num_classes, key))
    return [tuple(draw(key).numpy()) for key in keys]


def test_classes_are_drawn_equally_often_and_then_their_places():
    mask = np.zeros([6, 5], np.uint8)
    mask[0] = 1  # five pixels
    mask[5, 4] = 3
    mask[3] = schema.IGNORE
    drawn = places_of({"mask": tf.constant(mask)}, 4)
    assert set(drawn) == {*((0, x) for x in range(5)), (5, 4)}
    assert 75 < drawn.count((5, 4)) < 125


def test_stored_places_of_volumes_are_drawn():
    places = tf.constant([[1, 9, 8, 7], [2, 1, 2, 3], [2, 3, 2, 1]])
    drawn = places_of({"mask": tf.zeros([10, 10, 10], tf.uint8), "places": places}, 3)
    assert set(drawn) == {(9, 8, 7), (1, 2, 3), (3, 2, 1)}
    assert 75 < drawn.count((9, 8, 7)) < 125


def test_an_example_without_foreground_has_no_place():
    example = {"mask": tf.zeros([3, 3, 3], tf.uint8), "places": tf.zeros([0, 4], tf.int32)}
    assert set(places_of(example, 3, 2)) == {(-1, -1, -1)}
    ignored = tf.fill([4, 4], tf.constant(schema.IGNORE, tf.uint8))
    assert set(places_of({"mask": ignored}, 3, 2)) == {(-1, -1)}


# The stream ---------------------------------------------------------------------------------------


def block(number, drawn):
    """Returns a mask of one voxel of a class, or of none; the place depends on the number."""
    mask = np.zeros([9, 12, 10], np.uint8)
    if drawn:
        mask[np.unravel_index(number * 97 % mask.size, mask.shape)] = 1
    return mask


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    """Four shards of three blocks with a voxel to draw, then eight of three without one."""
    folder = tmp_path_factory.mktemp("blocks")
    drawn = [True] * 4 + [False] * 8
    shards = [[block(3 * k + n, is_drawn) for n in range(3)] for k, is_drawn in enumerate(drawn)]
    return str(folder), write_volumes(folder, shards, says=True)


def stream_of(data, **changed):
    options = {"batch_size": 8, "crop": (4, 6, 4), "seed": 3, "augment": "none", "num_streams": 4}
    options |= {"share": 0.25, "shuffle_block": 4}
    return pipeline.training_stream(*data, **{**options, **changed})


def test_forced_examples_hold_a_voxel_of_a_class_that_is_drawn(blocks):
    batches = list(stream_of(blocks).take(6))
    holds = np.concatenate([batch["labels"].numpy().any((1, 2, 3)) for batch in batches])
    forced = forced_of(48, 4, 0.25).astype(bool)
    assert forced.sum() == 12
    assert holds[forced].all()
    assert holds[~forced].mean() < 0.2  # a third of the blocks have a voxel, a tenth of it is seen
    # They are another sequence: each of a stream's three blocks once in each of its passes.
    numbers = np.concatenate([batch["images"].numpy()[..., 1].mean((1, 2, 3)) for batch in batches])
    for stream in range(4):
        mine = numbers.reshape(-1, 4)[forced.reshape(-1, 4)[:, stream], stream] * 2
        assert sorted(mine) == [3 * stream, 3 * stream + 1, 3 * stream + 2]


def test_the_rest_of_the_stream_is_all_blocks_once_in_each_pass(blocks):
    numbers = [
        batch["images"].numpy()[..., 1].mean((1, 2, 3)) * 2 for batch in stream_of(blocks).take(6)
    ]
    others = np.concatenate(numbers)[forced_of(48, 4, 0.25) == 0]
    assert sorted(others) == list(range(36))


@pytest.mark.slow
@pytest.mark.parametrize("start_step", [1, 5, 13])
@pytest.mark.parametrize("num_workers", [1, 2])
def test_resumed_and_shared_among_workers_the_batches_are_the_same(blocks, start_step, num_workers):
    options = {"augment": "standard", "share": 0.33}
    whole = [digest(batch) for batch in stream_of(blocks, **options).take(start_step + 3)]
    shares = [
        list(
            stream_of(
                blocks, **options, start_step=start_step, worker=w, num_workers=num_workers
            ).take(3)
        )
        for w in range(num_workers)
    ]
    found = [
        digest({key: dealt([part[key] for part in parts]) for key in parts[0]})
        for parts in zip(*shares, strict=True)
    ]
    assert found == whole[start_step:]


def dealt(parts):
    return np.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:])


def digest(batch):
    return [hashlib.sha256(np.asarray(batch[key]).tobytes()).hexdigest() for key in sorted(batch)]


@pytest.mark.slow
def test_without_a_share_the_stream_is_that_of_before_and_others_stay_as_they_were(tmp_path):
    manifest = write_data(tmp_path, {"train": [(40, 30)] * 8})
    data, options = (str(tmp_path), manifest), {"crop": (16, 16), "num_streams": 2}
    without = list(stream_of(data, **options, augment="standard", share=0.0).take(3))
    third = list(stream_of(data, **options, augment="standard", share=0.25).take(3))
    kept = forced_of(24, 2, 0.25).reshape(3, 8) == 0
    for before, after, same in zip(without, third, kept, strict=True):
        equal = (before["images"].numpy() == after["images"].numpy()).all((1, 2, 3))
        assert equal[same].all()
        assert not equal[~same].all()


@pytest.mark.slow
def test_forced_crops_of_images_hold_the_class_that_their_masks_have(tmp_path):
    rng = np.random.default_rng(0)
    examples = []
    for n in range(8):
        mask = np.zeros([60, 50], np.uint8)
        mask[tuple(rng.integers(0, [60, 50]))] = 1
        examples.append(schema.encode(f"{n}", mask[..., None], mask, "png"))
    manifest = write_data(tmp_path, {"train": [(60, 50)] * 8}, num_shards=1)
    shard = schema.write_shard(str(tmp_path), manifest.splits["train"].shards[0].name, examples)
    assert shard.examples == 8
    options = {"crop": (16, 16), "num_streams": 1, "share": 0.5, "normalize": "none"}
    for augment in ("none", "flip", "standard"):
        data = stream_of((str(tmp_path), manifest), **options, augment=augment)
        labels = np.concatenate([batch["labels"].numpy() for batch in data.take(6)])
        holds = labels.any((1, 2))
        forced = forced_of(48, 1, 0.5).astype(bool)
        # Where the crop is scaled, a single pixel may lie between those that are taken.
        least = 1.0 if augment != "standard" else 0.8
        assert holds[forced].mean() >= least
        assert holds[~forced].mean() < 0.3


def test_streams_are_as_many_as_have_foreground_of_about_one_size(blocks):
    split = blocks[1].splits["train"]
    assert pipeline.num_streams(split, 1) == 4
    assert pipeline.num_streams(split, 1, share=0.33) == 4
    with pytest.raises(InputError) as error:
        pipeline.num_streams(split, 1, streams=8, share=0.33)
    assert str(error.value) == (
        "--streams=8 leaves a stream without examples that have a foreground, for "
        "--foreground=0.33; use 1, 2, 4, or 0 to let it be chosen."
    )


def test_a_block_has_as_many_volumes_as_memory_holds(blocks, monkeypatch):
    _, manifest = blocks
    split = manifest.splits["train"]
    one = sum(shard.bytes for shard in split.shards) // split.examples + 1
    monkeypatch.setattr(pipeline, "SHUFFLED_BYTES", 4 * 10 * one)
    assert pipeline.examples_per_block(manifest, 4, 64, 0.0) == 10
    assert pipeline.examples_per_block(manifest, 4, 64, 0.33) == 5  # of each of two sequences
    assert pipeline.examples_per_block(manifest, 4, 3, 0.33) == 3
    assert pipeline.examples_per_block(manifest, 64, 64, 0.33) == 1
    images = dataclasses.replace(manifest, volumes=None)
    assert pipeline.examples_per_block(images, 64, 64, 0.33) == 64


@pytest.mark.slow
def test_the_shards_that_a_step_reads_are_found_again(blocks, tmp_path):
    data_dir, manifest = blocks
    split = manifest.splits["train"]
    options = {"seed": 3, "num_streams": 4, "shuffle_block": 2, "share": 0.25}
    for first, stop in ((0, 4), (9, 13), (40, 44)):
        places = read_errors.training_shards(split, range(first * 4, stop * 4), **options)
        assert len(places) < 12
        # A folder without the others gives the same examples.
        folder = tmp_path / f"{first}"
        folder.mkdir()
        for place in places:
            name = split.shards[place].name
            shutil.copy(f"{data_dir}/{name}", folder)
        whole, part = (
            [
                serialized.numpy()
                for _, serialized in pipeline.ordered_examples(
                    where, split, **options, start=first * 4
                ).take((stop - first) * 4)
            ]
            for where in (data_dir, str(folder))
        )
        assert part == whole


def test_a_repaired_shard_says_what_it_said(blocks, tmp_path):
    data_dir, manifest = blocks
    shard = manifest.splits["train"].shards[0]
    assert shard.foreground is True
    copy = integrity._write_copy(str(tmp_path), shard, schema.read_shard(data_dir, shard))
    assert copy.foreground is True
