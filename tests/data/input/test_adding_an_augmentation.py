"""An augmentation from outside the package, that moves image and mask: how to add one."""

import numpy as np
import pytest
import tensorflow as tf

from tests.shards import write_data
from trainer import config
from trainer.data.dataset.schema import IGNORE
from trainer.data.input import augment, pipeline


def shift(numbers, image, mask):
    """Moves the crop to the right by up to a quarter; what it leaves behind does not count."""
    width = tf.shape(mask)[1]
    by = tf.cast(numbers[0] * tf.cast(width, tf.float32) / 4, tf.int32) + 1
    is_known = tf.range(width) >= by
    return tf.roll(image, by, axis=1), tf.where(is_known, tf.roll(mask, by, axis=1), IGNORE)


@pytest.fixture
def row(monkeypatch):
    """`--augment=shift`: what `flip` does, then the shift."""
    row = augment.AUGMENTATIONS["flip"]._replace(transforms=(augment.Op(shift),))
    monkeypatch.setitem(augment.AUGMENTATIONS, "shift", row)
    config.add_choice(config.Data, "augment", "shift")
    yield row
    config.Data.__dataclass_fields__["augment"].metadata["choices"].remove("shift")


def test_image_and_mask_move_together_and_what_is_known_behind_does_not_count():
    image = tf.tile(tf.range(8.0)[tf.newaxis, :, tf.newaxis], [2, 1, 1])
    mask = tf.cast(image[..., 0], tf.uint8)
    row = augment.Augmentation(transforms=(augment.Op(shift),))
    seen = set()
    for number in range(20):
        key = tf.constant([7, number], tf.int64)
        moved, moved_mask = augment.adjust(image, mask, key, row)
        by = int((moved_mask[0] == IGNORE).numpy().sum())
        np.testing.assert_array_equal(moved[0, by:, 0], range(8 - by))
        np.testing.assert_array_equal(moved_mask[0, by:], range(8 - by))
        seen.add(by)
    assert seen == {1, 2}


def test_the_stream_has_it_by_its_name(row, tmp_path):
    manifest = write_data(tmp_path, {"train": [(32, 32)] * 4})
    options = {"batch_size": 4, "crop": (16, 16), "seed": 1, "num_streams": 1}

    def batch_of(augmentation):
        name = config.Data(augment=augmentation).augment
        stream = pipeline.training_stream(str(tmp_path), manifest, augment=name, **options)
        return {key: value.numpy() for key, value in next(iter(stream)).items()}

    before, after = batch_of("flip"), batch_of("shift")
    for n in range(4):
        by = int(np.flatnonzero(after["valid"][n].any(axis=0))[0])
        assert 1 <= by <= 4
        for name in ("images", "labels", "valid"):
            np.testing.assert_array_equal(after[name][n, :, by:], before[name][n, :, :-by])
