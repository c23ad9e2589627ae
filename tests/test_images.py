"""Tests of reading pictures and arrays."""

import importlib.util
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from trainer.data import images
from trainer.errors import InputError

LIMIT = 10**6
GREY = np.array([[0, 50, 100], [150, 200, 255]], np.uint8)
COLOUR = np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 10


def _source(path, row=None):
    return images.Source("x", str(path), row, "X")


def _save(path, values, **options):
    Image.fromarray(values).save(path, **options)
    return _source(path)


def _png16(values):
    """Returns a 16-bit PNG of [H, W, C], which Pillow cannot write."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width, channels = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        ]
    )


def _message(function, *arguments):
    with pytest.raises(InputError) as error:
        function(*arguments)
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_lossless_pictures_are_read_as_they_were_saved(tmp_path, suffix):
    for values in (GREY, COLOUR):
        pixels = images.read_image(_save(tmp_path / f"x.{suffix}", values), LIMIT)
        np.testing.assert_array_equal(pixels.values.reshape(values.shape), values)
        assert pixels.values.dtype == np.uint8
        assert not pixels.alpha


def test_a_jpeg_is_read(tmp_path):
    values = np.full((16, 16, 3), 90, np.uint8)
    pixels = images.read_image(_save(tmp_path / "x.jpg", values), LIMIT)
    np.testing.assert_allclose(pixels.values, values, atol=3)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_stay_sixteen_bits(tmp_path, suffix):
    values = np.array([[0, 1, 258], [4095, 65534, 65535]], np.uint16)
    pixels = images.read_image(_save(tmp_path / f"x.{suffix}", values), LIMIT)
    assert pixels.values.dtype == np.uint16
    np.testing.assert_array_equal(pixels.values[..., 0], values)


@pytest.mark.parametrize(("channels", "alpha"), [(2, True), (3, False), (4, True)])
def test_sixteen_bit_colours_and_alpha_are_not_cut_to_eight_bits(tmp_path, channels, alpha):
    values = np.random.default_rng(0).integers(0, 65536, (4, 5, channels)).astype(np.uint16)
    (tmp_path / "x.png").write_bytes(_png16(values))
    pixels = images.read_image(_source(tmp_path / "x.png"), LIMIT)
    np.testing.assert_array_equal(pixels.values, values)
    assert pixels.alpha == alpha


def test_a_damaged_sixteen_bit_colour_png_is_named(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (4, 5, 3)).astype(np.uint16)
    (tmp_path / "x.png").write_bytes(_png16(values)[:60])
    message = _message(images.read_image, _source(tmp_path / "x.png"), LIMIT)
    assert message == "X cannot be read: its PNG data are damaged."


def test_a_sixteen_bit_colour_tiff_is_refused_rather_than_cut(tmp_path):
    data = np.zeros((2, 2, 3), "<u2").tobytes()
    entries = [(256, 4, 1, 2), (257, 4, 1, 2), (258, 3, 3, 32), (259, 3, 1, 1), (262, 3, 1, 2)]
    entries += [(273, 4, 1, 8), (277, 3, 1, 3), (278, 4, 1, 2), (279, 4, 1, 24)]
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", *entry) for entry in entries) + b"\0" * 4
    bits = struct.pack("<3H", 16, 16, 16)
    content = b"II*\0" + struct.pack("<I", 38) + data + bits + directory
    (tmp_path / "x.tif").write_bytes(content)
    assert _message(images.read_image, _source(tmp_path / "x.tif"), LIMIT) == (
        "X is a 16-bit colour TIFF, of which Pillow reads 8 bits; save it as a 16-bit PNG or a "
        ".npy array."
    )


def test_a_float_tiff_is_read_as_float32(tmp_path):
    values = np.array([[0.5, -1e6]], np.float32)
    pixels = images.read_image(_save(tmp_path / "x.tif", values), LIMIT)
    np.testing.assert_array_equal(pixels.values, values[..., None])


def test_alpha_grey_palette_and_one_bit_pictures_are_understood(tmp_path):
    alpha = np.dstack([GREY, np.full_like(GREY, 255)])
    pixels = images.read_image(_save(tmp_path / "a.png", alpha), LIMIT)
    assert (pixels.alpha, pixels.is_opaque, pixels.is_grey) == (True, True, True)
    alpha[0, 0, 1] = 254
    assert not images.read_image(_save(tmp_path / "a.png", alpha), LIMIT).is_opaque

    Image.fromarray(COLOUR).quantize(6).save(tmp_path / "p.png")
    pixels = images.read_image(_source(tmp_path / "p.png"), LIMIT)
    assert (pixels.values.shape, pixels.is_grey) == ((2, 3, 3), False)

    pixels = images.read_image(_save(tmp_path / "b.png", GREY > 99), LIMIT)
    assert pixels.values[..., 0].tolist() == [[0, 0, 255], [255, 255, 255]]


def test_a_grey_image_in_rgb_is_grey(tmp_path):
    pixels = images.read_image(_save(tmp_path / "x.png", np.dstack([GREY] * 3)), LIMIT)
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
def test_masks_in_arrays_are_integers(tmp_path, values, expected):
    np.save(tmp_path / "x.npy", values)
    mask = images.read_mask(_source(tmp_path / "x.npy"), LIMIT)
    assert mask.tolist() == expected
    assert mask.dtype.kind in "iu"


def test_masks_in_pictures_keep_their_values(tmp_path):
    for values in (GREY, np.dstack([GREY] * 3), np.dstack([GREY, np.full_like(GREY, 255)])):
        mask = images.read_mask(_save(tmp_path / "x.png", values), LIMIT)
        np.testing.assert_array_equal(mask, GREY)
    palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    palette.save(tmp_path / "p.png")
    assert Image.open(tmp_path / "p.png").mode == "P"
    assert images.read_mask(_source(tmp_path / "p.png"), LIMIT).tolist() == [[0, 1, 2]]
    assert images.read_mask(_save(tmp_path / "b.png", GREY > 99), LIMIT).max() == 1
    sixteen = _save(tmp_path / "s.png", GREY.astype(np.uint16) * 10)
    assert images.read_mask(sixteen, LIMIT).max() == 2550


def test_what_is_no_mask_is_refused(tmp_path):
    assert _message(images.read_mask, _save(tmp_path / "x.png", COLOUR), LIMIT) == (
        "X is in colour; a mask has one class value a pixel: save it as a grey or palette PNG."
    )
    assert _message(images.read_mask, _save(tmp_path / "x.jpg", GREY), LIMIT) == (
        "X is a JPEG, whose compression changes class values; save masks as PNG."
    )
    np.save(tmp_path / "x.npy", np.array([[0.5]]))
    assert _message(images.read_mask, _source(tmp_path / "x.npy"), LIMIT) == (
        "X has values that are not whole numbers; a mask has class values."
    )


def test_truncated_and_foreign_files_are_unreadable(tmp_path):
    source = _save(tmp_path / "x.png", np.random.default_rng(0).integers(0, 256, (9, 9), np.uint8))
    data = (tmp_path / "x.png").read_bytes()
    for content in (data[: len(data) // 2], b"GIF89a", b""):
        (tmp_path / "x.png").write_bytes(content)
        for read in (images.read_image, images.read_mask):
            with pytest.raises(images.UnreadableError, match=r"^X cannot be read: .*\.$"):
                read(source, LIMIT)


def test_a_truncated_array_is_unreadable(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((50, 50)))
    data = (tmp_path / "x.npy").read_bytes()
    for length in (0, 5, 20, 200):
        (tmp_path / "x.npy").write_bytes(data[:length])
        with pytest.raises(images.UnreadableError, match="^X cannot be read: "):
            images.read_image(_source(tmp_path / "x.npy"), LIMIT)


def test_a_decompression_bomb_is_not_decoded(tmp_path):
    Image.new("1", (30000, 20000)).save(tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size < 100_000
    assert _message(images.read_image, _source(tmp_path / "x.png"), 2**28) == (
        "X has 20000×30000 = 600000000 pixels, more than --max_pixels=268435456; if it is what it "
        "should be, raise --max_pixels, else remove it."
    )


def test_pillows_own_limit_does_not_interfere(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2)
    source = _save(tmp_path / "x.png", GREY)
    assert images.read_image(source, 6).values.shape == (2, 3, 1)
    assert Image.MAX_IMAGE_PIXELS == 2
    assert "more than --max_pixels=5;" in _message(images.read_image, source, 5)


def _save_pages(path, pages, **options):
    first, *others = (Image.fromarray(page) for page in pages)
    first.save(path, "TIFF", save_all=True, append_images=others, **options)


@pytest.mark.parametrize("compression", [None, "tiff_deflate"])
def test_each_page_of_a_tiff_is_an_image_with_all_its_bits(tmp_path, compression):
    pages = [np.array([[0, 4095], [65535, k]], np.uint16) for k in range(3)]
    _save_pages(tmp_path / "x.tif", pages, compression=compression)
    found = images.find(str(tmp_path), "images", "")
    assert [source.name for source in found] == ["x_p000", "x_p001", "x_p002"]
    assert found[2].label == f"{tmp_path}/x.tif[2]"
    for source, page in zip(found, pages, strict=True):
        values = images.read_image(source, LIMIT).values
        assert values.dtype == np.uint16
        np.testing.assert_array_equal(values[..., 0], page)


def test_pages_of_a_mask_keep_their_values(tmp_path):
    _save_pages(tmp_path / "x.tif", [GREY > 99, GREY > 199])
    found = images.find(str(tmp_path), "masks", "")
    assert [images.read_mask(source, LIMIT).sum() for source in found] == [4, 2]


def test_pages_may_differ_in_size_and_each_is_held_to_the_limit(tmp_path):
    _save_pages(tmp_path / "x.tif", [GREY, np.zeros((9, 9), np.uint8)])
    small, large = images.find(str(tmp_path), "images", "")
    assert images.read_image(small, 80).values.shape == (2, 3, 1)
    assert "x.tif[1] has 9×9 = 81 pixels, more than" in _message(images.read_image, large, 80)


def test_a_tiff_whose_pages_cannot_be_counted_is_one_unreadable_image(tmp_path):
    _save_pages(tmp_path / "x.tif", [np.zeros((20, 20), np.uint8)] * 3)
    (tmp_path / "x.tif").write_bytes((tmp_path / "x.tif").read_bytes()[:700])
    (source,) = images.find(str(tmp_path), "images", "")
    assert (source.name, source.is_uncounted) == ("x", True)
    with pytest.raises(images.UnreadableError, match="x.tif cannot be read: "):
        images.read_image(source, LIMIT)


def test_a_tiff_of_several_pages_under_another_name_is_refused(tmp_path):
    _save_pages(tmp_path / "x.png", [GREY] * 3)
    assert _message(images.read_image, _source(tmp_path / "x.png"), LIMIT) == (
        "X is a TIFF of 3 pages; give it a name that ends in .tif, and each page is an image."
    )


@pytest.mark.parametrize(
    ("name", "stem", "page"),
    [("x_p012", "x", "_p012"), ("x_p1000", "x", "_p1000"), ("x_p01", "x_p01", ""), ("x", "x", "")],
)
def test_names_of_pages_are_told_apart(name, stem, page):
    assert images.split_page(name) == (stem, page)


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_io") is not None, reason="tensorflow-io is here"
)
def test_dicom_without_tensorflow_io_says_what_to_install(tmp_path):
    (tmp_path / "x.dcm").write_bytes(b"")
    assert _message(images.find, str(tmp_path), "images", "") == (
        f"{tmp_path}/x.dcm needs tensorflow-io, which works with TensorFlow 2.17 only; install "
        'both in an environment of their own: pip install ".[io]".'
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_that_are_not_finite_are_refused(tmp_path, value):
    np.save(tmp_path / "x.npy", np.array([[1.0, value]]))
    assert _message(images.read_image, _source(tmp_path / "x.npy"), LIMIT) == (
        "X has pixels that are not finite (NaN or infinite); replace them, and mark them in the "
        "mask with --ignore."
    )


def test_integers_that_float32_cannot_hold_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[1, 2**24 + 1]]))
    assert _message(images.read_image, _source(tmp_path / "x.npy"), LIMIT) == (
        "X has the value 16777217, beyond 16777216, the last up to which float32 holds every "
        "integer; scale the image."
    )


@pytest.mark.parametrize("dtype", [">u2", "<u2"])
def test_arrays_of_either_byte_order_are_read(tmp_path, dtype):
    np.save(tmp_path / "x.npy", np.array([[1, 258]], dtype))
    values = images.read_image(_source(tmp_path / "x.npy"), LIMIT).values
    assert values.dtype == np.uint16
    assert values[..., 0].tolist() == [[1, 258]]


def test_a_folder_gives_its_images_by_stem(tmp_path):
    for name in ("b.png", "a.PNG", "c.jpg"):
        _save(tmp_path / name, GREY, format="PNG")
    for name in ("notes.txt", "._a.png", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"")
    found = images.find(str(tmp_path), "images", "")
    assert [source.name for source in found] == ["a", "b", "c"]
    assert [source.name for source in images.find(f"{tmp_path}/*.jpg", "images", "")] == ["c"]


def test_an_array_gives_its_rows(tmp_path):
    rows = np.arange(24, dtype=np.uint8).reshape(3, 2, 4)
    np.save(tmp_path / "x.npy", rows)
    np.savez_compressed(tmp_path / "x.npz", rows)
    np.savez(tmp_path / "two.npz", images=rows, masks=rows + 100)
    for name, flag, first in (
        ("x.npy", "images", 0),
        ("x.npz", "masks", 0),
        ("two.npz", "masks", 100),
    ):
        found = images.find(str(tmp_path / name), flag, str(tmp_path))
        assert [source.name for source in found] == ["00000", "00001", "00002"]
        assert found[2].label == f"{tmp_path / name}[2]"
        values = images.read_image(found[0], LIMIT).values
        np.testing.assert_array_equal(values[..., 0], rows[0] + first)


class _Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_pickled_objects_are_never_unpickled(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    objects = np.array([_Trap(tmp_path / "sprung"), 1], dtype=object)
    (np.save if suffix == "npy" else np.savez)(path, objects)
    assert _message(images.find, str(path), "images", str(tmp_path)) == (
        f"{path} holds pickled Python objects, which could run any code and are never unpickled; "
        "save numbers: numpy.save(path, numpy.stack(images))."
    )
    assert not (tmp_path / "sprung").exists()


def test_arrays_that_are_no_images_are_refused(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((4, 4)))
    assert _message(images.find, str(path), "masks", "") == (
        f"--masks={path} has shape (4, 4); expected N×H×W or N×H×W×C, images first."
    )
    np.save(path, np.zeros((2, 2), np.complex64))
    assert _message(images.find, str(path), "masks", "") == (
        f"{path} holds complex64; expected integers, floats or booleans."
    )
    np.save(path, np.zeros(5))
    assert _message(images.read_image, _source(path), LIMIT) == (
        "X has shape (5,); expected H×W or H×W×C."
    )


def test_an_npz_must_say_which_array_is_meant(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.zeros(1), b=np.zeros(1))
    assert _message(images.find, str(path), "images", str(tmp_path)) == (
        f"{path} holds the arrays a, b; name the one to use 'images'."
    )
    path.write_bytes(b"PK")
    assert _message(images.find, str(path), "images", str(tmp_path)) == (
        f"{path} cannot be read: File is not a zip file."
    )


def test_places_without_images_are_named(tmp_path):
    assert _message(images.find, f"{tmp_path}/none", "masks", "") == (
        f"--masks={tmp_path}/none does not exist; name a folder, a quoted glob, or a .npy or .npz "
        "file."
    )
    assert _message(images.find, str(tmp_path), "images", "") == (
        f"--images={tmp_path} holds no images (.png, .jpg, .jpeg, .bmp, .tif, .tiff, .dcm, .npy)."
    )
    assert _message(images.find, "s3://a/b", "images", "").startswith("s3://a/b/* needs tensorfl")


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
    assert _message(images.convert, five, 3, "uint8", "X") == (
        "X has 5 channels, which cannot become 3; give images of one kind, or another --channels."
    )
    wide = images.Pixels(np.zeros((1, 1, 1), np.uint16), False)
    assert _message(images.convert, wide, 1, "uint8", "X") == (
        "X has uint16 pixels and the data are uint8; no rule makes them comparable: convert the "
        "image."
    )
