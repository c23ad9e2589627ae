"""Tests of pictures of Pillow's formats: how they lie, transparency, few bits."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.pictures import GREY, LIMIT, png, png16, refusal, save, source_of
from trainer.data.formats import images, pictures

COLOUR = np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 10


@pytest.mark.parametrize("place", ["before", "after"])
def test_pictures_are_set_upright_by_exif_wherever_it_stands(tmp_path, place):
    exif = Image.Exif()
    exif[pictures.ORIENTATION] = 6  # what is stored as rows is shown as columns, from right to left
    upright = np.rot90(GREY, -1)
    path = tmp_path / "x.png"
    sixteen = np.dstack([GREY.astype(np.uint16) * 200] * 3)
    for data, expected in (
        (save(path, GREY) and path.read_bytes(), upright[..., None]),
        (png16(sixteen), np.rot90(sixteen, -1)),
    ):
        chunk = exif.tobytes().removeprefix(b"Exif\0\0")
        chunk = png([(b"eXIf", chunk)])[8:]
        at = data.index(b"IDAT") - 4 if place == "before" else data.index(b"IEND") - 4
        path.write_bytes(data[:at] + chunk + data[at:])
        found = images.read_image(source_of(path), LIMIT).values
        np.testing.assert_array_equal(found, expected)
        mask = images.read_mask(source_of(path), LIMIT).values
        np.testing.assert_array_equal(mask.reshape(found.shape), expected)


def test_a_jpeg_of_a_telephone_is_set_upright(tmp_path):
    values = np.zeros((16, 32), np.uint8)
    values[:, 16:] = 200  # on the right; shown at the bottom
    exif = Image.Exif()
    exif[pictures.ORIENTATION] = 6
    found = images.read_image(save(tmp_path / "x.jpg", values, exif=exif), LIMIT).values
    assert found.shape == (32, 16, 1)
    assert found[:12].max() < 20
    assert found[20:].min() > 180


def test_of_a_camera_s_several_pictures_the_first_is_the_image(tmp_path):
    first = np.full((16, 24, 3), 100, np.uint8)
    preview = Image.fromarray(first[:8, :8] // 2)
    path = tmp_path / "x.jpg"
    Image.fromarray(first).save(path, "MPO", save_all=True, append_images=[preview])
    np.testing.assert_allclose(images.read_image(source_of(path), LIMIT).values, first, atol=3)
    assert images.read_mask(source_of(path), LIMIT).lossy


def test_one_grey_or_colour_may_be_transparent(tmp_path):
    source = save(tmp_path / "x.png", GREY, transparency=50)
    pixels = images.read_image(source, LIMIT)
    np.testing.assert_array_equal(pixels.values[..., 0], GREY)
    assert pixels.values[..., 1].tolist() == [[255, 0, 255], [255, 255, 255]]
    np.testing.assert_array_equal(images.read_mask(source, LIMIT).values, GREY)
    pixels = images.read_image(save(tmp_path / "x.png", COLOUR, transparency=(30, 40, 50)), LIMIT)
    assert pixels.values[..., 3].tolist() == [[255, 0, 255], [255, 255, 255]]
    sixteen = GREY.astype(np.uint16) * 257
    pixels = images.read_image(save(tmp_path / "x.png", sixteen, transparency=50 * 257), LIMIT)
    assert pixels.values[..., 1].tolist() == [[65535, 0, 65535], [65535] * 3]


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_of_a_png_are_brightness_in_images_and_values_in_masks(tmp_path, bits):
    header = struct.pack(">IIBBBBB", 2, 1, bits, 0, 0, 0, 0)
    row = bytes([0, 2**bits - 1 << 8 - 2 * bits])  # 0 and the largest
    (tmp_path / "x.png").write_bytes(
        png([(b"IHDR", header), (b"IDAT", zlib.compress(row)), (b"IEND", b"")])
    )
    source = source_of(tmp_path / "x.png")
    assert images.read_image(source, LIMIT).values.ravel().tolist() == [0, 255]
    mask = images.read_mask(source, LIMIT)
    assert (mask.values.tolist(), mask.bits) == ([[0, 2**bits - 1]], bits)


def test_only_webp_that_loses_nothing_has_exact_values(tmp_path):
    for lossless in (True, False):
        source = save(tmp_path / "x.webp", COLOUR, lossless=lossless)
        assert images.read_mask(source, LIMIT).lossy != lossless


def test_a_picture_of_several_frames_is_refused(tmp_path):
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    for suffix, name in (("gif", "GIF"), ("webp", "WEBP"), ("png", "PNG")):
        path = tmp_path / f"x.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        assert refusal(images.read_image, source_of(path), LIMIT) == (
            f"X is a {name} of 2 frames; save each as a file."
        )
