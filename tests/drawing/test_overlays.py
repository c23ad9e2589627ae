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


def test_an_overlay_tints_a_crack_and_draws_no_line_on_it():
    picture = np.full((5, 9, 3), 200, np.uint8)
    picture[2] = 0  # a dark crack, a pixel wide
    mask = np.zeros((5, 9), np.uint8)
    mask[2, :4], mask[2, 4:] = 1, 2
    drawn = overlays.draw_overlay(picture, mask, 0.25)
    assert drawn[2, 0].tolist() == [round(part / 4) for part in ORANGE]
    assert drawn[2, 8].tolist() == [round(part / 4) for part in BLUE]
    assert [tuple(drawn[row, 0].tolist()) for row in (1, 3)] == [ORANGE] * 2
    assert [tuple(drawn[row, 8].tolist()) for row in (1, 3)] == [BLUE] * 2
    assert (drawn[[0, 4]] == 200).all()
    bare = overlays.draw_overlay(picture, mask, 0.0)
    np.testing.assert_array_equal(bare, overlays.draw_outlines(picture, mask))
    assert tuple(overlays.draw_overlay(picture, mask, 1.0)[2, 0].tolist()) == ORANGE
    assert picture.max() == 200, "the picture itself is not drawn upon"


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


# Linear RGB as eyes without one kind of cone see it (Machado et al., 2009).
EYES = {
    "all cones": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}


def seen(colours, eyes):
    """Returns colours, [N, 3] in sRGB, in CIE Lab as such eyes see them, [N, 3]."""
    values = np.asarray(colours) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.transpose(EYES[eyes]), 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = (
        np.where(part > 216 / 24389, np.cbrt(part), (24389 / 27 * part + 16) / 116)
        for part in (linear @ np.transpose(to_xyz) / np.sum(to_xyz, axis=1)).T
    )
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


@pytest.mark.parametrize("eyes", EYES)
def test_colours_of_classes_and_errors_can_be_told_apart(eyes):
    errors = (overlays.MISSED, overlays.ADDED, overlays.CONFUSED)
    greys = [(level,) * 3 for level in (0, 85, 96)]  # what errors are drawn on
    places = seen([*errors, *overlays.CLASS_COLOURS, *greys], eyes)
    apart = np.linalg.norm(places[:, np.newaxis] - places, axis=2)
    np.fill_diagonal(apart, np.inf)
    assert apart[:3].min() > 25  # ten times the least difference that is seen, 2.3
    assert apart[3:10, 3:10].min() > 15  # of Okabe and Ito's own
    assert seen([(255, 255, 255)], eyes)[0] == pytest.approx((100, 0, 0), abs=0.1)
