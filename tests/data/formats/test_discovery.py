"""Tests of finding images, and of what they are called."""

import errno
import os
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.pictures import GREY, LIMIT, refusal, save, save_pages
from trainer.data.formats import discovery, images, reading, stacks
from trainer.errors import one_line


def test_a_folder_gives_its_images_by_stem(tmp_path):
    for name in ("b.png", "a.PNG", "c.jpg"):
        save(tmp_path / name, GREY, format="PNG")
    for name in ("notes.txt", "._a.png", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"")
    found = discovery.find(str(tmp_path), "images", "").sources
    assert [source.name for source in found] == ["a", "b", "c"]
    assert [
        source.name for source in discovery.find(f"{tmp_path}/*.jpg", "images", "").sources
    ] == ["c"]


def test_a_folder_without_images_gives_those_of_its_folders(tmp_path):
    for name in ("p1/a.png", "p2/s1/a.png", "p2/a.b.png", "p2/.hidden/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        save(tmp_path / name, GREY)
    (tmp_path / "p1/notes.txt").write_text("")
    (tmp_path / "p2/back").symlink_to(tmp_path / "p2")
    found = discovery.find(str(tmp_path), "images", "")
    assert [source.name for source in found.sources] == ["p1/a", "p2/a.b", "p2/s1/a"]
    assert found.left_out == {".txt files": 1, "hidden files": 1}
    save(tmp_path / "top.png", GREY)
    found = discovery.find(str(tmp_path), "images", "")
    assert [source.name for source in found.sources] == ["top"]
    assert found.left_out == {"folders": 2}


def test_pages_of_files_in_folders_are_called_by_both(tmp_path):
    for name in ("p1", "p2"):
        (tmp_path / name).mkdir()
        save_pages(tmp_path / name / "x.tif", [GREY, GREY])
    for where in (tmp_path, f"{tmp_path}/*/x.tif"):
        names = [source.name for source in discovery.find(str(where), "images", "").sources]
        stem = "/x" if where == tmp_path else ""
        assert names == [f"p{k}{stem}_p00{page}" for k in (1, 2) for page in (0, 1)]


def test_places_without_images_are_named(tmp_path):
    assert refusal(discovery.find, f"{tmp_path}/none", "masks", "") == (
        f"--masks={tmp_path}/none does not exist; name a folder, a quoted glob, or a .npy or .npz "
        "file."
    )
    message = refusal(discovery.find, f"{tmp_path}/*.png", "images", "")
    assert message.startswith(
        f"--images={tmp_path}/*.png matches no file where files may be listed"
    )
    assert refusal(discovery.find, str(tmp_path), "images", "") == (
        f"--images={tmp_path} holds no images (.png, .jpg, .jpeg, .jfif, .bmp, .gif, .webp, .tif, "
        ".tiff, .dcm, .npy)."
    )
    assert refusal(discovery.find, "s3://a/b", "images", "").startswith("s3://a/b/* needs tensorfl")


def test_labels_show_what_cannot_be_printed(tmp_path):
    save(tmp_path / "a\nb\u2028ü.png", GREY)
    (source,) = discovery.find(str(tmp_path), "images", "").sources
    assert source.label == f"{tmp_path}/a\\nb\\u2028ü.png"
    assert source.name == "a\nb\u2028ü"
    assert one_line(os.fsdecode(b"a\xffb")) == r"a\xffb"


def test_dicom_without_pydicom_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    (tmp_path / "x.dcm").write_bytes(b"")
    assert refusal(discovery.find, str(tmp_path), "images", "") == (
        f'{tmp_path}/x.dcm needs pydicom; pip install ".[medical]".'
    )


@pytest.mark.parametrize("compression", [None, "tiff_deflate"])
def test_each_page_of_a_tiff_is_an_image_with_all_its_bits(tmp_path, compression):
    pages = [np.array([[0, 4095], [65535, k]], np.uint16) for k in range(3)]
    save_pages(tmp_path / "x.tif", pages, compression=compression)
    found = discovery.find(str(tmp_path), "images", "").sources
    assert [source.name for source in found] == ["x_p000", "x_p001", "x_p002"]
    assert found[2].label == f"{tmp_path}/x.tif[2]"
    for source, page in zip(found, pages, strict=True):
        values = images.read_image(source, LIMIT).values
        assert values.dtype == np.uint16
        np.testing.assert_array_equal(values[..., 0], page)


def test_pages_of_a_mask_keep_their_values(tmp_path):
    save_pages(tmp_path / "x.tif", [GREY > 99, GREY > 199])
    found = discovery.find(str(tmp_path), "masks", "").sources
    assert [images.read_mask(source, LIMIT).values.sum() for source in found] == [4, 2]


def test_pages_may_differ_in_size_and_each_is_held_to_the_limit(tmp_path):
    save_pages(tmp_path / "x.tif", [GREY, np.zeros((9, 9), np.uint8)])
    small, large = discovery.find(str(tmp_path), "images", "").sources
    assert images.read_image(small, 80).values.shape == (2, 3, 1)
    assert "x.tif[1] has 9×9 = 81 pixels, more than" in refusal(images.read_image, large, 80)


def test_a_tiff_whose_pages_cannot_be_counted_is_one_unreadable_image(tmp_path):
    save_pages(tmp_path / "x.tif", [np.zeros((20, 20), np.uint8)] * 3)
    (tmp_path / "x.tif").write_bytes((tmp_path / "x.tif").read_bytes()[:700])
    (source,) = discovery.find(str(tmp_path), "images", "").sources
    assert (source.name, source.is_uncounted) == ("x", True)
    with pytest.raises(reading.UnreadableError, match="x.tif cannot be read: "):
        images.read_image(source, LIMIT)


@pytest.mark.parametrize(
    ("name", "stem", "page"),
    [("x_p012", "x", "_p012"), ("x_p1000", "x", "_p1000"), ("x_p01", "x_p01", ""), ("x", "x", "")],
)
def test_names_of_pages_are_told_apart(name, stem, page):
    assert discovery.split_page(name) == (stem, page)


def test_what_else_is_there_is_counted_and_said(tmp_path, caplog):
    save(tmp_path / "a.png", GREY)
    for name, content in {
        "b.heic": b"\0\0\0\x18ftypheic",
        "c.HEIC": b"\0\0\0\x18ftypheic",
        "notes.txt": b"to do",
        "LICENSE": b"free",
        "._a.png": b"",
        "Thumbs.db": b"",
    }.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "more").mkdir()
    (tmp_path / "gone.png").symlink_to("nowhere")
    with caplog.at_level("WARNING"):
        found = discovery.find(str(tmp_path), "images", "")
    assert [source.name for source in found.sources] == ["a"]
    assert found.left_out == {
        ".heic files": 2,
        ".txt files": 1,
        "files without a suffix": 1,
        "hidden files": 2,
        "folders": 1,
        "broken links": 1,
    }
    said = [record.getMessage().replace(str(tmp_path), "DIR") for record in caplog.records]
    assert sorted(said) == [
        "Left out of --images: .heic files: 2 (DIR/b.heic is HEIC, a format that is not read; "
        "convert it to PNG or TIFF).",
        "Left out of --images: .txt files: 1 (DIR/notes.txt is text).",
        "Left out of --images: broken links: 1 (DIR/gone.png).",
        "Left out of --images: files without a suffix: 1 (DIR/LICENSE is text).",
        "Left out of --images: folders: 1 (DIR/more).",
    ]


def test_a_folder_of_other_kinds_says_which(tmp_path):
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.7")
    assert refusal(discovery.find, str(tmp_path), "masks", "").endswith(
        f" It has .pdf files: 1 ({tmp_path}/a.pdf is PDF, a document; save its pages as PNG)."
    )


def test_too_many_open_files_are_no_damage_of_a_tiff(tmp_path, monkeypatch):
    save(tmp_path / "x.tif", GREY)

    def fail(*arguments, **options):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("builtins.open", fail)
    assert refusal(discovery.find, str(tmp_path / "x.tif"), "images", "").startswith(
        f"{tmp_path}/x.tif cannot be read now: Too many open files."
    )


NOISE = np.random.default_rng(0).integers(0, 256, (6, 40, 48, 3), np.uint8)
PLAIN = {"metadata": None, "photometric": "minisblack"}
RGB = {"metadata": None, "photometric": "rgb"}
STACKS = {
    "plain": (NOISE[..., 0], PLAIN),
    "big-endian": (NOISE[..., 0], {**PLAIN, "byteorder": ">"}),
    "BigTIFF": (NOISE[..., 0], {**PLAIN, "bigtiff": True}),
    "16 bits": (NOISE[..., 0] * np.uint16(200), {**PLAIN, "compression": "zlib"}),
    "white is zero": (NOISE[..., 0], {**PLAIN, "photometric": "miniswhite"}),
    "strips": (NOISE, {**RGB, "rowsperstrip": 8, "compression": "lzw", "predictor": True}),
    "tiles": (NOISE, {**RGB, "tile": (16, 16), "compression": "packbits"}),
    "planes": (np.moveaxis(NOISE, 3, 1), {**RGB, "planarconfig": "separate"}),
    "JPEG": (NOISE, {**RGB, "tile": (16, 16), "compression": "jpeg"}),
    "palette": (
        NOISE[..., 0],
        {
            "metadata": None,
            "photometric": "palette",
            "colormap": np.arange(768, dtype=np.uint16).reshape(3, 256) * 85,
        },
    ),
    "sideways": (NOISE, {**RGB, "extratags": [(274, 3, 1, 6, True)]}),
    "shaped": (NOISE, {"photometric": "rgb"}),
    "ImageJ": (NOISE.transpose(0, 3, 1, 2), {"imagej": True, "metadata": {"axes": "ZCYX"}}),
    "OME": (
        NOISE.transpose(3, 0, 1, 2),
        {"ome": True, "photometric": "minisblack", "metadata": {"axes": "CZYX"}},
    ),
}
MODES = {
    "1": "group4",
    "L": "tiff_lzw",
    "P": "tiff_adobe_deflate",
    "RGBA": "packbits",
    "CMYK": "tiff_lzw",
    "YCbCr": None,
}


def _write(path, kind):
    if kind in MODES:
        first, *others = (Image.fromarray(page).convert(kind) for page in NOISE)
        first.save(path, save_all=True, append_images=others, compression=MODES[kind])
        return
    values, options = STACKS[kind]
    options = dict(options)
    layout = {name: options.pop(name, False) for name in ("bigtiff", "imagej", "ome")}
    byteorder = options.pop("byteorder", None)
    with tifffile.TiffWriter(path, byteorder=byteorder, **layout) as writer:
        for page in [values] if "metadata" not in options or any(layout.values()) else values:
            writer.write(page, **options)


@pytest.mark.parametrize("kind", [*STACKS, *MODES])
def test_an_image_of_a_tiff_in_a_store_is_copied_without_the_others(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(stacks, "GAP", 0)
    path = tmp_path / "in/x.tif"
    path.parent.mkdir()
    _write(path, kind)
    expected = discovery.find(str(path.parent), "images", "").sources
    found = discovery.with_pages(discovery.find(f"file://{path.parent}", "images", "")).sources
    assert [source.name for source in found] == [f"x_p00{k}" for k in range(6)]
    for k, source in enumerate(found):
        copy = discovery.local_copy(source, str(tmp_path / f"{k}"))
        pixels, others = (images.read_image(one, LIMIT) for one in (copy, expected[k]))
        np.testing.assert_array_equal(pixels.values, others.values)
        assert (pixels.alpha, pixels.extra) == (others.alpha, others.extra)
        copied = sum(end - first for first, end in source.planes.ranges)
        assert copied < path.stat().st_size / 3
        if kind not in ("CMYK", "YCbCr", "RGBA"):
            masks = [images.read_mask(one, LIMIT) for one in (copy, expected[k])]
            np.testing.assert_array_equal(masks[0].values, masks[1].values)


def test_damage_of_an_image_of_a_tiff_in_a_store_is_told_as_on_a_disk(tmp_path):
    path = tmp_path / "in/x.tif"
    path.parent.mkdir()
    with tifffile.TiffWriter(path) as writer:
        for page in NOISE[..., 0]:
            writer.write(page, extratags=[(65010, 12, 9, np.ones(9), True)], **PLAIN)
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[1].tags["StripOffsets"].overwrite(10**6)  # beyond the end
        file.pages[2].tags["StripByteCounts"].overwrite(10**8)
        file.pages[3].tags["StripOffsets"].overwrite(0)  # the header of the file
        file.filehandle.seek(file.pages[4].tags[65010].offset + 8)
        file.filehandle.write(b"\xff" * 4)  # an entry that is left out, the last of its header
    local = discovery.find(str(path.parent), "images", "").sources
    found = discovery.with_pages(discovery.find(f"file://{path.parent}", "images", "")).sources
    copies = [discovery.local_copy(one, str(tmp_path / f"{k}")) for k, one in enumerate(found)]
    for k, (copy, one) in enumerate(zip(copies, local, strict=True)):
        if k in (1, 2):
            refused = refusal(images.read_image, copy, LIMIT)
            assert refused == f"file://{refusal(images.read_image, one, LIMIT)}"
            assert refused == f"file://{path}[{k}] cannot be read: the file ends early."
            continue
        values = [images.read_image(each, LIMIT).values for each in (copy, one)]
        np.testing.assert_array_equal(values[0], values[1])
