"""Tiles and blocks by the rules of planning."""

from trainer.data.planning import tiling


def test_only_images_of_very_different_sizes_are_cut():
    assert tiling.tile([(256, 256)] * 9 + [(500, 500)]) == 0
    assert tiling.tile([(256, 256)] * 9 + [(1024, 1024)]) == 256  # twice the crop of 128


def test_a_block_is_as_long_as_the_longest_patch():
    thick = [(20, 320, 320)] * 5, [(3.6, 0.62, 0.62)] * 5
    assert tiling.block(*thick, None) == 320
    assert tiling.block(*thick, (3.6, 1.24, 1.24)) == 160
    assert tiling.block([(1, 200, 200)] * 5, [(5, 1, 1)] * 5, None) == 224
