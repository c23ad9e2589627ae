"""Tests of which images a TIFF holds: stacks, channels, reduced copies."""

import numpy as np
import pytest
import tifffile

from tests.pictures import LIMIT, refusal
from trainer.data.formats import discovery, images, reading

PLANES = np.arange(2 * 3 * 2 * 4 * 5, dtype=np.uint16).reshape(2, 3, 2, 4, 5)  # T Z C Y X


def _found(path):
    return discovery.find(str(path.parent), "images", "")


def _values(source):
    return images.read_image(source, LIMIT).values


@pytest.mark.parametrize("options", [{"imagej": True}, {"ome": True}, {"compression": "zlib"}])
def test_channels_of_a_stack_make_one_image_and_times_and_depths_are_images(tmp_path, options):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, PLANES, photometric="minisblack", metadata={"axes": "TZCYX"}, **options)
    found = _found(path).sources
    assert [source.name for source in found] == [f"x_p00{k}" for k in range(6)]
    for k, source in enumerate(found):
        expected = np.moveaxis(PLANES[k // 3, k % 3], 0, 2)
        np.testing.assert_array_equal(_values(source), expected)
        assert images.read_image(source, LIMIT).extra == 1


def test_a_stack_that_only_its_first_page_describes_is_found(tmp_path):
    path = tmp_path / "x.tif"
    stack = PLANES[:, :, 0].reshape(6, 4, 5)
    tifffile.imwrite(path, stack, imagej=True, metadata={"axes": "ZYX"})
    with tifffile.TiffFile(path, mode="r+b") as file:  # as ImageJ does beyond 4 GB
        page = file.pages[0]
        place = page.offset + file.tiff.tagnosize + len(page.tags) * file.tiff.tagsize
        file.filehandle.seek(place)
        file.filehandle.write(bytes(4))
    with tifffile.TiffFile(path) as file:
        assert len(file.pages) == 1
    found = _found(path).sources
    np.testing.assert_array_equal([_values(source)[..., 0] for source in found], stack)
    path.write_bytes(path.read_bytes()[: page.dataoffsets[0] + 6 * 40 - 1])
    (source,) = _found(path).sources
    assert refusal(images.read_image, source, LIMIT) == (
        f"{path} cannot be read: it describes planes (ImageJ, OME) that it does not hold, or that "
        "are in other files."
    )


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_a_stack_in_one_page_is_found(tmp_path, byteorder):
    path = tmp_path / "x.tif"
    stack = PLANES[:, :, 0].reshape(6, 4, 5)
    with tifffile.TiffWriter(path, byteorder=byteorder) as writer:
        writer.write(stack, photometric="minisblack", contiguous=True, metadata={"axes": "QYX"})
    np.testing.assert_array_equal([_values(one)[..., 0] for one in _found(path).sources], stack)


def _write_pages(path, pages, **options):
    with tifffile.TiffWriter(path) as writer:
        for side, kind in pages:
            writer.write(
                np.full((side, side), side, bool if kind == 4 else np.uint8),
                photometric="minisblack",
                subfiletype=kind,
                metadata=None,
                **options,
            )


def test_reduced_pages_and_masks_of_others_are_no_images(tmp_path, caplog):
    path = tmp_path / "x.tif"
    _write_pages(path, [(64, 0), (32, 1), (16, 1), (64, 4)])
    with caplog.at_level("WARNING"):
        found = _found(path)
    assert [source.name for source in found.sources] == ["x"]
    assert found.left_out == {"reduced pages": 3}
    assert "Left out: 3 pages of TIFFs that are reduced copies, thumbnails or masks" in caplog.text
    np.testing.assert_array_equal(_values(found.sources[0]), np.full((64, 64, 1), 64))

    _write_pages(path, [(16, 1), (64, 0), (64, 0)])  # a thumbnail first
    found = _found(path)
    assert [source.name for source in found.sources] == ["x_p000", "x_p001"]
    assert [_values(source).shape for source in found.sources] == [(64, 64, 1)] * 2
    _write_pages(path, [(16, 1), (64, 0)])
    assert _values(_found(path).sources[0]).shape == (64, 64, 1)


def test_small_pages_that_may_be_copies_are_refused(tmp_path):
    path = tmp_path / "x.tif"
    _write_pages(path, [(64, 0), (32, 0)])
    assert refusal(_found, path) == (
        f"{path} has pages of 64×64 and of 32×32 pixels, and does not say whether the small ones "
        "are reduced copies (NewSubfileType); remove them, or save each as a file."
    )
    _write_pages(path, [(64, 0), (40, 0)])
    assert len(_found(path).sources) == 2


def test_copies_beside_the_pages_are_passed_by(tmp_path):
    path = tmp_path / "x.tif"
    with tifffile.TiffWriter(path) as writer:
        for kind in ({"subifds": 1}, {"subfiletype": 1}):
            side = 64 if "subifds" in kind else 32
            writer.write(np.full((side, side), side, np.uint8), photometric="minisblack", **kind)
    (source,) = _found(path).sources
    assert _values(source).shape == (64, 64, 1)


def test_planes_that_are_described_and_not_there_are_no_fewer_images(tmp_path):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, PLANES, imagej=True, metadata={"axes": "TZCYX"})
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"channels=2")] + b"channels=9" + data[-1000:])
    (source,) = _found(path).sources
    with pytest.raises(reading.UnreadableError):
        _values(source)
