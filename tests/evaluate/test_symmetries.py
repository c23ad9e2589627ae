"""Turned images: all symmetries, undone, and the mean of probabilities."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special

from tests import rounding
from trainer.errors import InputError
from trainer.evaluate import symmetries


def test_the_eight_turns_are_different_and_are_undone():
    image = tf.reshape(tf.range(6), (1, 2, 3, 1))
    found = set()
    for turn in symmetries.turns("d4", rank=2):
        turned = turn.apply(image)
        found.add((tuple(turned.shape), tuple(turned.numpy().ravel())))
        np.testing.assert_array_equal(turn.invert(turned), image)
    assert len(found) == 8


@pytest.mark.parametrize(("classes", "probabilities"), [(1, special.expit), (3, special.softmax)])
@pytest.mark.parametrize(("tta", "number"), [("none", 1), ("flips", 4), ("d4", 8)])
def test_probabilities_of_turned_images_are_averaged(tta, number, classes, probabilities):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((None, None, 2)), keras.layers.Conv2D(classes, 3)])
    images = 30 * np.random.default_rng(0).normal(size=(2, 7, 9, 2)).astype(np.float32)

    def of(image):
        logits = model(image).numpy().astype(np.float64)
        return probabilities(logits) if classes == 1 else probabilities(logits, axis=-1)

    upright = [images, images[:, ::-1], images[:, :, ::-1], images[:, ::-1, ::-1]]
    expected = [of(image) for image in upright]
    expected += [of(image.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3) for image in upright]
    undone = (np.s_[:], np.s_[:, ::-1], np.s_[:, :, ::-1], np.s_[:, ::-1, ::-1])
    expected = [part[undone[n % 4]] for n, part in enumerate(expected)][:number]

    logits = symmetries.averaging(model, tta)(tf.constant(images), training=False).numpy()
    assert np.isfinite(logits).all()  # though probabilities are 0 and 1 in float32
    found = of_logits(logits, classes)
    # Logits of up to 100, each a sum of 9 × 2 products; probabilities move by a quarter of them.
    apart = rounding.tolerance(18, magnitude=100) / 4
    np.testing.assert_allclose(found, np.mean(expected, axis=0), rtol=0, atol=apart)


def of_logits(logits, classes):
    logits = logits.astype(np.float64)
    return special.expit(logits) if classes == 1 else special.softmax(logits, axis=-1)


def test_the_part_of_a_tensor_that_images_fill_is_turned_with_them():
    images = tf.reshape(tf.range(6.0), (1, 2, 3, 1))

    def inside_only(images, training, inside):
        return tf.where(inside, images, -1.0)

    found = symmetries.averaging(inside_only, "d4")(images, inside=images > 2)
    rounding.assert_close(found, inside_only(images, False, images > 2), 16)


def test_volumes_are_mirrored_along_each_set_of_axes():
    volume = tf.reshape(tf.range(24), (1, 2, 3, 4, 1))
    turns = symmetries.turns("flips", rank=3)
    turned = {tuple(turn.apply(volume).numpy().ravel()) for turn in turns}
    assert len(turned) == len(turns) == 8
    for turn in turns:
        np.testing.assert_array_equal(turn.invert(turn.apply(volume)), volume)
    # A network that says the same of a place whatever is there: one half sure, the other not.
    place = 8.0 * tf.cast(volume > 11, tf.float32)
    averaged = symmetries.averaging(lambda images, training: place, "flips")
    found = averaged(volume, training=False).numpy()
    expected = special.logit((special.expit(0) + special.expit(8)) / 2)
    rounding.assert_close(found, np.full(found.shape, expected), operations=8)


def test_axes_of_volumes_are_not_exchanged():
    with pytest.raises(InputError) as error:
        symmetries.turns("d4", rank=3)
    assert str(error.value) == (
        "--tta=d4 exchanges rows and columns, which are not alike in volumes; use --tta=flips."
    )
