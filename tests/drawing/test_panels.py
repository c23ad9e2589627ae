"""Tests of drawing."""

import numpy as np

from trainer.drawing import captions, overlays, panels

ORANGE, BLUE = overlays.CLASS_COLOURS[:2]


def test_a_row_shows_input_truth_prediction_and_errors():
    image = np.full((64, 32, 1), 100, np.uint8)
    truth = np.zeros((64, 32), np.int32)
    truth[8:24, 8:24] = 1
    valid = np.ones((64, 32), np.float32)
    valid[40:] = 0
    row = panels.draw_row(image, truth, np.zeros_like(truth), valid, caption="case 7", side=128)
    assert row.dtype == np.uint8
    assert row.shape == (
        128 + 3 * captions.LINE + 2 * captions.GAP,
        4 * (64 + captions.GAP) + captions.GAP,
        3,
    )
    # Tiles are 64 wide, 70 apart, below a line of text; each pixel of the image is 2 × 2.
    top, left = captions.GAP + captions.LINE, captions.GAP
    inside = [tuple(int(v) for v in row[top + 32, left + 70 * k + 32]) for k in range(4)]
    assert inside == [(100,) * 3, (100,) * 3, (100,) * 3, overlays.MISSED]
    assert tuple(row[top + 16, left + 70 + 32]) == ORANGE
    assert tuple(row[top + 100, left + 210 + 32]) == overlays.IGNORED


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
        assert tile.shape == (224 + captions.LINE, 224, 3)


def test_a_grid_fills_row_by_row():
    tiles = [np.full((4, 5, 3), 50 * k, np.uint8) for k in range(1, 4)]
    sheet = panels.grid(tiles, 2)
    gap = captions.GAP
    assert sheet.shape == (2 * (4 + gap) + gap, 2 * (5 + gap) + gap, 3)
    assert sheet[gap, gap, 0] == 50
    assert sheet[gap, gap + 5 + gap, 0] == 100
    assert sheet[gap + 4 + gap, gap, 0] == 150
    assert sheet[0, 0].tolist() == list(captions.PAPER)


def test_a_row_shows_where_the_prediction_is_sure():
    flat = np.zeros((32, 32), np.int32)
    confidence = np.full((32, 32), 255, np.uint8)
    confidence[:, :16] = 128
    row = panels.draw_row(flat, flat, flat, None, confidence, side=32)
    tile = row[captions.GAP + captions.LINE + 16, 4 * (32 + captions.GAP) + captions.GAP :]
    assert np.abs(tile[8].astype(int) - overlays.RAMP[0]).max() <= 1  # a half is the least
    assert tuple(tile[24]) == overlays.RAMP[-1]


def test_a_legend_names_the_classes_that_occur():
    mask = np.zeros((64, 64), np.int32)
    mask[8:16, 8:16] = 2
    names = ["background", "a", "b"]
    row = panels.draw_row(mask, mask, np.zeros_like(mask), classes=names, side=200)
    colours = {tuple(int(v) for v in pixel) for pixel in row[-captions.LINE :].reshape(-1, 3)}
    assert overlays.class_colour(2) in colours
    assert overlays.CONFUSED in colours
    assert overlays.RAMP[0] not in colours


def test_captions_and_names_of_several_lines_are_drawn_on_one():
    image, mask = np.zeros((32, 32, 1), np.uint8), np.zeros((32, 32), np.uint8)
    same = []
    for name in ("a\nb", r"a\nb"):
        sheet = panels.draw_example(image, mask, name)
        legend = captions.legend_line(200, [(name, ORANGE)])
        row = panels.draw_row(
            image, mask, mask, np.ones((32, 32)), mask, caption=name, classes=["x", name]
        )
        same.append((sheet, legend, row))
    for first, second in zip(*same, strict=True):
        np.testing.assert_array_equal(first, second)
