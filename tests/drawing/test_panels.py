"""Tests of drawing."""

import numpy as np
import pytest

from trainer.drawing import panels

ORANGE, BLUE = panels.CLASS_COLOURS[:2]


def test_eight_bit_pictures_are_shown_as_they_are():
    grey = np.array([[0, 7], [100, 200]], np.uint8)
    np.testing.assert_array_equal(panels.display(grey), np.dstack([grey] * 3))
    colour = np.arange(16, dtype=np.uint8).reshape(2, 2, 4)
    np.testing.assert_array_equal(panels.display(colour), colour[..., :3])


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_other_pictures_are_stretched_from_black_to_white(dtype):
    ramp = (1000 + np.arange(10001)).astype(dtype).reshape(1, -1, 1)
    shown = panels.display(ramp)[0, :, 0]
    assert (shown[0], shown[-1]) == (0, 255)
    assert shown[5000] in (127, 128)
    assert np.count_nonzero(shown == 255) == pytest.approx(0.005 * 10001 + 20, abs=2)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_any_number_of_channels_is_shown(channels):
    image = np.random.default_rng(0).normal(size=(4, 5, channels))
    shown = panels.display(image)
    assert (shown.shape, shown.dtype) == ((4, 5, 3), np.uint8)
    if channels == 2:
        np.testing.assert_array_equal(shown[..., 0], shown[..., 2])


def test_a_constant_image_is_shown():
    assert panels.display(np.full((2, 2, 1), 5.0)).tolist() == [[[0] * 3] * 2] * 2


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
    np.testing.assert_array_equal(panels.outline(region), expected)


def test_every_class_has_its_colour_and_ignored_pixels_are_greyed():
    picture = np.full((8, 9, 3), 200, np.uint8)
    mask = np.zeros((8, 9), np.uint8)
    mask[1:4, 1:4] = 1
    mask[1:4, 5:8] = 2
    mask[6:] = panels.IGNORE
    drawn = panels.draw_outlines(picture, mask)
    assert tuple(drawn[1, 1]) == ORANGE
    assert tuple(drawn[1, 5]) == BLUE
    assert drawn[2, 2].tolist() == [100] * 3  # within, in the shadow of the line
    assert drawn[0, 0].tolist() == [200] * 3
    assert drawn[7, 0].tolist() == [122] * 3  # (200 + 3 × 96) / 4
    assert picture.min() == 200, "the picture itself is not drawn upon"


def test_every_kind_of_error_has_its_colour():
    truth = np.array([[0, 1, 1, 0, 1, panels.IGNORE]], np.uint8)
    prediction = np.array([[0, 1, 0, 1, 2, 1]], np.uint8)
    drawn = panels.draw_errors(np.full((1, 6, 3), 90, np.uint8), truth, prediction)[0]
    assert [tuple(int(v) for v in pixel) for pixel in drawn] == [
        (30, 30, 30),
        (30, 30, 30),
        panels.MISSED,
        panels.ADDED,
        panels.CONFUSED,
        panels.IGNORED,
    ]


def test_a_row_shows_input_truth_prediction_and_errors():
    image = np.full((64, 32, 1), 100, np.uint8)
    truth = np.zeros((64, 32), np.int32)
    truth[8:24, 8:24] = 1
    valid = np.ones((64, 32), np.float32)
    valid[40:] = 0
    row = panels.draw_row(image, truth, np.zeros_like(truth), valid, caption="case 7", side=128)
    assert row.dtype == np.uint8
    assert row.shape == (
        128 + 3 * panels.LINE + 2 * panels.GAP,
        4 * (64 + panels.GAP) + panels.GAP,
        3,
    )
    # Tiles are 64 wide, 70 apart, below a line of text; each pixel of the image is 2 × 2.
    top, left = panels.GAP + panels.LINE, panels.GAP
    inside = [tuple(int(v) for v in row[top + 32, left + 70 * k + 32]) for k in range(4)]
    assert inside == [(100,) * 3, (100,) * 3, (100,) * 3, panels.MISSED]
    assert tuple(row[top + 16, left + 70 + 32]) == ORANGE
    assert tuple(row[top + 100, left + 210 + 32]) == panels.IGNORED


def test_any_size_gives_a_row():
    for height, width in ((1, 1), (3, 700), (900, 2)):
        image = np.zeros((height, width, 3), np.float32)
        mask = np.zeros((height, width), np.int64)
        row = panels.draw_row(image, mask, mask, caption="a caption that is far too long " * 9)
        assert row.shape[2] == 3


def test_a_tile_is_square_whatever_the_image_and_its_name():
    for height, width in ((10, 10), (7, 300), (600, 900)):
        tile = panels.draw_example(
            np.zeros((height, width, 1), np.uint16), np.zeros((height, width), np.uint8), "x" * 99
        )
        assert tile.shape == (224 + panels.LINE, 224, 3)


def test_a_grid_fills_row_by_row():
    tiles = [np.full((4, 5, 3), 50 * k, np.uint8) for k in range(1, 4)]
    sheet = panels.grid(tiles, 2)
    gap = panels.GAP
    assert sheet.shape == (2 * (4 + gap) + gap, 2 * (5 + gap) + gap, 3)
    assert sheet[gap, gap, 0] == 50
    assert sheet[gap, gap + 5 + gap, 0] == 100
    assert sheet[gap + 4 + gap, gap, 0] == 150
    assert sheet[0, 0].tolist() == list(panels.PAPER)


def test_colours_repeat_after_the_last():
    count = len(panels.CLASS_COLOURS)
    assert len(set(panels.CLASS_COLOURS)) == count
    assert panels.class_colour(1) == panels.class_colour(1 + count)


def test_a_row_shows_where_the_prediction_is_sure():
    flat = np.zeros((32, 32), np.int32)
    confidence = np.full((32, 32), 255, np.uint8)
    confidence[:, :16] = 128
    row = panels.draw_row(flat, flat, flat, None, confidence, side=32)
    tile = row[panels.GAP + panels.LINE + 16, 4 * (32 + panels.GAP) + panels.GAP :]
    assert np.abs(tile[8].astype(int) - panels.RAMP[0]).max() <= 1  # a half is the least
    assert tuple(tile[24]) == panels.RAMP[-1]


def test_a_legend_names_the_classes_that_occur():
    mask = np.zeros((64, 64), np.int32)
    mask[8:16, 8:16] = 2
    names = ["background", "a", "b"]
    row = panels.draw_row(mask, mask, np.zeros_like(mask), classes=names, side=200)
    colours = {tuple(int(v) for v in pixel) for pixel in row[-panels.LINE :].reshape(-1, 3)}
    assert panels.class_colour(2) in colours
    assert panels.CONFUSED in colours
    assert panels.RAMP[0] not in colours


def test_captions_and_names_of_several_lines_are_drawn_on_one():
    image, mask = np.zeros((32, 32, 1), np.uint8), np.zeros((32, 32), np.uint8)
    same = []
    for name in ("a\nb", r"a\nb"):
        sheet = panels.draw_example(image, mask, name)
        legend = panels.legend_line(200, [(name, ORANGE)])
        row = panels.draw_row(
            image, mask, mask, np.ones((32, 32)), mask, caption=name, classes=["x", name]
        )
        same.append((sheet, legend, row))
    for first, second in zip(*same, strict=True):
        np.testing.assert_array_equal(first, second)
