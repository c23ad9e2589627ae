"""Tests of crops and augmentation of volumes: the body moves, in millimetres."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tests import rounding
from trainer.data.dataset.schema import IGNORE
from trainer.data.input import augment, volume_augment
from trainer.errors import InputError

EQUAL = (1.0, 1.0, 1.0)


def key_of(number):
    return tf.constant([7, number], tf.int64)


def numbers_of(number):
    return tf.random.stateless_uniform([augment.NUMBERS], key_of(number), alg="philox")


def numbered(*sides):
    """A volume whose channels are each voxel's own place; its mask is 0."""
    image = np.stack(np.indices(sides), -1).astype(np.float32)
    return tf.constant(image), tf.zeros(sides, tf.uint8)


def crops_of(image, mask, box, row, numbers):
    @tf.function
    def crop_of(key):
        crop, crop_mask = augment.crop_randomly(image, mask, key, box, row)
        return augment.adjust(crop, crop_mask, key, row)

    return [[value.numpy() for value in crop_of(key_of(n))] for n in numbers]


def test_a_crop_is_a_box_of_the_volume_and_what_is_beyond_does_not_count():
    image, mask = numbered(5, 6, 3)
    for crop, crop_mask in crops_of(image, mask, (2, 4, 4), augment.Augmentation(), range(20)):
        counted = crop_mask != IGNORE
        assert counted.sum() == 2 * 4 * 3
        z, y, x = crop[counted][0].astype(int)
        assert x == 0
        np.testing.assert_array_equal(
            crop[counted].reshape(2, 4, 3, 3), image[z : z + 2, y : y + 4]
        )


def test_flips_and_quarter_turns_give_the_48_symmetries_of_the_cube():
    image, mask = numbered(2, 2, 2)
    row = volume_augment.row_of("standard", (2, 2, 2), EQUAL)
    row = augment.Augmentation(matrices=row.matrices[:-1])  # without rotate_and_scale
    cube = image.numpy()
    symmetries = {
        np.transpose(cube[tuple(slice(None, None, step) for step in steps)], [*order, 3]).tobytes()
        for order in itertools.permutations(range(3))
        for steps in itertools.product((1, -1), repeat=3)
    }
    assert len(symmetries) == 48
    found = {crop.tobytes() for crop, _ in crops_of(image, mask, (2, 2, 2), row, range(500))}
    assert found == symmetries


@pytest.mark.parametrize(
    ("box", "spacing", "planes"),
    [
        ((8, 8, 8), EQUAL, [(0, 1), (0, 2), (1, 2)]),
        ((8, 8, 8), (2.0, 1.0, 1.0), [(1, 2)]),
        ((40, 56, 40), EQUAL, [(0, 2)]),
        ((8, 12, 16), EQUAL, []),
    ],
)
def test_quarter_turns_are_in_planes_of_equal_sides_and_spacing(box, spacing, planes):
    operations = [op.apply for op in volume_augment.row_of("standard", box, spacing).matrices]
    found = [op.keywords["plane"] for op in operations if op.func is volume_augment.turn]
    assert found == planes


def test_gathered_lines_and_interpolation_agree():
    image, mask = numbered(7, 9, 8)
    centre = tf.constant([2.5, 4.5, 3.0])
    matrix = tf.constant([[0.0, 0, -1], [0, -1, 0], [1, 0, 0]])  # depth and width change places
    box = (4, 2, 4)
    lines = augment._take_lines(image, mask, centre, matrix, box)
    sources = augment._sources(centre, matrix, [], box)
    points = augment._interpolate(image, mask, sources)
    # Half a voxel from any centre, a line has whole places, and so has the depth; here the width
    # is between two voxels, of which a line takes the first.
    np.testing.assert_array_equal(lines[0][..., :2], points[0][..., :2])
    np.testing.assert_array_equal(points[0][..., 2] - lines[0][..., 2], 0.5)


def test_a_rotation_is_one_of_the_body_in_millimetres():
    spacing = np.array([2.0, 1.0, 0.8])
    for n in range(20):
        matrix = volume_augment.rotate_and_scale(numbers_of(n), 30, 1.4, tuple(spacing)).numpy()
        body = matrix * spacing[:, np.newaxis] / spacing
        factor = np.linalg.det(body) ** (1 / 3)
        assert 1 / 1.4 <= factor <= 1.4
        assert np.abs(matrix - factor * np.eye(3)).max() > 1e-3
        rounding.assert_close(body @ body.T, factor**2 * np.eye(3), operations=60, magnitude=8)


def test_a_coarse_axis_is_mixed_with_no_other():
    spacing = (5.0, 1.0, 1.0)
    for n in range(5):
        matrix = volume_augment.rotate_and_scale(numbers_of(n), 30, 1.4, spacing).numpy()
        assert matrix[0].tolist() == matrix[:, 0].tolist() == [1, 0, 0]
        assert abs(matrix[1, 2]) > 1e-4
        moved = volume_augment.elastic(numbers_of(n), (8, 48, 48), spacing).numpy()
        assert not moved[..., 0].any()
        assert moved[..., 1:].any()


def test_elastic_moves_by_a_24th_of_the_shortest_side():
    fields = [
        volume_augment.elastic(numbers_of(n), (48, 72, 24), (1.0, 1.0, 2.0)) for n in range(60)
    ]
    middle = np.stack([field[24, 36, 12] for field in fields])  # a vector of the grid
    # 48 mm / 24 are 2 mm, of the last axis one voxel.
    np.testing.assert_allclose(middle.std(axis=0), [2, 2, 1], rtol=0.25)
    assert all(np.abs(np.diff(field, axis=1)).max() < 1 for field in fields[:5])


def test_half_the_resolution_keeps_every_second_voxel():
    image = tf.reshape(tf.range(8.0), [1, 8, 1, 1])
    found = volume_augment.low_resolution(tf.zeros(augment.NUMBERS), image, (9.0, 1.0, 9.0))
    # Kept are 0, 2, 4 and 6, each in the middle of two places; beyond the last the edge is.
    expected = [0, 0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.25]
    np.testing.assert_array_equal(found[0, :, 0, 0], expected)


def test_blur_is_as_wide_in_millimetres_along_each_axis():
    point = np.zeros([9, 21, 21, 1], np.float32)
    point[4, 10, 10] = 1
    spread = augment.blur(numbers_of(0), tf.constant(point), (3.0, 1.0, 1.0)).numpy()[..., 0]
    assert spread.sum() == pytest.approx(1, abs=rounding.tolerance(9 * 21**2))
    along = [spread.sum((1, 2)), spread.sum((0, 2)), spread.sum((0, 1))]
    variances = [(line * (np.arange(len(line)) - len(line) // 2) ** 2).sum() for line in along]
    assert variances[1] == pytest.approx(variances[2], rel=1e-4)
    assert 9 * variances[0] < 1.1 * variances[1]
    assert 0.2 < variances[1] < 2.3


def test_the_gamma_of_the_negative_keeps_the_ends():
    image = tf.reshape(tf.constant([-2.0, 0.0, 2.0]), [3, 1, 1, 1])
    found = volume_augment.gamma_of_negative(numbers_of(1), image).numpy().ravel()
    mirrored = augment.gamma(numbers_of(1), image).numpy().ravel()
    np.testing.assert_array_equal(found, -mirrored[::-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", list(volume_augment.AUGMENTATIONS))
def test_image_and_mask_of_a_volume_stay_aligned_and_the_key_alone_decides(name):
    places = np.indices((24, 30, 26)) / 5.0
    values = np.sin(places[0]) + np.cos(places[1]) + np.sin(places[2])
    image = tf.constant(values[..., np.newaxis].astype(np.float32))
    mask = tf.constant((values > 0).astype(np.uint8))
    box, spacing = (16, 16, 16), (1.5, 1.0, 1.0)
    row = volume_augment.row_of(name, box, spacing)
    geometry = row._replace(intensities=())
    for crop, classes in crops_of(image, mask, box, geometry, range(10)):
        # Near zero the nearest voxel may lie on the other side; 0.35 is the slope of a voxel along
        # all three axes.
        clear = (np.abs(crop[..., 0]) > 0.35) & (classes != IGNORE)
        np.testing.assert_array_equal((crop[..., 0] > 0)[clear], classes[clear])
        assert clear.mean() > 0.3
    once, again = (crops_of(image, mask, box, row, numbers) for numbers in ([3, 4], [4, 3]))
    np.testing.assert_array_equal(once[0][0], again[1][0])
    assert not np.array_equal(once[0][0], once[1][0])


def test_a_row_of_images_alone_is_refused_for_volumes():
    with pytest.raises(InputError) as error:
        volume_augment.row_of("shift", (8, 8, 8), None)
    assert str(error.value) == (
        "--augment=shift has no row for volumes; use none, flip, standard, strong, or add one to "
        "volume_augment.AUGMENTATIONS."
    )
