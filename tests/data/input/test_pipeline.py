"""Tests of the stream on real shards: the same for all numbers of workers, from any start."""

import gc
import hashlib
import itertools
import weakref

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from tests import rounding
from tests.volumes import write_volumes
from trainer.data.dataset import sample, schema
from trainer.data.input import normalization, padded_shapes, pipeline
from trainer.errors import InputError


def write_data(folder, shard_sizes, image_of=None, split="train"):
    """Writes shards of numbered examples, and the manifest; image n is filled with n by default."""
    image_of = image_of or (lambda n: np.full([6, 6, 1], n, np.uint8))
    numbers = itertools.count()
    shards, images = [], []
    for k, size in enumerate(shard_sizes):
        part = [image_of(next(numbers)) for _ in range(size)]
        examples = [
            schema.encode(f"case{len(images) + j}", image, class_of(image), "png")
            for j, image in enumerate(part)
        ]
        name = schema.shard_name(split, k, len(shard_sizes))
        shards.append(schema.write_shard(str(folder), name, examples))
        images += part
    splits = {name: split_of(shards, images) for name in {"train", split}}
    return str(folder), manifest_of(splits, images[0].shape[-1])


def manifest_of(splits, channels=1):
    return schema.Manifest(
        classes=(schema.Class("background", 0), schema.Class("odd", 1)),
        channels=channels,
        bit_depth=8,
        dtype="uint8",
        encoding="png",
        splits=splits,
    )


def class_of(image):
    """Marks odd values as class 1, and the value 99 as ignored."""
    values = image[..., 0]
    return np.where(values == 99, schema.IGNORE, values % 2).astype(np.uint8)


def split_of(shards, images):
    return schema.Split(
        examples=len(images),
        shards=tuple(shards),
        cases=tuple(f"case{n}" for n in range(len(images))),
        sizes=tuple((*image.shape[:2], 1) for image in images),
        pixels=(0, 0),
        ignored_pixels=0,
        mean=(0.0,) * images[0].shape[-1],
        std=(1.0,) * images[0].shape[-1],
    )


def noisy_image(n):
    return np.random.default_rng(n).integers(0, 90, (20 + n, 18, 1), np.uint8)


def plain_stream(data_dir, manifest, **changed):
    options = {"batch_size": 4, "crop": (2, 2), "seed": 3, "augment": "none", "normalize": "none"}
    return pipeline.training_stream(data_dir, manifest, **{**options, **changed})


def write_numbers(folder, shard_sizes):
    """Writes shards whose examples are nothing but their number, as text."""
    numbers = itertools.count()
    shards = [
        schema.write_shard(
            str(folder), f"{k}.tfrecord", [str(next(numbers)).encode() for _ in range(size)]
        )
        for k, size in enumerate(shard_sizes)
    ]
    return str(folder), split_of(shards, [np.zeros([1, 1, 1])] * sum(shard_sizes))


def order_of(data, count, **changed):
    """Returns the numbers of the first examples that a worker gets, int [count]."""
    options = {"seed": 3, "num_streams": 1, "shuffle_block": 4}
    examples = pipeline.ordered_examples(*data, **{**options, **changed}).take(count)
    return [int(serialized.numpy()) for _, serialized in examples]


# The order ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_each_epoch_of_a_stream_shows_every_example_once_in_another_order(tmp_path):
    data = write_numbers(tmp_path, [5, 4, 5, 4])
    order = order_of(data, 60, num_streams=2)
    # Shards 0 and 2 hold 0 … 4 and 9 … 13; shards 1 and 3 hold the rest.
    members = [{*range(5), *range(9, 14)}, {*range(5, 9), *range(14, 18)}]
    for stream, numbers in zip((order[0::2], order[1::2]), members, strict=True):
        epochs = [stream[k : k + len(numbers)] for k in range(0, 2 * len(numbers), len(numbers))]
        for epoch in epochs:
            assert sorted(epoch) == sorted(numbers)
            assert epoch != sorted(numbers)
        assert epochs[0] != epochs[1]


def test_examples_move_within_their_block_only(tmp_path):
    order = order_of(write_numbers(tmp_path, [12]), 12)
    blocks = [sorted(order[k : k + 4]) for k in (0, 4, 8)]
    assert blocks == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_the_order_of_shards_changes_with_the_epoch(tmp_path):
    order = order_of(write_numbers(tmp_path, [1, 1, 1, 1]), 40, shuffle_block=1)
    epochs = [order[k : k + 4] for k in range(0, 40, 4)]
    assert all(sorted(epoch) == [0, 1, 2, 3] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 5


@pytest.mark.slow
def test_the_seed_decides_the_order(tmp_path):
    data = write_numbers(tmp_path, [16])
    orders = [order_of(data, 16, seed=seed) for seed in (0, 1, 0)]
    assert orders[0] != orders[1]
    assert orders[0] == orders[2]


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [2, 4])
def test_workers_take_turns_in_the_same_order(tmp_path, num_workers):
    data = write_numbers(tmp_path, [3] * 8)
    options = {"num_streams": 4, "start": 12}
    whole = order_of(data, 40, **options)
    for worker in range(num_workers):
        mine = order_of(data, 40 // num_workers, **options, worker=worker, num_workers=num_workers)
        assert mine == whole[worker::num_workers]


def test_a_worker_reads_only_the_shards_of_its_own_streams(tmp_path):
    data = write_numbers(tmp_path, [2] * 4)
    for odd in (1, 3):
        (tmp_path / f"{odd}.tfrecord").unlink()
    assert set(order_of(data, 8, num_streams=4, num_workers=2)) == {0, 1, 4, 5}


@pytest.mark.slow
@hypothesis.settings(max_examples=8, deadline=None, derandomize=True)
@hypothesis.given(
    shard_sizes=st.lists(st.integers(1, 6), min_size=1, max_size=9),
    log_streams=st.integers(0, 3),
    shuffle_block=st.integers(1, 9),
    start=st.integers(0, 100),
)
def test_started_anywhere_the_order_is_that_of_the_whole_run(
    tmp_path_factory, shard_sizes, log_streams, shuffle_block, start
):
    data = write_numbers(tmp_path_factory.mktemp("data"), shard_sizes)
    options = {
        "num_streams": 2 ** min(log_streams, len(shard_sizes).bit_length() - 1),
        "shuffle_block": shuffle_block,
    }
    whole = order_of(data, start + 12, **options)
    assert order_of(data, 12, **options, start=start) == whole[start:]


@pytest.mark.slow
def test_starting_late_opens_no_shard_before_the_one_it_needs(tmp_path):
    data = write_numbers(tmp_path, [4] * 4)
    first_epoch = order_of(data, 16)
    last = first_epoch[12] // 4
    for k in {0, 1, 2, 3} - {last}:
        (tmp_path / f"{k}.tfrecord").unlink()
    assert order_of(data, 4, start=12) == first_epoch[12:]


# Batches ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_workers_and_replicas_share_the_same_global_batches(tmp_path):
    data = write_data(tmp_path, [3] * 4, noisy_image)
    options = {
        "batch_size": 8,
        "crop": (16, 16),
        "num_streams": 4,
        "augment": "flip",
        "start_step": 1,
    }
    whole = [batch["images"].numpy() for batch in plain_stream(*data, **options).take(3)]
    shares = []
    for worker in range(2):
        stream = plain_stream(*data, **options, worker=worker, num_workers=2, num_replicas=2)
        shares.append([batch["images"].numpy() for batch in stream.take(6)])
        assert shares[-1][0].shape == (2, 16, 16, 1)
    for step in range(3):
        # The step's examples 0, 1, 2, … went to the workers 0, 1, 0, …, and a
        # worker's to its replicas in the same way.
        parts = [np.stack(share[2 * step : 2 * step + 2], axis=1) for share in shares]
        parts = [part.reshape(-1, 16, 16, 1) for part in parts]
        np.testing.assert_array_equal(np.stack(parts, axis=1).reshape(-1, 16, 16, 1), whole[step])


def dealt(parts):
    """Puts what was dealt out in turns, one example to each, back into order."""
    return np.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:])


def hashes(data, start_step, steps, num_workers, num_replicas):
    """Returns the checksums of each step's global batch, its examples in the order of the run."""
    options = {"batch_size": 8, "crop": (16, 16), "num_streams": 4, "augment": "flip"}
    options |= {"start_step": start_step, "num_workers": num_workers, "num_replicas": num_replicas}
    streams = [
        list(plain_stream(*data, **options, worker=worker).take(steps * num_replicas))
        for worker in range(num_workers)
    ]

    def global_batch(step, key):
        here = slice(step * num_replicas, (step + 1) * num_replicas)
        return dealt([dealt([batch[key] for batch in stream[here]]) for stream in streams])

    return [
        [
            hashlib.sha256(global_batch(step, key).tobytes()).hexdigest()
            for key in ("images", "labels", "valid")
        ]
        for step in range(steps)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("num_workers", "num_replicas"), [(1, 1), (1, 4), (2, 1), (2, 2)])
def test_a_run_of_two_replicas_that_resumes_elsewhere_takes_the_same_batches(
    tmp_path, num_workers, num_replicas
):
    data = write_data(tmp_path, [3, 4, 3, 4], noisy_image)
    uninterrupted = hashes(data, 0, 6, num_workers=1, num_replicas=2)
    assert len({tuple(step) for step in uninterrupted}) == 6
    assert hashes(data, 3, 3, num_workers, num_replicas) == uninterrupted[3:]


@pytest.mark.slow
@pytest.mark.parametrize("augment", ["standard", "strong"])
def test_a_resumed_stream_equals_the_uninterrupted_one_to_the_last_bit(tmp_path, augment):
    data = write_data(tmp_path, [3, 4, 3, 4], noisy_image)
    options = {"num_streams": 4, "crop": (16, 16), "augment": augment, "normalize": "image"}
    whole = list(plain_stream(*data, **options).take(7))
    resumed = plain_stream(*data, **options, start_step=5)
    for batch, expected in zip(resumed, whole[5:], strict=False):
        for key, value in batch.items():
            np.testing.assert_array_equal(value, expected[key])


@pytest.mark.slow
def test_the_same_example_looks_different_in_every_epoch(tmp_path):
    data = write_data(tmp_path, [1], noisy_image)
    stream = plain_stream(*data, batch_size=1, num_streams=1, crop=(16, 16), augment="standard")
    images = [batch["images"].numpy() for batch in stream.take(6)]
    for one, other in itertools.combinations(images, 2):
        assert not np.array_equal(one, other)


@pytest.mark.slow
def test_training_shapes_are_static_and_names_are_the_design_s(tmp_path):
    data = write_data(tmp_path, [2], lambda n: np.zeros([5 + n, 7, 3], np.uint8))
    spec = plain_stream(*data, num_streams=1, crop=(16, 16), augment="strong").element_spec
    assert {key: (value.shape.as_list(), value.dtype) for key, value in spec.items()} == {
        "images": ([4, 16, 16, 3], tf.float32),
        "labels": ([4, 16, 16], tf.int32),
        "valid": ([4, 16, 16], tf.float32),
    }


def test_volumes_are_cropped_to_a_box_and_taken_as_they_were_prepared(tmp_path):
    mask = np.arange(3 * 4 * 5).reshape(3, 4, 5).astype(np.uint8)
    manifest = write_volumes(tmp_path, [[mask], [mask]], num_classes=60)
    options = {"crop": (2, 4, 3), "num_streams": 2, "augment": "flip", "normalize": "image"}
    seen = set()
    for batch in plain_stream(str(tmp_path), manifest, **options).take(8):
        assert batch["images"].shape == (4, 2, 4, 3, 2)
        # The example's number is in its second channel, halved; streams take turns.
        assert batch["images"][:, 0, 0, 0, 1].numpy().tolist() == [0, 0.5, 0, 0.5]
        np.testing.assert_array_equal(batch["images"][..., 0], batch["labels"])
        assert batch["valid"].numpy().all()
        steps = np.diff(batch["labels"].numpy()[:, :, 0, 0])[:, 0]
        seen |= set(steps.tolist())
    assert seen == {20, -20}  # a plane further, or mirrored


def test_ignored_pixels_are_label_0_and_not_valid(tmp_path):
    image = np.array([[[99], [2]], [[3], [4]]], np.uint8)
    data = write_data(tmp_path, [1], lambda n: image)
    batch = next(iter(plain_stream(*data, num_streams=1, batch_size=1)))
    assert batch["labels"].numpy().tolist() == [[[0, 0], [1, 0]]]
    assert batch["valid"].numpy().tolist() == [[[0, 1], [1, 1]]]


@pytest.mark.slow
def test_normalization_is_of_the_whole_image_and_not_of_the_crop(tmp_path):
    image = np.random.default_rng(0).integers(0, 90, (30, 30, 1), np.uint8)
    data = write_data(tmp_path, [1], lambda n: image)
    stream = plain_stream(*data, num_streams=1, batch_size=1, crop=(8, 8), normalize="image")
    crop = next(iter(stream))["images"].numpy()[0]
    whole = normalization.normalize(image, "image", (0,), (1,)).numpy()
    windows = np.lib.stride_tricks.sliding_window_view(whole[..., 0], (8, 8))
    assert (
        np.isclose(windows, crop[..., 0], atol=rounding.tolerance(30 * 30, 2)).all((-2, -1)).sum()
        == 1
    )


def test_a_batch_that_the_replicas_do_not_divide_is_refused(tmp_path):
    data = write_data(tmp_path, [2, 2])
    with pytest.raises(InputError) as error:
        plain_stream(*data, num_streams=2, batch_size=6, num_workers=2, num_replicas=2)
    assert str(error.value) == "--batch_size=6 is not a multiple of the 4 replicas; use 4."


# The number of streams ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shard_sizes", "streams"),
    [
        ([10] * 8, 8),
        ([11, 10, 10, 10, 10, 10, 10, 10], 8),
        ([12, 10, 10, 10, 10, 10, 10, 10], 4),  # 12 is more than a tenth above 10; 22 is not
        ([10] * 12, 4),
        ([10] * 9, 1),
        ([10] * 64, 16),
        ([3], 1),
    ],
)
def test_streams_are_as_many_as_can_be_of_about_one_size(shard_sizes, streams):
    assert pipeline.num_streams(split_of_sizes(shard_sizes), num_workers=1) == streams


def split_of_sizes(shard_sizes):
    shards = [schema.Shard(f"s{k}", n, 0, "") for k, n in enumerate(shard_sizes)]
    return split_of(shards, [np.zeros([1, 1, 1])])


def test_the_number_of_streams_can_be_given():
    assert pipeline.num_streams(split_of_sizes([10] * 12), num_workers=4, streams=8) == 8
    with pytest.raises(InputError) as error:
        pipeline.num_streams(split_of_sizes([10] * 6), num_workers=1, streams=8)
    assert str(error.value) == (
        "--streams=8 is not a power of two up to 6, the number of training shards; "
        "use 1, 2, 4, or 0 to let it be chosen."
    )


@pytest.mark.parametrize(("workers", "streams"), [(2, 16), (16, 16), (32, 32), (64, 64)])
def test_there_are_as_many_streams_as_workers_at_least(workers, streams):
    assert pipeline.num_streams(split_of_sizes([10] * 64), num_workers=workers) == streams


def test_more_workers_than_shards_are_refused_with_what_helps():
    with pytest.raises(InputError, match=r"^32 workers do not divide the 4 input streams of 12 tr"):
        pipeline.num_streams(split_of_sizes([10] * 12), num_workers=32)


def test_workers_that_do_not_divide_the_streams_are_refused():
    with pytest.raises(InputError) as error:
        pipeline.num_streams(split_of_sizes([10] * 12), num_workers=3)
    assert str(error.value) == (
        "3 workers do not divide the 4 input streams of 12 training shards; use 1, 2, 4 workers, "
        "or prepare the data in more shards, their number a power of two."
    )


# Evaluation ---------------------------------------------------------------------------------------

SIZES = [(6, 6), (70, 64), (64, 64), (3, 1), (1, 1), (65, 20), (64, 65), (10, 10), (129, 8)]


def image_of_size(n):
    height, width = SIZES[n % len(SIZES)]
    return np.random.default_rng(n).integers(0, 90, (height, width, 1), np.uint8)


def evaluation_of(data, **changed):
    options = {"stride": 16, "batch_size": 4, "normalize": "none", "tile": 1024}
    return list(pipeline.evaluation_batches(*data, "test", **{**options, **changed}))


def test_evaluation_shows_every_case_once_whole_and_in_full_batches(tmp_path):
    data = write_data(tmp_path, [5, 4, 4], image_of_size, split="test")
    seen = []
    for batch in evaluation_of(data):
        assert batch["images"].shape[0] == 4
        for case, size, image, labels, valid in zip(
            *(batch[key].numpy() for key in ("case", "size", "images", "labels", "valid")),
            strict=True,
        ):
            if case < 0:
                assert not valid.any()
                continue
            original = image_of_size(case)
            height, width = size
            assert original.shape[:2] == (height, width)
            rounding.assert_close(image[:height, :width] * 255, original, 2, magnitude=90)
            np.testing.assert_array_equal(labels[:height, :width], class_of(original))
            assert valid[:height, :width].all()
            assert valid.sum() == height * width
            seen.append(int(case))
    assert sorted(seen) == list(range(13))


def test_evaluation_pads_by_mirroring_to_multiples_of_64_and_of_the_stride(tmp_path):
    data = write_data(tmp_path, [9], image_of_size, split="test")
    shapes = {tuple(batch["images"].shape[1:3]) for batch in evaluation_of(data)}
    assert shapes == {(64, 64), (128, 64), (64, 128), (192, 64)}
    shapes = {tuple(batch["images"].shape[1:3]) for batch in evaluation_of(data, stride=128)}
    assert shapes == {(128, 128), (256, 128)}
    image = tf.constant([[[1], [2], [3]]])
    assert (
        padded_shapes.mirrored(image, 8).numpy()[:, :, 0].tolist() == [[1, 2, 3, 2, 1, 2, 3, 2]] * 8
    )


def test_evaluation_pads_further_to_the_smallest_of_some_shapes(tmp_path):
    data = write_data(tmp_path, [9], image_of_size, split="test")
    shapes = [(128, 128), (64, 64)]
    batches = evaluation_of(data, shapes=shapes)
    assert {tuple(batch["images"].shape[1:3]) for batch in batches} == {*shapes, (192, 64)}
    seen = {
        int(batch["case"][row]): (batch["images"][row].numpy(), batch["valid"][row].numpy())
        for batch in batches
        for row in range(4)
    }
    alone = {
        int(batch["case"][row]): batch["images"][row].numpy()
        for batch in evaluation_of(data)
        for row in range(4)
    }
    for case, (height, width) in enumerate(SIZES):
        image, valid = seen[case]
        own = alone[case].shape[:2]
        np.testing.assert_array_equal(image[: own[0], : own[1]], alone[case])
        assert not image[own[0] :].any()
        assert not image[:, own[1] :].any()
        assert valid[:height, :width].all()
        assert valid.sum() == height * width
    # Eight images wait for others as 64 × 64, four as 128 × 128, and one, which none covers.
    split = data[1].splits["test"]
    assert pipeline.examples_waiting(split, 16, 4, 1024, shapes) == 3 + 3 + 1


def test_images_longer_than_a_tile_come_alone(tmp_path):
    data = write_data(tmp_path, [9], image_of_size, split="test")
    batches = evaluation_of(data, tile=128)
    alone = [batch for batch in batches if batch["images"].shape[0] == 1]
    assert [tuple(batch["images"].shape[1:3]) for batch in alone] == [(192, 64)]
    assert {batch["images"].shape[0] for batch in batches} == {1, 4}


def test_few_images_wait_for_others_of_their_shape(tmp_path, monkeypatch):
    data = write_data(tmp_path, [5, 4, 4], image_of_size, split="test")
    split = data[1].splits["test"]
    # Four sizes become 64 × 64, eight images in all; two 128 × 64; two 64 × 128; 192 × 64 is one.
    assert pipeline.examples_waiting(split, 16, 4, 1024) == 3 + 2 + 2 + 1
    assert pipeline.examples_waiting(split, 16, 4, 128) == 3 + 2 + 2  # the largest comes alone
    assert pipeline.examples_waiting(split, 16, 1, 1024) == 0
    assert pipeline.examples_in_part(split, 16, 4, 1024) == 13
    whole = evaluation_of(data)
    monkeypatch.setattr(
        pipeline, "HELD_BYTES", 6 * sum(shard.bytes for shard in split.shards) // 13
    )
    assert pipeline.examples_in_part(split, 16, 4, 1024) == 5
    parts = evaluation_of(data)
    assert len(parts) > len(whole)
    assert {batch["images"].shape[0] for batch in parts} == {4}
    cases = [int(case) for batch in parts for case in batch["case"] if case >= 0]
    assert sorted(cases) == list(range(13))


@pytest.mark.slow
def test_the_workers_share_the_cases_of_an_evaluation(tmp_path):
    num_workers = 4  # one more than there are shards
    data = write_data(tmp_path, [5, 4, 4], image_of_size, split="test")
    cases = [
        int(case)
        for worker in range(num_workers)
        for batch in evaluation_of(data, worker=worker, num_workers=num_workers)
        for case in batch["case"]
        if case >= 0
    ]
    assert sorted(cases) == list(range(13))


# Damage -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_no_stream_is_tuned_and_a_kept_iterator_does_not_go(tmp_path):
    # The end of a job would wait for a tuned stream, or for an iterator that is let go.
    data = write_data(tmp_path, [1])
    stream = plain_stream(*data, num_streams=1)
    options = {"stride": 4, "batch_size": 2, "normalize": "none", "tile": 64}
    evaluation = pipeline.evaluation_batches(*data, "train", **options)
    assert [x.options().autotune.enabled for x in (stream, evaluation)] == [False, False]
    iterator = pipeline.keep_alive(iter(stream))
    reference = weakref.ref(iterator)
    del iterator
    gc.collect()
    assert reference() is not None


@pytest.mark.slow
@pytest.mark.parametrize("change", [-1, 1])
def test_a_shard_with_another_number_of_examples_ends_an_evaluation(change, tmp_path):
    data_dir, manifest = write_data(tmp_path, [5, 5], split="val")
    shard = manifest.splits["val"].shards[0]
    examples = list(schema.read_shard(data_dir, shard))
    schema.write_shard(data_dir, shard.name, [*examples, examples[0]][: 5 + change])
    options = {"stride": 4, "batch_size": 2, "normalize": "none", "tile": 64}
    few = sample.of_validation(manifest, 4)  # two of each shard, which both are there
    part = pipeline.evaluation_batches(data_dir, few, "val", **options)
    assert sorted(n for batch in part for n in batch["case"].numpy()) == [0, 1, 2, 3]
    whole = pipeline.evaluation_batches(data_dir, manifest, "val", **options)
    with pytest.raises(tf.errors.FailedPreconditionError, match="to contain 5 elements"):
        list(whole)


@pytest.mark.slow
def test_a_blank_example_changes_no_other_and_counts_for_nothing(tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "blank").mkdir()
    options = {"num_streams": 2, "crop": (16, 16), "augment": "strong", "normalize": "image"}
    whole = write_data(tmp_path / "whole", [3, 3], noisy_image)
    blank = write_data(tmp_path / "blank", [3, 3], noisy_image)
    blank_out(blank, 0, 1)
    steps = [list(plain_stream(*data, **options).take(3)) for data in (whole, blank)]
    num_blank = 0
    for expected, found in zip(*steps, strict=True):
        for n in range(4):
            if not found["valid"][n].numpy().any():
                num_blank += 1
                assert not found["labels"][n].numpy().any()
                assert np.isfinite(found["images"][n]).all()
                continue
            for key, value in found.items():
                np.testing.assert_array_equal(value[n], expected[key][n])
    assert num_blank == 2  # in twelve examples, two passes over six


def blank_out(data, shard_number, record):
    """Writes a blank in the place of a record."""
    data_dir, manifest = data
    split = manifest.splits.get("test", manifest.splits["train"])
    shard = split.shards[shard_number]
    examples = list(schema.read_shard(data_dir, shard))
    examples[record] = schema.blank_example(manifest)
    schema.write_shard(data_dir, shard.name, examples)


def test_a_blank_example_is_no_case_of_an_evaluation(tmp_path):
    data = write_data(tmp_path, [5, 4, 4], image_of_size, split="test")
    blank_out(data, 1, 2)
    cases = [int(case) for batch in evaluation_of(data) for case in batch["case"] if case >= 0]
    assert sorted(cases) == [n for n in range(13) if n != 5 + 2]
