"""Tests of telling damage from all else that may go wrong while a file is read."""

import contextlib
import errno

import numpy as np
import pytest
from PIL import Image

from tests.pictures import GREY, LIMIT, refusal, save, source_of
from trainer.data.formats import images, pictures, reading
from trainer.errors import InputError


@pytest.mark.parametrize(
    "number",
    [
        errno.EMFILE,
        errno.EIO,
        errno.ESTALE,
        errno.ETIMEDOUT,
        errno.EACCES,
        errno.ENOENT,
        errno.EINVAL,
    ],
)
@pytest.mark.parametrize("suffix", ["png", "tif", "npy", "jpg"])
def test_what_the_system_refuses_is_no_damage(tmp_path, monkeypatch, number, suffix):
    path = tmp_path / f"x.{suffix}"
    if suffix == "npy":
        np.save(path, GREY)
    else:
        save(path, GREY)

    def fail(*arguments, **options):
        raise OSError(number, "the reason")

    monkeypatch.setattr("builtins.open", fail)
    with pytest.raises(InputError) as stop:
        images.read_image(source_of(path), LIMIT)
    assert not isinstance(stop.value, reading.UnreadableError)
    assert str(stop.value) == (
        "X cannot be read now: the reason. The image itself may be fine: check the disk, the "
        "network and the limits of this machine, then start again."
    )


def test_a_full_disk_stays_what_it_is():
    with pytest.raises(OSError, match="full") as stop, reading.translate_errors("X"):
        raise OSError(errno.ENOSPC, "full")
    assert stop.value.errno == errno.ENOSPC


@pytest.mark.parametrize("kind", [TypeError, IndexError, KeyError, ValueError, AttributeError])
def test_a_defect_of_this_program_is_no_damage(tmp_path, monkeypatch, kind):
    def fail(*arguments):
        raise kind("a defect")

    monkeypatch.setattr(pictures, "_orientation", fail)
    with pytest.raises(kind, match="a defect"):
        images.read_image(save(tmp_path / "x.png", GREY), LIMIT)


def test_too_little_memory_is_no_damage():
    def decode():
        with reading.translate_errors("X"):
            raise MemoryError

    assert refusal(decode) == (
        "X does not fit into memory; use fewer --workers, or a smaller --max_pixels."
    )


def test_python_errors_within_a_decoder_are_damage(tmp_path, monkeypatch):
    decoder = {"__name__": "PIL.a_decoder"}
    exec("def fail(picture):\n    return [][0]", decoder)
    monkeypatch.setattr(pictures, "_orientation", decoder["fail"])
    with pytest.raises(reading.UnreadableError, match="^X cannot be read: list index out of range"):
        images.read_image(save(tmp_path / "x.png", GREY), LIMIT)


@pytest.mark.parametrize(
    ("suffix", "compression"),
    [
        *(("png", ""), ("jpg", ""), ("gif", ""), ("webp", ""), ("bmp", ""), ("tif", "")),
        *(("tif", "tiff_lzw"), ("tif", "tiff_deflate"), ("tif", "jpeg"), ("tif", "group4")),
    ],
)
def test_any_damage_of_bytes_is_named_or_harmless(tmp_path, suffix, compression):
    values = np.random.default_rng(0).integers(0, 255, (20, 30), np.uint8)
    picture = Image.fromarray(values > 99 if compression == "group4" else values)
    picture.save(tmp_path / f"x.{suffix}", **({"compression": compression} if compression else {}))
    whole = (tmp_path / f"x.{suffix}").read_bytes()
    generator = np.random.default_rng(1)
    for _ in range(100):
        data = bytearray(whole)
        for place in generator.integers(0, len(data), 3):
            data[place] = generator.integers(256)
        if generator.random() < 0.3:
            del data[generator.integers(len(data)) :]
        (tmp_path / f"x.{suffix}").write_bytes(data)
        for read in (images.read_image, images.read_mask):
            with contextlib.suppress(InputError):  # any other error is one of ours
                read(source_of(tmp_path / f"x.{suffix}"), LIMIT)


KINDS = {
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC, a format that is not read; convert it to PNG"),
    "AVIF": (b"\0\0\0\x18ftypavif\0\0\0\0", "AVIF, a format that is not read"),
    "SVG": (b'<?xml version="1.0"?>\n<svg width="9"/>', "SVG, a format that is not read"),
    "PDF": (b"%PDF-1.7", "PDF, a document; save its pages as PNG"),
    "MATLAB": (b"MATLAB 5.0 MAT-file", "MATLAB or HDF5, save its arrays as .npy"),
    "HDF5": (b"\x89HDF\r\n\x1a\n", "MATLAB or HDF5, save its arrays as .npy"),
    "NumPy": (b"\x93NUMPY\1\0", "a NumPy array, name it .npy"),
    "DICOM": (bytes(128) + b"DICM", "DICOM, name it .dcm"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS"),
    "HTML": (b"<!DOCTYPE html><html>404", "an HTML page, most likely a download that failed"),
    "gzip": (b"\x1f\x8b\x08", "compressed with gzip, unpack it"),
    "text": (b"not here", "text"),
    "zeros": (bytes(700), "zeros only, most likely a copy that failed"),
    "none": (b"", "empty (0 bytes)"),
    "unknown": (b"\1\2\3\4\5", "of an unknown kind (it begins 01 02 03 04 05)"),
    "PNG": (b"\x89PNG\r\n\x1a\n\0", "PNG, and damaged where it begins"),
}


def test_a_file_is_not_told_to_take_the_name_that_it_has(tmp_path):
    (tmp_path / "x.DCM").write_bytes(bytes(128) + b"DICM")
    assert reading.kind_of(str(tmp_path / "x.DCM")) == "DICOM"


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_no_picture_is_said_to_be_what_it_is(tmp_path, kind):
    content, said = KINDS[kind]
    (tmp_path / "x.png").write_bytes(content)
    for read in (images.read_image, images.read_mask):
        with pytest.raises(reading.UnreadableError) as stop:
            read(source_of(tmp_path / "x.png"), LIMIT)
        assert str(stop.value).startswith(f"X cannot be read: it is {said}")
