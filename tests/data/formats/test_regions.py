"""Images that are read by region: the same pixels, in less memory."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests import rounding
from trainer.data.formats import discovery, images, pictures, reading, regions
from trainer.data.input import normalization
from trainer.errors import InputError


@pytest.fixture(autouse=True)
def _small_is_large(monkeypatch):
    """Takes images of more than 100 pixels for large ones."""
    monkeypatch.setattr(regions, "WHOLE_PIXELS", 100)
    monkeypatch.setattr(regions, "BAND_PIXELS", 500)


def noise(*shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, 255, shape).astype(dtype)


def source_of(path, row=None):
    return discovery.Source("x", str(path), row, str(path))


def whole(raster):
    return raster.read(0, raster.height)


TIFFS = {
    "grey tiles": (noise(70, 50), {"tile": (16, 32)}),
    "deflated strips": (noise(70, 50, 3), {"rowsperstrip": 8, "compression": "zlib"}),
    "16 bits": (noise(70, 50, dtype=np.uint16), {"rowsperstrip": 32}),
    "16-bit colours": (noise(70, 50, 3, dtype=np.uint16), {"tile": (16, 32)}),
    "float32": (noise(70, 50, dtype=np.float32), {"tile": (32, 16), "compression": "zlib"}),
    "one strip": (noise(70, 50), {}),
    "colour tiles with predictor": (
        noise(70, 50, 3),
        {"tile": (16, 16), "compression": "zlib", "predictor": True},
    ),
}


@pytest.mark.parametrize("kind", TIFFS)
def test_a_tiff_read_by_region_has_the_pixels_that_pillow_reads(tmp_path, kind):
    array, options = TIFFS[kind]
    photometric = "rgb" if array.ndim == 3 else "minisblack"
    tifffile.imwrite(tmp_path / "x.tif", array, photometric=photometric, **options)
    source = source_of(tmp_path / "x.tif")
    assert regions._open_tiff(source) is not None
    channels = 3 if array.ndim == 3 else 1
    raster = regions.open_raster(source, channels, array.dtype.name, 1)
    expected = images.read_image(source, 10**6).values
    np.testing.assert_array_equal(whole(raster), expected)
    np.testing.assert_array_equal(raster.read(13, 41), expected[13:41])
    np.testing.assert_array_equal(np.concatenate(list(raster.bands())), expected)


def test_planes_are_read_by_region(tmp_path):
    array = noise(3, 70, 50, dtype=np.uint16)
    tifffile.imwrite(
        tmp_path / "x.tif", array, photometric="rgb", planarconfig="separate", tile=(16, 32)
    )
    raster = regions.open_raster(source_of(tmp_path / "x.tif"), 3, "uint16", 1)
    np.testing.assert_array_equal(whole(raster), np.moveaxis(array, 0, 2))
    np.testing.assert_array_equal(raster.read(13, 41), np.moveaxis(array, 0, 2)[13:41])


def test_a_page_of_a_stack_is_read_by_region(tmp_path):
    pages = noise(3, 40, 20)
    tifffile.imwrite(tmp_path / "x.tif", pages, photometric="minisblack", tile=(16, 16))
    source = discovery.find(str(tmp_path), "images", "").sources[2]
    raster = regions.open_raster(source, 1, "uint8", 1)
    np.testing.assert_array_equal(whole(raster)[..., 0], pages[2])


@pytest.mark.parametrize("mode", ["1", "P", "CMYK", "RGBA"])
def test_other_kinds_of_tiff_are_the_same_by_region(tmp_path, mode):
    Image.fromarray(noise(40, 30, 3)).convert(mode).save(tmp_path / "x.tif")
    source = source_of(tmp_path / "x.tif")
    raster = regions.open_raster(source, 3, "uint8", 10**6)
    expected = images.convert(images.read_image(source, 10**6), 3, "uint8", "x")
    np.testing.assert_array_equal(whole(raster), expected)


def test_what_can_only_be_read_whole_obeys_max_pixels(tmp_path):
    Image.fromarray(noise(40, 30)).save(tmp_path / "x.png")
    with pytest.raises(InputError, match=r"has 40×30 = 1200 pixels, more than --max_pixels=1000"):
        regions.open_raster(source_of(tmp_path / "x.png"), 1, "uint8", 1000)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "bool", "int32"])
def test_an_array_is_read_by_region(tmp_path, dtype):
    array = (noise(50, 20) % 2 if dtype == "bool" else noise(50, 20)).astype(dtype)
    np.save(tmp_path / "x.npy", array)
    source = source_of(tmp_path / "x.npy")
    expected = images.read_image(source, 10**6).values
    raster = regions.open_raster(source, 1, expected.dtype.name, 1)
    np.testing.assert_array_equal(whole(raster), expected)
    np.testing.assert_array_equal(raster.read(7, 9), expected[7:9])


def test_a_tiff_that_ends_early_is_named(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", noise(80, 60), tile=(16, 16), photometric="minisblack")
    data = (tmp_path / "x.tif").read_bytes()
    (tmp_path / "x.tif").write_bytes(data[: len(data) * 2 // 3])
    raster = regions.open_raster(source_of(tmp_path / "x.tif"), 1, "uint8", 1)
    with pytest.raises(reading.UnreadableError, match="x.tif cannot be read: the file ends early"):
        whole(raster)


def test_colours_become_luminance_band_by_band_as_of_the_whole(tmp_path):
    np.save(tmp_path / "x.npy", noise(50, 20, 3))
    source = source_of(tmp_path / "x.npy")
    raster = regions.open_raster(source, 1, "uint8", 1)
    expected = images.convert(images.read_image(source, 10**6), 1, "uint8", "x")
    np.testing.assert_array_equal(np.concatenate(list(raster.bands())), expected)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_statistics_are_those_that_training_takes(dtype):
    array = noise(61, 47, 3).astype(dtype)
    array[..., 1] = 7  # does not vary
    if dtype == "uint16":
        array[..., 2] = 60000 + array[..., 2] % 2
    raster = regions.Raster(61, 47, lambda top, bottom: array[top:bottom])
    mean, std = regions.statistics(raster)
    offset, scale = normalization.NORMALIZATIONS["image"](array, (), ())
    np.testing.assert_allclose(mean, offset.numpy()[0, 0], rtol=rounding.tolerance(61 * 47))
    np.testing.assert_allclose(std, scale.numpy()[0, 0], rtol=rounding.tolerance(61 * 47))
    assert std[1] == 0
    np.testing.assert_allclose(std, array.std(axis=(0, 1), dtype=np.float64), rtol=1e-9)


RAMP = np.arange(15 * 9, dtype=np.uint8).reshape(15, 9)
COLOUR = np.arange(15 * 9 * 4, dtype=np.uint16).reshape(15, 9, 4)
ROTATED = 6  # what is stored as rows is shown as columns, from right to left


def _tiff(values, **options):
    return lambda path: tifffile.imwrite(path, values, metadata=None, **options)


def _picture(values, **options):
    def write(path):
        exif = Image.Exif()
        exif[pictures.ORIENTATION] = options.pop("orientation", 1)
        Image.fromarray(values).save(path, exif=exif, **options)

    return write


def _kinds():
    """Yields what to call a kind of file, its name, what writes it and its pixels [H, W, C]."""
    grey, colour = RAMP[..., None], COLOUR[..., :3].astype(np.uint8)
    turned = {"extratags": [(pictures.ORIENTATION, 3, 1, ROTATED, True)]}
    plain = {"photometric": "minisblack"}
    for order in "<>":
        for dtype in ("int8", "int16", "uint32", "int32", "int64", "float16", "float64", "float32"):
            values = RAMP.astype(dtype) - np.dtype(dtype).type(0 if dtype[0] == "u" else 20)
            has_predictor = dtype not in ("int64", "float16")
            for compression, predictor in (("zlib", False), ("lzw", has_predictor)):
                options = {"compression": compression, "predictor": predictor}
                write = _tiff(values, byteorder=order, **options, **plain)
                yield (
                    f"{order}{dtype} {compression}",
                    "x.tif",
                    write,
                    values[..., None].astype("f4"),
                )
    yield "bool TIFF", "x.tif", _tiff(RAMP % 2 == 1, **plain), grey % 2 * np.uint8(255)
    yield "TIFF, 0 white", "x.tif", _tiff(RAMP, photometric="miniswhite"), 255 - grey
    yield "float RGB", "x.tif", _tiff(colour.astype("f4"), photometric="rgb"), colour.astype("f4")
    yield "TIFF on its side", "x.tif", _tiff(RAMP, **plain, **turned), np.rot90(grey, -1)
    yield "TIFF named PNG", "x.png", _tiff(RAMP, **plain), grey
    for suffix, options in (("png", {}), ("webp", {"lossless": True})):
        values = colour if suffix == "webp" else RAMP
        expected = np.rot90(values.reshape(15, 9, -1), -1)
        yield (
            f"{suffix} on its side",
            f"x.{suffix}",
            _picture(values, orientation=ROTATED, **options),
            expected,
        )
    deep = RAMP.astype(np.uint16) * 200
    yield "16-bit PNG", "x.png", _picture(deep, orientation=ROTATED), np.rot90(deep, -1)[..., None]
    yield "PNG named TIFF", "x.tif", _picture(RAMP, format="PNG"), grey
    yield "PNG named JPEG", "x.jpg", _picture(RAMP, format="PNG"), grey
    yield "GIF", "x.gif", lambda path: Image.fromarray(RAMP).save(path), np.repeat(grey, 3, 2)
    for dtype in ("bool", "int8", "int64", "uint32", "float16", "float64"):
        values = (RAMP % 2).astype(dtype)
        expected = grey % 2 * np.uint8(255) if dtype == "bool" else (grey % 2).astype("f4")
        yield f"{dtype} array", "x.npy", lambda path, values=values: np.save(path, values), expected
        yield f"1×H×W {dtype}", "x.npy", lambda path, v=values: np.save(path, v[None]), expected


@pytest.mark.parametrize(
    ("name", "write", "expected"), [pytest.param(*row[1:], id=row[0]) for row in _kinds()]
)
def test_prepare_and_predict_read_the_pixels_that_were_written(tmp_path, name, write, expected):
    path = tmp_path / name
    write(path)
    (source,) = discovery.find(str(tmp_path), "images", "").sources
    pixels = images.read_image(source, 10**6)
    assert pixels.values.dtype == expected.dtype
    np.testing.assert_array_equal(pixels.values, expected)
    raster = regions.open_raster(source, expected.shape[2], expected.dtype.name, 10**6)
    np.testing.assert_array_equal(whole(raster), expected)
    np.testing.assert_array_equal(raster.read(3, 8), expected[3:8])


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_further_channels_are_kept_or_dropped_as_asked(tmp_path, planar):
    values = COLOUR if planar == "contig" else np.moveaxis(COLOUR, 2, 0)
    _tiff(values, photometric="rgb", extrasamples=["unspecified"], planarconfig=planar)(
        tmp_path / "x.tif"
    )
    source = source_of(tmp_path / "x.tif")
    for channels in (3, 4):
        pixels = images.read_image(source, 10**6)
        found = images.convert(pixels, channels, "uint16", "x")
        np.testing.assert_array_equal(found, COLOUR[..., :channels])
        raster = regions.open_raster(source, channels, "uint16", 1)
        np.testing.assert_array_equal(whole(raster), COLOUR[..., :channels])
