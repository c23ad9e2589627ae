"""Tests of which images a TIFF holds: stacks, channels, reduced copies."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.pictures import LIMIT, refusal, save, source_of
from trainer.data import images, reading, sources

PLANES = np.arange(2 * 3 * 2 * 4 * 5, dtype=np.uint16).reshape(2, 3, 2, 4, 5)  # T Z C Y X


def _found(path):
    return sources.find(str(path.parent), "images", "")


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


def test_two_channels_in_a_page_are_no_alpha(tmp_path):
    path, values = tmp_path / "x.tif", np.arange(40, dtype=np.uint8).reshape(4, 5, 2)
    options = {"photometric": "minisblack", "planarconfig": "contig", "metadata": None}
    tifffile.imwrite(path, values, extrasamples=["unspecified"], **options)
    pixels = images.read_image(source_of(path), LIMIT)
    np.testing.assert_array_equal(pixels.values, values)
    assert (pixels.alpha, pixels.extra) == (False, 1)
    np.testing.assert_array_equal(images.read_mask(source_of(path), LIMIT).values, values)


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


def test_a_missing_part_has_the_value_that_the_file_says(tmp_path):
    path, values = tmp_path / "x.tif", np.full((32, 32), 7, np.uint8)
    tifffile.imwrite(path, values, tile=(16, 16), extratags=[(42113, 2, 0, "9", True)])
    with tifffile.TiffFile(path, mode="r+b") as file:
        tag = file.pages[0].tags["TileByteCounts"]
        tag.overwrite([0, *tag.value[1:]])
    found = _values(source_of(path))[..., 0]
    assert (found[:16, :16] == 9).all()
    assert (found[16:] == 7).all()


def test_masks_are_stored_values_with_what_they_stand_for(tmp_path):
    path, values = tmp_path / "x.tif", np.array([[0, 1, 255]], np.uint8)
    tifffile.imwrite(path, values, photometric="miniswhite", metadata=None)
    mask = images.read_mask(source_of(path), LIMIT)
    assert (mask.values.tolist(), mask.white_is_zero, mask.bits) == ([[0, 1, 255]], True, 8)
    tifffile.imwrite(path, values == 255, software="a scanner's")
    mask = images.read_mask(source_of(path), LIMIT)
    assert (mask.values.tolist(), mask.white_is_zero, mask.bits) == ([[0, 0, 1]], True, 1)
    assert images.read_image(source_of(path), LIMIT).values.ravel().tolist() == [255, 255, 0]
    tifffile.imwrite(path, values == 255)  # says that 0 is white, and means True by 1
    mask = images.read_mask(source_of(path), LIMIT)
    assert (mask.values.tolist(), mask.white_is_zero, mask.bits) == ([[0, 0, 1]], False, 1)
    assert images.read_image(source_of(path), LIMIT).values.ravel().tolist() == [0, 0, 255]
    colours = np.zeros((3, 256), np.uint16)
    colours[:, 1] = 255 * 257, 0, 128 * 257
    tifffile.imwrite(path, values, photometric="palette", colormap=colours)
    mask = images.read_mask(source_of(path), LIMIT)
    assert (mask.values.tolist(), mask.palette[1].tolist()) == ([[0, 1, 255]], [255, 0, 128])
    assert images.read_image(source_of(path), LIMIT).values.tolist() == [
        [[0, 0, 0], [255, 0, 128], [0, 0, 0]]
    ]
    tifffile.imwrite(path, np.zeros((16, 16), np.uint8), compression="jpeg")
    assert images.read_mask(source_of(path), LIMIT).lossy


def test_cmyk_is_set_upright_once(tmp_path):
    cmyk = np.zeros((2, 3, 4), np.uint8)
    cmyk[0] = 255  # black rows at the top, shown on the right
    Image.fromarray(cmyk, "CMYK").save(tmp_path / "x.tif", tiffinfo={274: 6})
    found = _values(source_of(tmp_path / "x.tif"))[..., 0]
    assert found.tolist() == [[255, 0]] * 3


def test_colours_in_jpeg_and_cmyk_are_rgb(tmp_path):
    values = np.zeros((16, 16, 3), np.uint8) + np.array([200, 90, 30], np.uint8)
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="rgb", compression="jpeg")
    with tifffile.TiffFile(tmp_path / "x.tif") as file:
        assert file.pages[0].photometric == tifffile.PHOTOMETRIC.YCBCR
    np.testing.assert_allclose(_values(source_of(tmp_path / "x.tif")), values, atol=3)
    cmyk = np.zeros((16, 16, 4), np.uint8) + np.array([0, 255, 255, 0], np.uint8)
    tifffile.imwrite(tmp_path / "x.tif", cmyk, photometric="separated")
    assert _values(source_of(tmp_path / "x.tif"))[0, 0].tolist() == [255, 0, 0]
    assert refusal(images.read_mask, source_of(tmp_path / "x.tif"), LIMIT) == (
        "X is a TIFF in SEPARATED; save masks as grey or RGB."
    )


@pytest.mark.parametrize("bits", [2, 4])
def test_few_bits_are_brightness_in_images_and_values_in_masks(tmp_path, bits):
    full = 2**bits - 1
    packed = bytes([0b00_01_10_11]) if bits == 2 else bytes([0x01, 0xEF])
    stored = [0, 1, 2, 3] if bits == 2 else [0, 1, 14, 15]
    save(tmp_path / "x.tif", np.zeros((1, 4), np.uint8))
    with tifffile.TiffFile(tmp_path / "x.tif", mode="r+b") as file:
        page = file.pages[0]
        file.filehandle.seek(page.dataoffsets[0])
        file.filehandle.write(packed)
        page.tags["BitsPerSample"].overwrite(bits)
        page.tags["StripByteCounts"].overwrite(len(packed))
    source = source_of(tmp_path / "x.tif")
    assert _values(source)[0, :, 0].tolist() == [value * 255 // full for value in stored]
    mask = images.read_mask(source, LIMIT)
    assert (mask.values.tolist(), mask.bits) == ([stored], bits)
