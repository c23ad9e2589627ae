"""Pictures of volumes."""

import numpy as np
import pytest

from trainer.drawing import captions, overlays, panels, volumes

GAP, LINE = captions.GAP, captions.LINE
SPACING = (4.0, 1.0, 2.0)  # of volumes of 4 × 16 × 8 voxels, which are cubes of 16 mm


def test_a_comparison_shows_the_slices_with_the_most_errors_as_they_are_in_the_body():
    image = np.full((4, 16, 8, 1), 100, np.uint8)
    truth, prediction = np.zeros((2, 4, 16, 8), np.uint8)
    truth[0, 2, 6] = 1  # one error here, two each in the slices z = 1, y = 5 and x = 3
    truth[1, 5, 3] = truth[1, 9, 3] = truth[3, 5, 3] = 1
    valid = np.ones(truth.shape)
    valid[:, 12:] = 0
    truth[:, 12:] = 1
    confidence = np.full(truth.shape, 255, np.uint8)
    panel = volumes.draw_comparison(
        image, truth, prediction, valid, confidence, SPACING, "case 7", ["background", "disc"]
    )
    # A millimetre is ten pixels.
    height, width = 160 + LINE + GAP, 160 + GAP
    legend = panels.legend_of([truth], ["background", "disc"])
    below = LINE + len(captions.legend_lines(panel.shape[1], legend))
    assert panel.shape == (3 * height + GAP + below, 4 * width + GAP, 3)
    errors = [panel[GAP + LINE + row * height :, GAP + 2 * width :][:160, :160] for row in range(3)]
    missed = [(tile == overlays.MISSED).all(axis=2) for tile in errors]
    assert [int(found.sum()) for found in missed] == [2 * 200, 2 * 800, 3 * 400]
    assert missed[0][50:60, 60:80].all()  # y = 5 and x = 3 of the slice z = 1
    assert missed[1][40:80, 60:80].all()  # z = 1 and x = 3 of the slice y = 5
    assert missed[2][40:80, 50:60].all()  # z = 1 and y = 5 of the slice x = 3
    assert (errors[0][120:] == overlays.IGNORED).all()


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 700, 3)])
def test_any_volume_gives_a_comparison_that_is_not_wider_than_a_screen(shape):
    mask = np.zeros(shape, np.uint8)
    image = np.zeros((*shape, 2), np.float32)
    panel = volumes.draw_comparison(image, mask, mask, mask, mask, (9.0, 1.0, 0.5))
    assert panel.shape[1] <= 4 * (volumes.LONGEST + GAP) + GAP


def test_a_strip_goes_along_the_coarsest_axis():
    image = np.random.default_rng(0).normal(size=(4, 16, 8, 1)).astype(np.float32)
    mask = np.zeros((4, 16, 8), np.uint8)
    mask[1:3, 4:12, 2:6] = 1
    strip = volumes.draw_strip(image, mask, SPACING, "case 7", ["background", "disc"])
    height, width = 160 + LINE + GAP, 160 + GAP
    assert strip.shape == (height + GAP + 2 * LINE, 2 * width + GAP, 3)  # z = 1 and z = 2
    strip = volumes.draw_strip(image, mask, (1.0, 4.0, 1.0))
    assert strip.shape[1] == volumes.STRIP_COLUMNS * (8 * 3 + GAP) + GAP  # y = 4 … 11


def test_a_tile_shows_the_slices_with_the_most_classes():
    image, mask = np.zeros((4, 16, 8, 1), np.uint8), np.zeros((4, 16, 8), np.uint8)
    mask[0, 1, 1] = mask[3, 12, 7] = 2
    mask[3, 10:15, 4:7] = 1  # far from the middle
    tile = volumes.draw_example(image, mask, SPACING, "case 7")
    assert tile.shape == (160 + 2 * GAP + LINE, 3 * (160 + GAP) + GAP, 3)
    assert volumes._fitting(mask) == [3, 12, 4]  # no x has both classes
    assert volumes._fitting(np.zeros((4, 16, 8), np.uint8)) == [2, 8, 4]
    for column in range(2):
        part = tile[GAP:, GAP + column * (160 + GAP) :][:160, :160]
        for k in (1, 2):
            assert (part == overlays.class_colour(k)).all(axis=2).any()
