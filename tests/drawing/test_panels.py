"""Tests of drawing."""

import numpy as np
import pytest

from trainer.drawing import captions, overlays, panels
from trainer.ignore_label import IGNORE

ORANGE, BLUE = overlays.CLASS_COLOURS[:2]


def test_a_panel_shows_truth_and_prediction_above_errors_and_confidence():
    image = np.full((64, 32, 1), 100, np.uint8)
    truth = np.zeros((64, 32), np.int32)
    truth[8:24, 8:24] = 1
    valid = np.ones((64, 32), np.float32)
    valid[40:] = 0
    confidence = np.full((64, 32), 255, np.uint8)
    confidence[:, :16] = 128
    panel = panels.draw_panel(
        image, truth, np.zeros_like(truth), valid, confidence, caption="case 7", side=128
    )
    # Tiles are 64 wide, each below a line of text; each pixel of the image is 2 × 2.
    across, down = 64 + captions.GAP, 128 + captions.LINE + captions.GAP
    legend = captions.legend_lines(panel.shape[1], panels.legend_of([truth], []))
    assert panel.shape == (
        2 * down + captions.GAP + captions.LINE + len(legend),
        2 * across + captions.GAP,
        3,
    )
    truth, prediction, errors, confidence = (
        panel[row * down + captions.GAP + captions.LINE :, column * across + captions.GAP :]
        for row in (0, 1)
        for column in (0, 1)
    )
    inside = [tuple(int(v) for v in tile[32, 32]) for tile in (truth, prediction, errors)]
    assert inside == [(100,) * 3, (100,) * 3, overlays.MISSED]
    assert tuple(truth[16, 32]) == ORANGE
    assert tuple(errors[100, 32]) == overlays.IGNORED
    assert np.abs(confidence[8, 8].astype(int) - overlays.RAMP[0]).max() <= 1  # a half is the least
    assert tuple(confidence[8, 40]) == overlays.RAMP[-1]


def test_any_size_gives_a_panel():
    for height, width in ((1, 1), (3, 700), (900, 2)):
        image = np.zeros((height, width, 3), np.float32)
        mask = np.zeros((height, width), np.uint8)
        caption = "a caption that is far too long " * 9
        panel = panels.draw_panel(image, mask, mask, mask, mask, caption=caption)
        assert panel.shape[2] == 3


def test_a_tile_is_square_whatever_the_image_and_its_name():
    for height, width in ((10, 10), (7, 300), (600, 900)):
        tile = panels.draw_example(
            np.zeros((height, width, 1), np.uint16), np.zeros((height, width), np.uint8), "x" * 99
        )
        assert tile.shape == (224 + captions.LINE, 224, 3)


def test_a_tile_shows_the_whole_of_a_large_image_at_its_caption():
    image, mask = np.zeros((500, 2000), np.uint8), np.zeros((500, 2000), np.uint8)
    mask[0, 0] = 1  # of which one in nine rows and columns would be drawn
    mask[250, 3:1900] = 2  # a crack, a pixel wide
    mask[499, 1999] = IGNORE
    tile = panels.draw_example(image, mask, "case 7")
    top = 224 - 56  # above is paper
    assert tuple(tile[top, 0]) == overlays.class_colour(1)
    crack = (tile[:224] == overlays.class_colour(2)).all(axis=2)
    assert crack.any(axis=0).sum() == pytest.approx(224 * 1897 / 2000, abs=2)
    assert (tile[:top] == captions.PAPER).all()
    assert not (tile[223] == captions.PAPER).all()


def test_a_grid_fills_row_by_row():
    tiles = [np.full((4, 5, 3), 50 * k, np.uint8) for k in range(1, 4)]
    sheet = panels.grid(tiles, 2)
    gap = captions.GAP
    assert sheet.shape == (2 * (4 + gap) + gap, 2 * (5 + gap) + gap, 3)
    assert sheet[gap, gap, 0] == 50
    assert sheet[gap, gap + 5 + gap, 0] == 100
    assert sheet[gap + 4 + gap, gap, 0] == 150
    assert sheet[0, 0].tolist() == list(captions.PAPER)


def test_a_row_of_a_grid_is_as_high_as_its_highest_tile():
    tiles = [np.full((height, 5, 3), 50 * height, np.uint8) for height in (1, 2, 3, 4)]
    sheet = panels.grid(tiles, 2)
    gap = captions.GAP
    assert len(sheet) == gap + 2 + gap + 4 + gap
    assert sheet[gap + 2 + gap, gap, 0] == 150


def test_a_legend_names_the_classes_that_occur():
    mask = np.zeros((64, 64), np.int32)
    mask[8:16, 8:16] = 2
    legend = dict(panels.legend_of([mask, np.zeros_like(mask)], ["background", "a", "b"]))
    assert legend["b"] == overlays.class_colour(2)
    assert "a" not in legend
    assert legend["wrong class"] == overlays.CONFUSED
    assert legend["33%"] == overlays.RAMP[0]
    assert "wrong class" not in dict(panels.legend_of([np.minimum(mask, 1)], ["background", "a"]))


def test_captions_and_names_of_several_lines_are_drawn_on_one():
    image, mask = np.zeros((32, 32, 1), np.uint8), np.zeros((32, 32), np.uint8)
    same = []
    for name in ("a\nb", r"a\nb"):
        sheet = panels.draw_example(image, mask, name)
        legend = captions.legend_lines(200, [(name, ORANGE)])
        panel = panels.draw_panel(
            image, mask, mask, np.ones((32, 32)), mask, caption=name, classes=["x", name]
        )
        same.append((sheet, legend, panel))
    for first, second in zip(*same, strict=True):
        np.testing.assert_array_equal(first, second)
