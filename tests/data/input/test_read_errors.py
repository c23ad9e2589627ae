"""Where the data are damaged, found by reading no more shards than were being read."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.data.input.test_pipeline import (
    manifest_of,
    order_of,
    plain_stream,
    write_data,
    write_numbers,
)
from trainer.data.dataset import schema
from trainer.data.input import read_errors
from trainer.errors import InputError

ORDER = {"seed": 3, "num_streams": 1, "shuffle_block": 4}


def translated(data_dir, manifest, examples=range(20), **changed):
    """Explains errors of a stream that was to give such examples."""
    split = manifest.splits["train"]
    return read_errors.translate_errors(
        data_dir,
        manifest,
        "train",
        lambda: read_errors.training_shards(split, examples, **{**ORDER, **changed}),
    )


# Which shards -------------------------------------------------------------------------------------

SHARDS = [3, 5, 4, 2, 6, 4, 3, 5]


@pytest.mark.parametrize("worker", [0, 1])
@pytest.mark.parametrize("start", [0, 4, 16, 40, 100])  # of 32 examples: also of later epochs
def test_the_shards_of_training_steps_are_those_of_their_examples_and_blocks(
    tmp_path, start, worker
):
    data = write_numbers(tmp_path, SHARDS)
    options = {"seed": 3, "num_streams": 4, "shuffle_block": 2, "worker": worker, "num_workers": 2}
    numbers = order_of(data, 4, start=start, **options)
    shard_of = np.repeat(np.arange(8), SHARDS)
    found = read_errors.training_shards(data[1], range(start, start + 8), **options)
    assert {int(shard_of[number]) for number in numbers} <= set(found)
    # Two streams of a worker, each with two positions: at most two blocks of two examples.
    assert len(found) <= 2 * 2 * 2
    assert all(place % 2 == worker for place in found)


def test_the_shards_of_one_example_are_one(tmp_path):
    data = write_numbers(tmp_path, SHARDS)
    (number,) = order_of(data, 1, shuffle_block=1)
    shard_of = np.repeat(np.arange(8), SHARDS)
    options = {"seed": 3, "num_streams": 1, "shuffle_block": 1}
    assert read_errors.training_shards(data[1], range(1), **options) == [shard_of[number]]


def test_the_shards_of_an_evaluation_are_those_not_yet_evaluated_as_far_as_it_has_read(tmp_path):
    _, split = write_numbers(tmp_path, [2, 2, 2, 2])

    def shards(seen, ahead, worker=0, num_workers=1):
        return read_errors.evaluation_shards(split, np.array(seen) > 0, ahead, worker, num_workers)

    nothing = [0] * 8
    assert shards(nothing, 1) == [0]
    assert shards(nothing, 3) == [0, 1]
    assert shards([1, 1, 0, 0, 0, 0, 0, 0], 1) == [1]
    assert shards([1, 0, 1, 1, 1, 0, 0, 0], 1) == [0, 2]  # one waits for others of its shape
    assert shards([1] * 8, 9) == []
    assert shards(nothing, 3, 1, 2) == [1, 3]
    assert shards(nothing, 3, 9, 10) == []


def test_an_error_of_another_cause_is_raised_and_other_shards_are_not_even_opened(tmp_path):
    data_dir, manifest = write_data(tmp_path, SHARDS)
    read = read_errors.training_shards(manifest.splits["train"], range(4), **ORDER)
    assert len(read) < len(SHARDS)
    for place, shard in enumerate(manifest.splits["train"].shards):
        if place not in read:
            (tmp_path / shard.name).unlink()
    with (
        pytest.raises(tf.errors.InvalidArgumentError, match="shapes"),
        translated(data_dir, manifest, range(4)),
    ):
        raise tf.errors.InvalidArgumentError(None, None, "shapes")


# What is wrong with them --------------------------------------------------------------------------


def damage_message(data_dir, split):
    with (
        pytest.raises(InputError) as error,
        translated(data_dir, manifest_of({"train": split})),
    ):
        order_of((data_dir, split), 20)
    assert "\n" not in str(error.value)
    remedy = f"`python -m trainer.data.inspect {data_dir} --verify` checks every shard."
    assert str(error.value).endswith(remedy)
    return str(error.value)


# A record of one digit takes 17 bytes: length 8, its checksum 4, the digit, its checksum 4.


def test_a_shard_cut_short_is_named_with_its_offset(tmp_path):
    data_dir, split = write_numbers(tmp_path, [3, 3])
    path = tmp_path / "0.tfrecord"
    path.write_bytes(path.read_bytes()[:-10])
    message = damage_message(data_dir, split)
    assert f"{path} is damaged at byte 34: the file is cut short" in message


def test_a_shard_that_ends_between_two_records_is_named(tmp_path):
    data_dir, split = write_numbers(tmp_path, [3])
    path = tmp_path / "0.tfrecord"
    path.write_bytes(path.read_bytes()[:34])
    message = damage_message(data_dir, split)
    assert f"{path} ends at byte 34" in message
    assert "examples 2 instead of 3" in message


def test_a_changed_byte_is_named(tmp_path):
    data_dir, split = write_numbers(tmp_path, [3])
    path = tmp_path / "0.tfrecord"
    content = bytearray(path.read_bytes())
    content[17 + 12] ^= 1
    path.write_bytes(content)
    message = damage_message(data_dir, split)
    assert f"{path} is damaged at byte 17: the checksum of a record is wrong" in message


def test_a_missing_shard_is_named(tmp_path):
    data_dir, split = write_numbers(tmp_path, [3, 3])
    (tmp_path / "0.tfrecord").unlink()
    assert f"{tmp_path / '0.tfrecord'} is missing" in damage_message(data_dir, split)


def test_errors_of_another_cause_are_raised_as_they_are(tmp_path):
    data_dir, manifest = write_data(tmp_path, [3])
    with (
        pytest.raises(tf.errors.NotFoundError, match="another file"),
        translated(data_dir, manifest),
    ):
        raise tf.errors.NotFoundError(None, None, "another file")


@pytest.mark.slow
def test_an_example_that_cannot_be_decoded_is_named(tmp_path):
    data_dir, manifest = write_data(tmp_path, [3])
    (shard,) = manifest.splits["train"].shards
    examples = list(schema.read_shard(data_dir, shard))
    examples[1] = examples[1].replace(b"IHDR", b"IxDR")
    shard = schema.write_shard(data_dir, shard.name, examples)
    split = dataclasses.replace(manifest.splits["train"], shards=(shard,))
    manifest = dataclasses.replace(manifest, splits={"train": split})
    with (
        pytest.raises(InputError) as error,
        translated(data_dir, manifest),
    ):
        next(iter(plain_stream(data_dir, manifest, num_streams=1)))
    offset = len(examples[0]) + 16
    assert str(error.value) == (
        f"{data_dir}/{shard.name}: record 1 (case1) at byte {offset}: its image or mask cannot be "
        "decoded; prepare the data again, or leave it out by --skip_bad_records=1."
    )
