"""Tests of reading pictures and arrays."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.jobs import ROOT
from tests.pictures import GREY, LIMIT, bomb, png16, refusal, save, save_pages, source_of
from trainer.data.formats import discovery, images, reading

COLOUR = np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 10


def _mask_values(source):
    return images.read_mask(source, LIMIT).values


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_lossless_pictures_are_read_as_they_were_saved(tmp_path, suffix):
    for values in (GREY, COLOUR):
        pixels = images.read_image(save(tmp_path / f"x.{suffix}", values), LIMIT)
        np.testing.assert_array_equal(pixels.values.reshape(values.shape), values)
        assert pixels.values.dtype == np.uint8
        assert not pixels.alpha


def test_a_jpeg_is_read(tmp_path):
    values = np.full((16, 16, 3), 90, np.uint8)
    pixels = images.read_image(save(tmp_path / "x.jpg", values), LIMIT)
    np.testing.assert_allclose(pixels.values, values, atol=3)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_stay_sixteen_bits(tmp_path, suffix):
    values = np.array([[0, 1, 258], [4095, 65534, 65535]], np.uint16)
    pixels = images.read_image(save(tmp_path / f"x.{suffix}", values), LIMIT)
    assert pixels.values.dtype == np.uint16
    np.testing.assert_array_equal(pixels.values[..., 0], values)


@pytest.mark.parametrize(("channels", "alpha"), [(2, True), (3, False), (4, True)])
def test_sixteen_bit_colours_and_alpha_are_not_cut_to_eight_bits(tmp_path, channels, alpha):
    values = np.random.default_rng(0).integers(0, 65536, (4, 5, channels)).astype(np.uint16)
    (tmp_path / "x.png").write_bytes(png16(values))
    pixels = images.read_image(source_of(tmp_path / "x.png"), LIMIT)
    np.testing.assert_array_equal(pixels.values, values)
    assert pixels.alpha == alpha


def test_a_damaged_sixteen_bit_colour_png_is_named(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (4, 5, 3)).astype(np.uint16)
    (tmp_path / "x.png").write_bytes(png16(values)[:60])
    message = refusal(images.read_image, source_of(tmp_path / "x.png"), LIMIT)
    assert message == "X cannot be read: image file is truncated."


def _save_tiff(path, values, alpha="unassalpha", **options):
    """Writes [H, W, C] as a TIFF, plane by plane if planarconfig is "separate"."""
    channels = values.shape[2]
    if channels == 1:
        values = values[..., 0]
    elif options.setdefault("planarconfig", "contig") == "separate":
        values = np.moveaxis(values, 2, 0)
    if channels in (2, 4):
        options["extrasamples"] = [alpha]
    options["photometric"] = "rgb" if channels > 2 else "minisblack"
    tifffile.imwrite(path, values, metadata=None, **options)
    return source_of(path)


TIFFS = {
    "plain": {},
    "big-endian": {"byteorder": ">"},
    "BigTIFF": {"bigtiff": True},
    "planes": {"planarconfig": "separate", "rowsperstrip": 4},
    "tiled planes": {"planarconfig": "separate", "tile": (16, 16)},
    "deflated": {"compression": "zlib", "predictor": True, "rowsperstrip": 4},
    "deflated planes": {"planarconfig": "separate", "compression": "zlib", "tile": (16, 16)},
}


@pytest.mark.parametrize("kind", TIFFS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [2, 3, 4])
def test_colours_and_alpha_of_a_tiff_keep_all_their_bits(tmp_path, channels, dtype, kind):
    values = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (18, 21, channels), dtype)
    pixels = images.read_image(_save_tiff(tmp_path / "x.tif", values, **TIFFS[kind]), LIMIT)
    assert pixels.values.dtype == dtype
    np.testing.assert_array_equal(pixels.values, values)
    assert pixels.alpha == (channels != 3)


@pytest.mark.parametrize("scale", [1, 257])
def test_the_fourth_sample_of_a_tiff_is_what_it_is_said_to_be(tmp_path, scale):
    pixel = np.array([[[50, 100, 20, 100], [9, 9, 9, 0]]], np.uint8 if scale == 1 else np.uint16)
    for alpha, expected in (
        ("unassalpha", [[50, 100, 20, 100], [9, 9, 9, 0]]),
        ("assocalpha", [[127, 255, 51, 100], [0, 0, 0, 0]]),  # 50 × 255 / 100 = 127.5
        ("unspecified", [[50, 100, 20, 100], [9, 9, 9, 0]]),
    ):
        pixels = images.read_image(_save_tiff(tmp_path / "x.tif", pixel * scale, alpha), LIMIT)
        assert (pixels.values[0] // scale).tolist() == expected
        assert (pixels.alpha, pixels.extra) == ((False, 1) if alpha == "unspecified" else (True, 0))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_tiff_that_is_stored_sideways_is_set_upright(tmp_path, channels, dtype):
    values = np.arange(6 * channels, dtype=dtype).reshape(2, 3, channels)
    side = values.swapaxes(0, 1)
    upright = [values, values[:, ::-1], values[::-1, ::-1], values[::-1]]
    upright += [side, side[:, ::-1], side[::-1, ::-1], side[::-1]]
    for orientation, expected in enumerate(upright, 1):
        tags = [(274, 3, 1, orientation, True)]
        source = _save_tiff(tmp_path / "x.tif", values, extratags=tags)
        np.testing.assert_array_equal(images.read_image(source, LIMIT).values, expected)


def test_sixteen_bit_pages_of_several_kinds_are_images(tmp_path):
    shapes = [(4, 5), (4, 5, 2), (6, 3, 3)]
    with tifffile.TiffWriter(tmp_path / "x.tif") as writer:
        for k, shape in enumerate(shapes):
            writer.write(
                np.full(shape, 300 + k, np.uint16),
                photometric="rgb" if k == 2 else "minisblack",
                planarconfig="contig" if k else None,
                extrasamples=["unassalpha"] if k == 1 else None,
                metadata=None,
            )
    found = discovery.find(str(tmp_path), "images", "").sources
    assert [source.name for source in found] == ["x_p000", "x_p001", "x_p002"]
    for k, source in enumerate(found):
        values = images.read_image(source, LIMIT).values
        assert values.shape[:2] == shapes[k][:2]
        assert values.dtype == np.uint16
        assert (values == 300 + k).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_bright_is_large_also_where_zero_is_white(tmp_path, dtype):
    values = np.array([[0, 1, 200]], dtype)
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="miniswhite", metadata=None)
    found = images.read_image(source_of(tmp_path / "x.tif"), LIMIT).values
    np.testing.assert_array_equal(found[..., 0], np.iinfo(dtype).max - values)


def test_masks_in_sixteen_bit_colours_are_not_cut(tmp_path):
    values = np.full((2, 2, 3), 300, np.uint16)
    assert _mask_values(_save_tiff(tmp_path / "x.tif", values)).max() == 300
    (tmp_path / "x.png").write_bytes(png16(values))
    assert _mask_values(source_of(tmp_path / "x.png")).max() == 300


@pytest.mark.parametrize("tile", [None, (2048, 2048)])
def test_a_sixteen_bit_tiff_is_held_to_the_limit_before_it_is_decoded(tmp_path, tile):
    values = np.zeros((9, 9, 3) if tile else (1000, 1001, 3), np.uint16)
    source = _save_tiff(tmp_path / "x.tif", values, compression="zlib", tile=tile)
    assert refusal(images.read_image, source, LIMIT) == (
        "A tile of X has 2048×2048 = 4194304 pixels, more than --max_pixels=1000000; if that is "
        "right, raise --max_pixels; if not, remove it."
        if tile
        else "X has 1000×1001 = 1001000 pixels, more than --max_pixels=1000000; if that is right, "
        "raise --max_pixels; if not, remove it."
    )


def test_a_codec_that_is_not_there_is_named(tmp_path):
    source = _save_tiff(tmp_path / "x.tif", np.zeros((9, 9, 3), np.uint16))
    with tifffile.TiffFile(tmp_path / "x.tif", mode="r+b") as file:
        file.pages[0].tags["Compression"].overwrite(tifffile.COMPRESSION.EER_V0)
    assert refusal(images.read_image, source, LIMIT) == (
        "X has 3 samples of 16 bits in EER_V0 compression, which cannot be decoded here; save it "
        "with deflate compression or none."
    )


@pytest.mark.parametrize(
    ("values", "photometric", "kind"),
    [
        (np.zeros((2, 2), np.complex64), "minisblack", "1 samples of 64 bits a pixel (MINISBLACK"),
        (np.zeros((2, 2), np.float32), "miniswhite", "1 samples of 32 bits a pixel (MINISWHITE, f"),
        (np.zeros((2, 2, 4), np.uint16), "separated", "4 samples of 16 bits a pixel (SEPARATED, u"),
    ],
)
def test_other_kinds_of_tiff_are_refused_by_what_they_are(tmp_path, values, photometric, kind):
    tifffile.imwrite(tmp_path / "x.tif", values, photometric=photometric)
    message = refusal(images.read_image, source_of(tmp_path / "x.tif"), LIMIT)
    assert message.startswith(f"X is a TIFF of {kind}")
    assert message.endswith(", which is not read; save it as grey or RGB, or as a .npy array.")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_sixteen_bit_tiff_that_is_cut_is_unreadable(tmp_path, share):
    values = np.random.default_rng(0).integers(0, 65536, (40, 40, 3)).astype(np.uint16)
    source = _save_tiff(tmp_path / "x.tif", values, compression="zlib", rowsperstrip=8)
    data = (tmp_path / "x.tif").read_bytes()
    (tmp_path / "x.tif").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(reading.UnreadableError, match="^X cannot be read: the file ends early.$"):
        images.read_image(source, LIMIT)


def test_a_float_tiff_is_read_as_float32(tmp_path):
    values = np.array([[0.5, -1e6]], np.float32)
    pixels = images.read_image(save(tmp_path / "x.tif", values), LIMIT)
    np.testing.assert_array_equal(pixels.values, values[..., None])


def test_alpha_grey_palette_and_one_bit_pictures_are_understood(tmp_path):
    alpha = np.dstack([GREY, np.full_like(GREY, 255)])
    pixels = images.read_image(save(tmp_path / "a.png", alpha), LIMIT)
    assert (pixels.alpha, pixels.is_opaque, pixels.is_grey) == (True, True, True)
    alpha[0, 0, 1] = 254
    assert not images.read_image(save(tmp_path / "a.png", alpha), LIMIT).is_opaque

    Image.fromarray(COLOUR).quantize(6).save(tmp_path / "p.png")
    pixels = images.read_image(source_of(tmp_path / "p.png"), LIMIT)
    assert (pixels.values.shape, pixels.is_grey) == ((2, 3, 3), False)

    pixels = images.read_image(save(tmp_path / "b.png", GREY > 99), LIMIT)
    assert pixels.values[..., 0].tolist() == [[0, 0, 255], [255, 255, 255]]


def test_a_grey_image_in_rgb_is_grey(tmp_path):
    pixels = images.read_image(save(tmp_path / "x.png", np.dstack([GREY] * 3)), LIMIT)
    assert pixels.is_grey
    assert pixels.values.shape == (2, 3, 3)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[True, False]]), [[1, 0]]),
        (np.array([[0, 7]], np.int64), [[0, 7]]),
        (np.array([[0, -3]], np.int16), [[0, -3]]),
        (np.array([[0.0, 2.0]]), [[0, 2]]),
        (np.array([[[4], [5]]], np.uint8), [[4, 5]]),
        (np.array([[0, 300]], ">u2"), [[0, 300]]),
    ],
)
def test_masks_in_arrays_keep_their_values(tmp_path, values, expected):
    np.save(tmp_path / "x.npy", values)
    assert _mask_values(source_of(tmp_path / "x.npy")).tolist() == expected


def test_masks_in_pictures_keep_their_values(tmp_path):
    for values in (GREY, np.dstack([GREY, np.full_like(GREY, 255)])):
        np.testing.assert_array_equal(_mask_values(save(tmp_path / "x.png", values)), GREY)
    palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    palette.save(tmp_path / "p.png")
    assert Image.open(tmp_path / "p.png").mode == "P"
    assert _mask_values(source_of(tmp_path / "p.png")).tolist() == [[0, 1, 2]]
    assert _mask_values(save(tmp_path / "b.png", GREY > 99)).max() == 1
    sixteen = save(tmp_path / "s.png", GREY.astype(np.uint16) * 10)
    assert _mask_values(sixteen).max() == 2550


def test_truncated_and_foreign_files_are_unreadable(tmp_path):
    source = save(tmp_path / "x.png", np.random.default_rng(0).integers(0, 256, (9, 9), np.uint8))
    data = (tmp_path / "x.png").read_bytes()
    for content in (data[: len(data) // 2], b"GIF89a", b""):
        (tmp_path / "x.png").write_bytes(content)
        for read in (images.read_image, images.read_mask):
            with pytest.raises(reading.UnreadableError, match=r"^X cannot be read: .*\.$"):
                read(source, LIMIT)


def test_a_decompression_bomb_is_not_decoded(tmp_path):
    (tmp_path / "x.png").write_bytes(bomb())
    assert len(bomb()) < 500_000
    assert refusal(images.read_image, source_of(tmp_path / "x.png"), 2**28) == (
        "X has 20000×30000 = 600000000 pixels, more than --max_pixels=268435456; if that is right, "
        "raise --max_pixels; if not, remove it."
    )


def test_pillows_own_limit_does_not_interfere(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2)
    source = save(tmp_path / "x.png", GREY)
    assert images.read_image(source, 6).values.shape == (2, 3, 1)
    assert Image.MAX_IMAGE_PIXELS == 2
    assert "more than --max_pixels=5;" in refusal(images.read_image, source, 5)


def test_a_tiff_of_several_pages_under_another_name_is_refused(tmp_path):
    save_pages(tmp_path / "x.png", [GREY] * 3)
    assert refusal(images.read_image, source_of(tmp_path / "x.png"), LIMIT) == (
        "X is a TIFF of 3 pages; give it a name that ends in .tif, and each page is an image."
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_pixels_that_are_not_finite_are_refused(tmp_path, value):
    np.save(tmp_path / "x.npy", np.array([[1.0, value]]))
    assert refusal(images.read_image, source_of(tmp_path / "x.npy"), LIMIT) == (
        "X has pixels that are not finite in float32 (NaN, infinite or too large); replace them, "
        "and mark them in the mask with --ignore."
    )


def test_integers_that_float32_cannot_hold_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[1, 2**24 + 1]]))
    assert refusal(images.read_image, source_of(tmp_path / "x.npy"), LIMIT) == (
        "X has the value 16777217, above 16777216, up to which float32 holds every "
        "integer; scale the image."
    )


@pytest.mark.parametrize("compression", ["tiff_deflate", "tiff_lzw", None])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_a_cut_tiff_is_refused_without_a_word_of_others(
    tmp_path, capfd, recwarn, compression, share
):
    values = np.random.default_rng(0).integers(0, 256, (200, 200)).astype(np.uint8)
    source = save(tmp_path / "x.tif", values, compression=compression)
    data = (tmp_path / "x.tif").read_bytes()
    (tmp_path / "x.tif").write_bytes(data[: int(len(data) * share)])
    refusal(images.read_image, source, LIMIT)
    (tmp_path / "x.tif").write_bytes(data[:9000] + bytes(99) + data[9099:])
    if compression == "tiff_deflate":
        refusal(images.read_image, source, LIMIT)
    assert capfd.readouterr().err == ""
    assert not recwarn.list


def test_a_tiff_that_pillow_refuses_is_refused_without_a_word_of_others(tmp_path, capfd, caplog):
    source = _save_tiff(tmp_path / "x.tif", np.zeros((4, 4, 3), np.uint8))
    with tifffile.TiffFile(tmp_path / "x.tif", mode="r+b") as file:
        file.pages[0].tags["SamplesPerPixel"].overwrite(99)
    assert refusal(images.read_image, source, LIMIT) == (
        "X cannot be read: corrupted strip cannot be reshaped from (48,) to (1, 4, 4, 99)."
    )
    assert (capfd.readouterr().err, caplog.text) == ("", "")


def _pixels(values, alpha=False):
    return images.Pixels(np.array(values)[np.newaxis], alpha)


@pytest.mark.parametrize(
    ("pixels", "channels", "expected"),
    [
        (_pixels([[9]]), 1, [[9]]),
        (_pixels([[9]]), 3, [[9, 9, 9]]),
        (_pixels([[9, 255]], True), 1, [[9]]),
        (_pixels([[9, 254]], True), 2, [[9, 254]]),
        (_pixels([[1, 2, 3, 7]], True), 3, [[1, 2, 3]]),
        (_pixels([[1, 2, 3, 7]], True), 4, [[1, 2, 3, 7]]),
        (_pixels([[5, 5, 5]]), 1, [[5]]),
        (_pixels([[1, 2, 3, 4]]), 4, [[1, 2, 3, 4]]),
        # 0.299 × 100 + 0.587 × 50 + 0.114 × 200 = 82.05
        (_pixels([[100, 50, 200]]), 1, [[82]]),
    ],
)
def test_channels_are_converted_by_rule(pixels, channels, expected):
    pixels = images.Pixels(pixels.values.astype(np.uint8), pixels.alpha)
    values = images.convert(pixels, channels, "uint8", "X")
    assert values[0].tolist() == expected
    assert values.dtype == np.uint8


def test_a_missing_alpha_is_full():
    grey = images.Pixels(np.full((1, 1, 1), 3, np.uint8), False)
    assert images.convert(grey, 2, "uint8", "X").ravel().tolist() == [3, 255]
    assert images.convert(grey, 4, "uint8", "X").ravel().tolist() == [3, 3, 3, 255]
    assert images.convert(grey, 4, "uint16", "X").ravel().tolist() == [771, 771, 771, 65535]


def test_eight_bits_are_scaled_to_sixteen_so_that_full_stays_full():
    grey = images.Pixels(np.array([[[0], [1], [255]]], np.uint8), False)
    assert images.convert(grey, 1, "uint16", "X").ravel().tolist() == [0, 257, 65535]


def test_luminance_is_pillows():
    values = np.random.default_rng(0).integers(0, 256, (20, 20, 3)).astype(np.uint8)
    ours = images.convert(images.Pixels(values, False), 1, "uint8", "X")
    np.testing.assert_array_equal(ours[..., 0], np.asarray(Image.fromarray(values).convert("L")))


def test_conversions_without_a_rule_are_refused():
    five = images.Pixels(np.zeros((1, 1, 5), np.uint8), False)
    assert refusal(images.convert, five, 3, "uint8", "X") == (
        "X has 5 channels, which cannot become 3; give images of one kind, or another --channels."
    )
    wide = images.Pixels(np.zeros((1, 1, 1), np.uint16), False)
    assert refusal(images.convert, wide, 1, "uint8", "X") == (
        "X has uint16 pixels and the data are uint8; no rule makes them comparable: convert the "
        "image."
    )


@pytest.mark.slow
def test_sixteen_bit_colours_are_read_without_a_word_of_tensorflow(tmp_path):
    values = np.full((4, 5, 3), 40000, np.uint16)
    (tmp_path / "deep.png").write_bytes(png16(values))
    code = "from trainer import cli; cli.prepare_environment(); "
    code += "from trainer.data.formats import discovery, images; "
    code += "(source,) = discovery.find('deep.png', 'images', '').sources; "
    code += "print(images.read_image(source, 99).values.max())"
    level = "TF_CPP_MIN_LOG_LEVEL"
    environment = {name: value for name, value in os.environ.items() if name != level}
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.stdout, result.stderr) == ("40000\n", "")


def test_a_mask_says_what_its_values_stand_for(tmp_path):
    palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    palette.save(tmp_path / "p.png")
    mask = images.read_mask(source_of(tmp_path / "p.png"), LIMIT)
    assert mask.values.tolist() == [[0, 1, 2]]
    assert mask.palette[:3].tolist() == [[0, 0, 0], [255, 0, 0], [0, 255, 0]]
    mask = images.read_mask(save(tmp_path / "b.png", GREY > 99), LIMIT)
    assert (mask.bits, mask.palette, mask.lossy) == (1, None, False)
    assert images.read_mask(save(tmp_path / "x.jpg", GREY), LIMIT).lossy
    mask = images.read_mask(save(tmp_path / "c.png", COLOUR), LIMIT)
    np.testing.assert_array_equal(mask.values, COLOUR)


def test_a_mask_that_is_in_part_transparent_is_refused(tmp_path):
    alpha = np.dstack([GREY, np.full_like(GREY, 255)])
    np.testing.assert_array_equal(_mask_values(save(tmp_path / "x.png", alpha)), GREY)
    alpha[0, 0, 1] = 0
    assert refusal(images.read_mask, save(tmp_path / "x.png", alpha), LIMIT) == (
        "X is in part transparent; a mask has one class value a pixel: save it without an alpha "
        "channel."
    )
