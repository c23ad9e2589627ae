"""Examples of volumes."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from trainer.data.dataset import schema, volume_examples
from trainer.data.dataset.volume_examples import Channel, Original, Volumes
from trainer.errors import InputError

RNG = np.random.default_rng(0)
IMAGE = RNG.normal(size=(3, 4, 5, 2)).astype(np.float32)
MASK = RNG.integers(0, 3, (3, 4, 5)).astype(np.uint8)
PLACES = np.array([[1, 0, 3, 4], [2, 2, 0, 1]])
ORIGINAL = Original(
    np.pad(MASK, ((1, 0), (0, 0), (2, 1))), np.array([[1, 4], [0, 4], [2, 7]]), np.arange(15.0)
)
CHANNELS = tuple(Channel(name, "zscore", 1.5, 2.0, -1.0, 9.0) for name in ("T1", "T2"))


def manifest_of(shard):
    split = schema.Split(1, (shard,), ("a",), ((3, 4, 5, 1),), (40, 10, 10), 0, (0, 0), (1, 1))
    return schema.Manifest(
        classes=(schema.Class("b", 0), schema.Class("one", 1), schema.Class("two", 2)),
        channels=2,
        bit_depth=32,
        dtype="float32",
        encoding="zlib",
        splits={"train": split},
        volumes=Volumes((3.0, 1.0, 1.0), CHANNELS, (160, 160, 160)),
        schema=2,
    )


def test_a_volume_is_read_as_it_was_written():
    manifest = manifest_of(schema.Shard("train.tfrecord", 1, 1, "00000000", foreground=True))
    example = volume_examples.encode("a", IMAGE, MASK, PLACES, ORIGINAL)
    found = tf.nest.map_structure(np.asarray, schema.decode(example, manifest))
    assert found["name"] == b"a"
    np.testing.assert_array_equal(found["image"], IMAGE)
    np.testing.assert_array_equal(found["mask"], MASK)
    np.testing.assert_array_equal(found["places"], PLACES)
    original = volume_examples.decode_original(example)
    np.testing.assert_array_equal(original["original_mask"], ORIGINAL.mask)
    np.testing.assert_array_equal(original["box"], ORIGINAL.box)
    np.testing.assert_array_equal(original["geometry"], ORIGINAL.geometry)
    assert schema.name_of(example) == "a"


def test_an_example_without_foreground_has_no_places():
    example = volume_examples.encode("a", IMAGE, 0 * MASK, np.zeros((0, 4), int))
    assert volume_examples.decode(example, 2)["places"].shape == (0, 4)


def test_a_blank_volume_is_a_voxel_that_does_not_count():
    manifest = manifest_of(schema.Shard("train.tfrecord", 1, 1, "00000000"))
    found = schema.decode(schema.blank_example(manifest), manifest)
    assert found["image"].shape == (1, 1, 1, 2)
    assert found["mask"].numpy().tolist() == [[[schema.IGNORE]]]
    original = volume_examples.decode_original(schema.blank_example(manifest))
    assert original["original_mask"].numpy().tolist() == [[[schema.IGNORE]]]


def test_the_manifest_keeps_how_volumes_were_prepared_and_its_shards_are_checked(tmp_path):
    example = volume_examples.encode("a", IMAGE, MASK, PLACES)
    shard = schema.write_shard(str(tmp_path), "train.tfrecord", [example])
    manifest = manifest_of(dataclasses.replace(shard, foreground=True))
    found = schema.Manifest.from_json(manifest.to_json())
    assert found == manifest
    assert found.rank == 3
    schema.verify_shard(str(tmp_path), found.splits["train"].shards[0])


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"dtype": "uint8"}, "volumes are not of uint8"),
        ({"volumes": Volumes(None, CHANNELS[:1])}, "1 of 2 channels are described"),
        ({"volumes": None}, "the sizes of its train split are not of 2 axes"),
    ],
)
def test_a_manifest_of_volumes_that_contradicts_itself_is_damaged(change, rule):
    manifest = manifest_of(schema.Shard("train.tfrecord", 1, 1, "00000000"))
    with pytest.raises(InputError, match=rule):
        schema.Manifest.from_json(dataclasses.replace(manifest, **change).to_json())
