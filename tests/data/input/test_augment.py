"""Tests of crops and augmentation: image and mask move together, by the key alone."""

import functools
import itertools
import math

import numpy as np
import pytest
import tensorflow as tf

from tests import rounding
from trainer.data.dataset.schema import IGNORE
from trainer.data.input import augment

SLOW = pytest.mark.slow
ROWS = list(augment.AUGMENTATIONS)
ROTATED = augment.Augmentation(
    matrices=(augment.Op(functools.partial(augment.rotate_and_scale, degrees=45, scale=1.3)),)
)
BENT = augment.Augmentation(displacements=(augment.Op(augment.elastic),))


def key_of(number):
    return tf.constant([7, number], tf.int64)


def numbers_of(number):
    return tf.random.stateless_uniform([augment.NUMBERS], key_of(number), alg="philox")


def crops_of(image, mask, crop, row, numbers):
    """Returns the crops of keys, with the row's intensity operations, as NumPy arrays."""
    box = crop if isinstance(crop, tuple) else (crop, crop)

    @tf.function
    def crop_of(key):
        window, window_mask = augment.crop_randomly(image, mask, key, box, row)
        return augment.adjust(window, window_mask, key, row)

    return [[value.numpy() for value in crop_of(key_of(n))] for n in numbers]


def numbered(height, width):
    """An image whose two channels are each pixel's own row and column; its mask is 0."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows, columns], -1).astype(np.float32)
    return tf.constant(image), tf.zeros([height, width], tf.uint8)


def smooth_scene(height, width):
    """A smooth image, and the mask of where it is above zero."""
    rows, columns = np.mgrid[:height, :width] / 9.0
    values = (np.sin(rows) + np.cos(columns)).astype(np.float32)
    return tf.constant(values[..., np.newaxis]), tf.constant((values > 0).astype(np.uint8))


def test_a_crop_of_none_is_a_window_of_the_image():
    image, mask = numbered(10, 12)
    for crop, crop_mask in crops_of(image, mask, 4, augment.AUGMENTATIONS["none"], range(20)):
        top, left = crop[0, 0].astype(int)
        np.testing.assert_array_equal(crop, image[top : top + 4, left : left + 4])
        assert not crop_mask.any()


def test_crops_reach_every_place_equally_often():
    crops = crops_of(*numbered(5, 4), 4, augment.AUGMENTATIONS["none"], range(200))
    corners = [tuple(crop[0, 0]) for crop, _ in crops]
    counts = [corners.count(corner) for corner in [(0, 0), (1, 0)]]
    assert sum(counts) == 200
    assert min(counts) > 70


def test_a_crop_larger_than_the_image_holds_all_of_it_and_ignores_the_rest():
    image, mask = numbered(3, 2)
    for crop, crop_mask in crops_of(image, mask, 8, augment.AUGMENTATIONS["none"], range(20)):
        counted = crop_mask != IGNORE
        assert counted.sum() == 6
        np.testing.assert_array_equal(crop[counted].reshape(3, 2, 2), image)


def test_mirror_folds_as_often_as_it_takes():
    assert augment.mirror(tf.range(-4, 7), 3).numpy().tolist() == [0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2]
    assert augment.mirror(tf.range(-2, 3), 1).numpy().tolist() == [0, 0, 0, 0, 0]


def test_flips_and_turns_give_the_eight_symmetries_of_the_square():
    image, mask = numbered(4, 4)
    square = image.numpy()
    symmetries = {np.rot90(x, k).tobytes() for x in (square, square[::-1]) for k in range(4)}
    row = augment.Augmentation(matrices=(augment.Op(augment.flip), augment.Op(augment.turn)))
    assert {crop.tobytes() for crop, _ in crops_of(image, mask, 4, row, range(100))} == symmetries


def test_an_oblong_makes_half_turns_and_flips_only():
    image, mask = numbered(4, 6)
    row = augment.row_of("standard", (4, 6))._replace(intensities=())
    flips = row._replace(matrices=row.matrices[:1])
    whole = image.numpy()
    symmetries = {x.tobytes() for x in (whole, whole[::-1], whole[:, ::-1], whole[::-1, ::-1])}
    found = {crop.tobytes() for crop, _ in crops_of(image, mask, (4, 6), flips, range(40))}
    assert found == symmetries
    assert len(row.matrices) == 2  # the other is rotate_and_scale
    # A turn of another program's row is interpolated: (row, column) ← (column, row).
    turned = augment.Augmentation(matrices=(augment.Op(lambda n: tf.constant([[0.0, 1], [1, 0]])),))
    ((crop, _),) = crops_of(*numbered(9, 9), (2, 4), turned, [0])
    np.testing.assert_array_equal(crop[1, :, 0] - crop[0, 0, 0], [0, 1, 2, 3])
    np.testing.assert_array_equal(crop[:, 1, 1] - crop[0, 0, 1], [0, 1])


@pytest.mark.parametrize("on_pixels", [True, False])
def test_gathered_lines_and_interpolation_agree(on_pixels):
    image, mask = numbered(7, 9)
    matrix = tf.constant([[0.0, -1.0], [1.0, 0.0]])
    centre = tf.constant([2.5, 4.5])
    if on_pixels:
        crop, crop_mask = augment._take_lines(image, mask, centre, matrix, (4, 4))
    else:
        sources = augment._sources(centre, matrix, [], (4, 4))
        crop, crop_mask = augment._interpolate(image, mask, sources)
    window = image.numpy()[1:5, 3:7]
    np.testing.assert_array_equal(crop, np.rot90(window, 3))
    assert not crop_mask.numpy().any()


def test_half_a_pixel_away_is_the_mean_of_the_neighbours():
    image = tf.constant([[[0], [10]], [[20], [30]]], tf.uint8)
    crop, mask = augment._interpolate(
        image, tf.zeros([2, 2], tf.uint8), (tf.constant([[0.5]]), tf.constant([[0.5]]))
    )
    assert crop.numpy().item() == 15.0
    assert mask.numpy().item() == 0


def test_a_rotation_samples_the_image_beyond_the_crop():
    """A small crop of a large image has no made-up corners, however it is turned."""
    image, mask = numbered(64, 64)
    crop_middle = tf.constant([31.5, 31.5])
    angle = math.pi / 4
    matrix = tf.constant(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], tf.float32
    )
    sources = augment._sources(crop_middle, matrix, [], (16, 16))
    crop, crop_mask = augment._interpolate(image, mask, sources)
    assert not crop_mask.numpy().any()
    rounding.assert_close(crop, np.stack(sources, -1), operations=10, magnitude=64)


@pytest.mark.parametrize("row", [augment.Augmentation(), ROTATED])
def test_a_crop_about_a_place_holds_it_however_it_is_turned_and_scaled(row):
    image = np.zeros([40, 50, 1], np.float32)
    image[:3, 47:] = 1  # in a corner, where the crop is clipped
    image, mask = tf.constant(image), tf.constant(image[..., 0].astype(np.uint8))
    for number in range(30):
        place = tf.constant([1, 48])
        crop, _ = augment.crop_randomly(image, mask, key_of(number), (16, 16), row, place)
        assert crop.numpy().max() > 0.5
    crop, _ = augment.crop_randomly(image, mask, key_of(0), (16, 12), augment.Augmentation(), place)
    np.testing.assert_array_equal(crop, image[:16, 38:])
    place = tf.constant([20, 30])
    crop, _ = augment.crop_randomly(image, mask, key_of(0), (16, 12), augment.Augmentation(), place)
    np.testing.assert_array_equal(crop, image[12:28, 24:36])


def test_pixels_from_outside_the_image_never_count():
    image, mask = numbered(16, 16)
    rows = tf.constant([[-0.6, -0.4, 15.4, 15.6]])
    _, crop_mask = augment._interpolate(image, mask, (rows, tf.fill([1, 4], 8.0)))
    assert crop_mask.numpy().tolist() == [[IGNORE, 0, 0, IGNORE]]


@pytest.mark.parametrize("row", [*ROWS, "rotated", "bent"])
def test_image_and_mask_stay_aligned(row):
    row = {"rotated": ROTATED, "bent": BENT}.get(row) or augment.AUGMENTATIONS[row]
    image, mask = smooth_scene(100, 80)
    geometry = row._replace(intensities=())
    for crop, classes in crops_of(image, mask, 64, geometry, range(10)):
        # Near zero the nearest pixel may lie on the other side; 0.12 is one pixel's slope.
        clear = (np.abs(crop[..., 0]) > 0.12) & (classes != IGNORE)
        np.testing.assert_array_equal((crop[..., 0] > 0)[clear], classes[clear])
        assert clear.mean() > 0.4


@pytest.mark.parametrize("row", ["flip", "strong"])
def test_ignored_pixels_stay_ignored_and_classes_stay_whole(row):
    image, _ = numbered(40, 40)
    mask = tf.constant(np.random.default_rng(0).choice([0, 3, 200, IGNORE], (40, 40)), tf.uint8)
    ((_, crop_mask),) = crops_of(image, mask, 32, augment.AUGMENTATIONS[row], [0])
    assert set(np.unique(crop_mask)) == {0, 3, 200, IGNORE}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "dtype"),
    [
        ("none", "uint16"),
        ("flip", "uint8"),
        ("standard", "float32"),
        ("strong", "uint8"),
    ],
)
def test_inside_tf_data_is_the_same_as_eagerly(row, dtype):
    image, mask = smooth_scene(50, 40)
    image = tf.cast((image + 2) * 60, dtype)
    row = augment.AUGMENTATIONS[row]

    def example(key):
        crop, crop_mask = augment.crop_randomly(image, mask, key, (32, 32), row)
        return augment.adjust(crop, crop_mask, key, row)

    keys = tf.stack([key_of(n) for n in range(6)])
    data = tf.data.Dataset.from_tensor_slices(keys).map(example, num_parallel_calls=2)
    assert [spec.shape.as_list() for spec in data.element_spec] == [[32, 32, 1], [32, 32]]
    for key, (crop, crop_mask) in zip(keys, data, strict=True):
        eager_crop, eager_mask = example(key)
        # Positions up to 50 are found in some 20 operations, at a slope of 10 a pixel; brightness
        # and the like take as many more.
        rounding.assert_close(crop, eager_crop, operations=40, magnitude=500)
        # Of a position half way between two pixels, rounding chooses one.
        assert np.mean(crop_mask != eager_mask) < 2 / 32**2


@pytest.mark.parametrize("row", ["none", "standard", pytest.param("strong", marks=SLOW)])
def test_the_key_alone_decides(row):
    image, mask = smooth_scene(60, 60)
    row = augment.AUGMENTATIONS[row]
    numbers = [*range(8), *reversed(range(8))]
    crops = [crop for crop, _ in crops_of(image, mask, 32, row, numbers)]
    crops, again = crops[:8], crops[:7:-1]
    np.testing.assert_array_equal(crops, again)
    for one, other in itertools.combinations(crops, 2):
        assert not np.array_equal(one, other)


def test_elastic_moves_by_ten_pixels_smoothly_and_by_less_on_small_crops():
    fields = np.stack([augment.elastic(numbers_of(n), (256, 256))[::8] for n in range(80)])
    # At a vector of the grid the displacement is that vector: standard deviation 10.
    assert fields[:, 16, 128].std() == pytest.approx(10, rel=0.2)
    assert np.abs(np.diff(fields, axis=2)).max() < 1  # neighbours never change places
    small = np.stack([augment.elastic(numbers_of(n), (48, 48)) for n in range(80)])
    assert small[:, 24, 24].std() == pytest.approx(2, rel=0.2)


def test_rotation_and_scale_stay_in_range():
    for n in range(50):
        matrix = augment.rotate_and_scale(numbers_of(n), degrees=15, scale=1.2).numpy()
        factor = math.sqrt(np.linalg.det(matrix))
        assert 1 / 1.2 <= factor <= 1.2
        assert abs(math.degrees(math.atan2(matrix[1, 0], matrix[0, 0]))) <= 15


def test_gamma_keeps_the_ends_and_moves_the_middle():
    image = tf.reshape(tf.constant([-2.0, 0.0, 2.0]), [3, 1, 1])
    middles = set()
    for n in range(10):
        low, middle, high = augment.gamma(numbers_of(n), image).numpy().ravel()
        assert (low, high) == pytest.approx((-2, 2), abs=rounding.tolerance(8, 4))
        # 4 · 0.5 ** power - 2, with a power in 0.7 to 1.5
        assert 4 * 0.5**1.5 - 2 <= middle <= 4 * 0.5**0.7 - 2
        middles.add(float(middle))
    assert len(middles) == 10


def test_brightness_and_contrast_mean_the_same_in_every_unit():
    image, _ = smooth_scene(20, 20)
    for op in (augment.brightness, augment.contrast, augment.noise):
        found, expected = op(numbers_of(2), image * 1000), op(numbers_of(2), image) * 1000
        rounding.assert_close(found, expected, operations=400)  # a mean of 20×20 pixels


def test_contrast_keeps_the_mean():
    image, _ = smooth_scene(20, 20)
    changed = augment.contrast(numbers_of(3), image).numpy()
    apart = rounding.tolerance(400, magnitude=2)  # 20×20 pixels
    assert changed.mean() == pytest.approx(float(tf.reduce_mean(image)), abs=apart)
    assert 0.75 <= changed.std() / image.numpy().std() <= 1.25


def test_blur_keeps_a_constant_and_spreads_a_point():
    constant = augment.blur(numbers_of(0), tf.ones([16, 12, 3])).numpy()
    rounding.assert_close(constant, np.ones([16, 12, 3]), operations=2 * 9)
    point = np.zeros([21, 21, 1], np.float32)
    point[10, 10] = 1
    spread = augment.blur(numbers_of(0), tf.constant(point)).numpy()[..., 0]
    assert spread.sum() == pytest.approx(1, abs=rounding.tolerance(21**2))
    rounding.assert_close(spread, spread.T, operations=2 * 9)
    rows = np.arange(21) - 10
    assert 0.45 < math.sqrt((spread.sum(1) * rows**2).sum()) < 1.5


@pytest.mark.slow
def test_a_flat_image_stays_flat_and_finite():
    flat, mask = tf.zeros([16, 16, 3]), tf.zeros([16, 16], tf.uint8)
    for crop, _ in crops_of(flat, mask, 16, augment.AUGMENTATIONS["strong"], range(10)):
        np.testing.assert_array_equal(crop, flat)


def test_an_operation_acts_as_often_as_its_probability_says():
    image, mask = tf.ones([4, 4, 1]), tf.zeros([4, 4], tf.uint8)
    row = augment.Augmentation(intensities=(augment.Op(lambda numbers, x: x * 0, 0.3),))
    acted = sum(crop[0, 0, 0] == 0 for crop, _ in crops_of(image, mask, 4, row, range(400)))
    assert 90 <= acted <= 150
