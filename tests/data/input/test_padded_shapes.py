"""The shapes to which images are padded."""

import time

import numpy as np

from trainer.data.input import padded_shapes


def test_shapes_that_pad_the_fewest_pixels_are_put_together():
    own = np.array([(64, 64), (64, 128), (128, 64), (640, 640), (64, 64)])
    counts = np.array([5, 1, 1, 1, 5])
    assert padded_shapes.few(own, counts, 1, most=0) == []
    assert padded_shapes.few(own, counts, 1, most=4) == []
    # In 64 × 128 the ten small images would pad 10 × 64 × 64 pixels; the two others in 128 × 128
    # pad 2 × 64 × 128.
    assert padded_shapes.few(own, counts, 1, most=3) == [(64, 64), (128, 128), (640, 640)]
    # Then these ten pad 10 × 3 × 64 × 64, fewer than one image of 128 × 128 in the largest.
    assert padded_shapes.few(own, counts, 1, most=2) == [(128, 128), (640, 640)]
    assert padded_shapes.few(own, counts, 1, most=1) == [(640, 640)]


def test_images_share_a_batch_where_that_computes_fewer_pixels_than_two():
    own, counts = np.array([(64, 64), (64, 128), (640, 640)]), np.array([3, 1, 4])
    # Four of 64 × 128 are fewer than four of 64 × 64, three of them images, and four of 64 × 128.
    assert padded_shapes.few(own, counts, 4, most=8) == [(64, 128), (640, 640)]
    assert padded_shapes.few(own, 4 * counts, 4, most=8) == []


def test_shapes_of_a_large_tile_are_found_in_seconds_and_cover_all_images():
    sides = 96 * np.arange(1, 43)  # 1,764 shapes, of a network whose stride is 96
    own = np.stack(np.meshgrid(sides, sides), axis=-1).reshape(-1, 2)
    began = time.process_time()
    shapes = padded_shapes.few(own, np.ones(len(own), int), 4, most=8)
    assert time.process_time() - began < 60
    assert len(shapes) <= 8
    found = padded_shapes.covering(shapes, own).numpy()
    assert set(map(tuple, found.tolist())) <= set(shapes)
    assert (found >= own).all()
    assert not (found % 96).any()
    assert found.max() == own.max()


def test_no_images_have_no_shapes():
    assert padded_shapes.few(np.zeros((0, 2), int), np.zeros(0, int), 4, most=8) == []


def test_the_smallest_shape_that_covers_an_image_serves_it():
    shapes = [(128, 128), (64, 192), (64, 64)]
    own = np.array([(64, 64), (64, 128), (128, 64), (64, 192), (192, 64)])
    found = padded_shapes.covering(shapes, own).numpy().tolist()
    assert found == [[64, 64], [64, 192], [128, 128], [64, 192], [192, 64]]
    assert padded_shapes.covering([], own).numpy().tolist() == own.tolist()


def test_shapes_that_come_are_their_own_at_first_and_then_powers_of_two():
    shapes = padded_shapes.GrowingShapes(64, 1024, most=2)
    comes = [(320, 448), (64, 1024), (320, 448), (64, 128), (576, 192), (65 * 16 - 16, 64)]
    found = [shapes.of(own) for own in comes]
    assert found == [(320, 448), (64, 1024), (320, 448), (64, 128), (1024, 256), (1024, 64)]
    assert shapes.is_own((320, 448), (320, 448))
    assert not shapes.is_own((64, 128), (64, 128))
    assert not shapes.is_own((64, 1024), (64, 960))


def test_any_images_have_at_most_25_shapes_more_of_less_than_four_times_their_pixels():
    shapes = padded_shapes.GrowingShapes(64, 1024)
    found = set()
    for height in range(64, 1025, 64):
        for width in range(64, 1025, 64):
            shape = shapes.of((height, width))
            assert height * width <= shape[0] * shape[1] < 4 * height * width
            found.add(shape)
    assert len(found) <= 8 + 25
    longest = padded_shapes.GrowingShapes(64, 112, most=1)
    assert [longest.of(own) for own in [(64, 64), (112, 64)]] == [(64, 64), (112, 64)]
