"""The training batches of all replicas: where they begin, and what is said of damaged data."""

import itertools
import shutil

import numpy as np
import pytest

from tests.devices import strategy_of
from tests.shards import write_data
from trainer import config
from trainer.data.dataset import schema
from trainer.data.input.training_batches import TrainingBatches
from trainer.errors import InputError


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_data(folder, {"train": [(20, 20)] * 8})
    return str(folder)


def open_batches(data_dir, *, num_replicas=1, start_step=0):
    return TrainingBatches(
        config.Data(batch_size=4, crop=16),
        strategy_of(num_replicas),
        data_dir,
        schema.read_manifest(data_dir),
        seed=3,
        num_streams=2,
        start_step=start_step,
    )


def images_of(batches, steps, num_replicas=1):
    """Returns the images of some steps, each float32 [4, 16, 16, 1]."""
    return [
        np.concatenate(strategy_of(num_replicas).experimental_local_results(batch["images"]))
        for batch in itertools.islice(batches, steps)
    ]


def test_batches_from_a_step_are_those_of_a_run_that_reached_it(data_dir):
    whole = images_of(open_batches(data_dir), 4)
    resumed = images_of(open_batches(data_dir, start_step=2), 2)
    np.testing.assert_array_equal(resumed, whole[2:])


def test_replicas_divide_the_batch_of_one(data_dir):
    (one,) = images_of(open_batches(data_dir), 1)
    (both,) = images_of(open_batches(data_dir, num_replicas=2), 1, num_replicas=2)
    np.testing.assert_array_equal(np.sort(both.sum((1, 2, 3))), np.sort(one.sum((1, 2, 3))))


def test_the_first_examples_are_those_of_the_first_batch_and_take_none_from_it(data_dir):
    batches = open_batches(data_dir)
    examples = batches.first_examples(3)
    (first,) = images_of(batches, 1)
    np.testing.assert_array_equal(examples["images"], first[:3])


def test_a_damaged_shard_is_named_where_reading_it_fails(data_dir, tmp_path):
    folder = shutil.copytree(data_dir, tmp_path / "damaged")
    shard = folder / "train-00001-of-00002.tfrecord"
    shard.write_bytes(shard.read_bytes()[:-10])
    batches = open_batches(str(folder))
    with pytest.raises(InputError, match=f"{shard} is damaged"), batches.translate_errors(0, 2):
        images_of(batches, 2)
