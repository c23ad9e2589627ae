"""Tests of what the samples of a TIFF are; tests/data/formats/test_images.py has more."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.pictures import LIMIT, refusal, save, source_of
from trainer.data.formats import images


def _values(source):
    return images.read_image(source, LIMIT).values


def test_two_channels_in_a_page_are_no_alpha(tmp_path):
    path, values = tmp_path / "x.tif", np.arange(40, dtype=np.uint8).reshape(4, 5, 2)
    options = {"photometric": "minisblack", "planarconfig": "contig", "metadata": None}
    tifffile.imwrite(path, values, extrasamples=["unspecified"], **options)
    pixels = images.read_image(source_of(path), LIMIT)
    np.testing.assert_array_equal(pixels.values, values)
    assert (pixels.alpha, pixels.extra) == (False, 1)
    np.testing.assert_array_equal(images.read_mask(source_of(path), LIMIT).values, values)


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
