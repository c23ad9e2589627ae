"""What examples images and volumes are cut into."""

from trainer.data.prepare.pairs import Part, cut, cut_blocks


def test_a_volume_no_larger_than_a_block_stays_whole():
    assert cut_blocks("a", (40, 56, 40), (40, 64, 64)) == [Part("a", (0, 0, 0), (40, 56, 40))]


def test_blocks_overlap_by_a_quarter_and_the_last_one_ends_the_volume():
    # 16 - 8 voxels in steps of at most 6: two steps of 4; the other axes are shorter than a block.
    parts = cut_blocks("a", (16, 5, 8), (8, 8, 8))
    assert [part.start for part in parts] == [(0, 0, 0), (4, 0, 0), (8, 0, 0)]
    assert {part.shape for part in parts} == {(8, 5, 8)}
    assert [part.name for part in parts] == ["a_z0_y0_x0", "a_z4_y0_x0", "a_z8_y0_x0"]
    assert parts[1].box == (slice(4, 12), slice(0, 5), slice(0, 8))


def test_blocks_cover_a_volume_in_all_directions():
    parts = cut_blocks("a", (300, 512, 161), (160, 160, 160))
    assert len(parts) == 3 * 4 * 2
    assert sorted({part.start[1] for part in parts}) == [0, 117, 234, 352]
    assert sorted({part.start[2] for part in parts}) == [0, 1]


def test_an_image_without_a_tile_size_stays_whole():
    assert cut("a", (7, 9), 0) == [Part("a", (0, 0), (7, 9))]
