"""What is drawn on the pixels of an image."""

import numpy as np
import pytest

from trainer.drawing import overlays
from trainer.ignore_label import IGNORE

ORANGE, BLUE = overlays.CLASS_COLOURS[:2]


def test_eight_bit_pictures_are_shown_as_they_are():
    grey = np.array([[0, 7], [100, 200]], np.uint8)
    np.testing.assert_array_equal(overlays.display(grey), np.dstack([grey] * 3))
    colour = np.arange(16, dtype=np.uint8).reshape(2, 2, 4)
    np.testing.assert_array_equal(overlays.display(colour), colour[..., :3])


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_other_pictures_are_stretched_from_black_to_white(dtype):
    ramp = (1000 + np.arange(10001)).astype(dtype).reshape(1, -1, 1)
    shown = overlays.display(ramp)[0, :, 0]
    assert (shown[0], shown[-1]) == (0, 255)
    assert shown[5000] in (127, 128)
    assert np.count_nonzero(shown == 255) == pytest.approx(0.005 * 10001 + 20, abs=2)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_any_number_of_channels_is_shown(channels):
    image = np.random.default_rng(0).normal(size=(4, 5, channels))
    shown = overlays.display(image)
    assert (shown.shape, shown.dtype) == ((4, 5, 3), np.uint8)
    if channels == 2:
        np.testing.assert_array_equal(shown[..., 0], shown[..., 2])


def test_a_constant_image_is_shown():
    assert overlays.display(np.full((2, 2, 1), 5.0)).tolist() == [[[0] * 3] * 2] * 2


def test_an_outline_is_the_rim_within_and_leaves_the_frame_open():
    region = np.zeros((5, 6), bool)
    region[1:4, :4] = True
    expected = np.array(
        [
            [0, 0, 0, 0, 0, 0],
            [1, 1, 1, 1, 0, 0],
            [0, 0, 0, 1, 0, 0],
            [1, 1, 1, 1, 0, 0],
            [0, 0, 0, 0, 0, 0],
        ],
        bool,
    )
    np.testing.assert_array_equal(overlays.outline(region), expected)


def test_every_class_has_its_colour_and_ignored_pixels_are_greyed():
    picture = np.full((8, 9, 3), 200, np.uint8)
    mask = np.zeros((8, 9), np.uint8)
    mask[1:4, 1:4] = 1
    mask[1:4, 5:8] = 2
    mask[6:] = IGNORE
    drawn = overlays.draw_outlines(picture, mask)
    assert tuple(drawn[1, 1]) == ORANGE
    assert tuple(drawn[1, 5]) == BLUE
    assert drawn[2, 2].tolist() == [100] * 3  # within, in the shadow of the line
    assert drawn[0, 0].tolist() == [200] * 3
    assert drawn[7, 0].tolist() == [122] * 3  # (200 + 3 × 96) / 4
    assert picture.min() == 200, "the picture itself is not drawn upon"


def test_every_kind_of_error_has_its_colour():
    truth = np.array([[0, 1, 1, 0, 1, IGNORE]], np.uint8)
    prediction = np.array([[0, 1, 0, 1, 2, 1]], np.uint8)
    drawn = overlays.draw_errors(np.full((1, 6, 3), 90, np.uint8), truth, prediction)[0]
    assert [tuple(int(v) for v in pixel) for pixel in drawn] == [
        (30, 30, 30),
        (30, 30, 30),
        overlays.MISSED,
        overlays.ADDED,
        overlays.CONFUSED,
        overlays.IGNORED,
    ]


def test_colours_repeat_after_the_last():
    count = len(overlays.CLASS_COLOURS)
    assert len(set(overlays.CLASS_COLOURS)) == count
    assert overlays.class_colour(1) == overlays.class_colour(1 + count)
