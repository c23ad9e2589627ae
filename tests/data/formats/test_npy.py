"""Tests of NumPy's files."""

import io
import os
import zipfile

import numpy as np
import pytest

from tests.pictures import LIMIT, refusal, source_of
from trainer.data.formats import discovery, images, npy, reading


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
        found = discovery.find(str(tmp_path / name), flag, str(tmp_path)).sources
        assert [source.name for source in found] == ["00000", "00001", "00002"]
        assert found[2].label == f"{tmp_path / name}[2]"
        values = images.read_image(found[0], LIMIT).values
        np.testing.assert_array_equal(values[..., 0], rows[0] + first)


@pytest.mark.parametrize("dtype", [">u2", "<u2"])
def test_arrays_of_either_byte_order_are_read(tmp_path, dtype):
    np.save(tmp_path / "x.npy", np.array([[1, 258]], dtype))
    values = images.read_image(source_of(tmp_path / "x.npy"), LIMIT).values
    assert values.dtype == np.uint16
    assert values[..., 0].tolist() == [[1, 258]]


def test_a_truncated_array_is_unreadable(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((50, 50)))
    data = (tmp_path / "x.npy").read_bytes()
    for length in (0, 5, 20, 200):
        (tmp_path / "x.npy").write_bytes(data[:length])
        with pytest.raises(reading.UnreadableError, match="^X cannot be read: "):
            images.read_image(source_of(tmp_path / "x.npy"), LIMIT)


class _Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_file_that_is_no_array_is_said_to_be_what_it_is(tmp_path):
    path = tmp_path / "x.npy"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(8))
    assert refusal(discovery.find, str(path), "images", str(tmp_path)) == (
        f"{path} cannot be read: it is PNG."
    )
    assert refusal(npy.map_image, str(path), None, "X") == "X cannot be read: it is PNG."


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_pickled_objects_are_never_unpickled(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    objects = np.array([_Trap(tmp_path / "sprung"), 1], dtype=object)
    (np.save if suffix == "npy" else np.savez)(path, objects)
    assert refusal(discovery.find, str(path), "images", str(tmp_path)) == (
        f"{path} holds pickled Python objects, which could run any code and are never unpickled; "
        "save numbers: numpy.save(path, numpy.stack(images))."
    )
    assert not (tmp_path / "sprung").exists()


def test_arrays_that_are_no_images_are_refused(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((4, 4)))
    assert refusal(discovery.find, str(path), "masks", "") == (
        f"--masks={path} has shape (4, 4); expected N×H×W or N×H×W×C, images first."
    )
    np.save(path, np.zeros((2, 2), np.complex64))
    assert refusal(discovery.find, str(path), "masks", "") == (
        f"{path} holds complex64; expected integers, floats or booleans."
    )
    np.save(path, np.zeros(5))
    assert refusal(images.read_image, source_of(path), LIMIT) == (
        "X has shape (5,); expected H×W or H×W×C."
    )


def test_an_npz_must_say_which_array_is_meant(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.zeros(1), b=np.zeros(1))
    assert refusal(discovery.find, str(path), "images", str(tmp_path)) == (
        f"{path} holds the arrays a, b; name the one to use 'images'."
    )
    path.write_bytes(b"PK")
    assert refusal(discovery.find, str(path), "images", str(tmp_path)) == (
        f"{path} cannot be read: File is not a zip file."
    )


def _header(*shape):
    """Returns the beginning of a `.npy` file of uint8."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    return file.getvalue()


@pytest.mark.parametrize("suffix", ["npy", "npz"])
@pytest.mark.parametrize(
    ("shape", "counted"),
    [
        ((3, 20000, 20000), "20000×20000 = 400000000 pixels, more than"),
        ((3, 32, 32, 10**7), "32×32×10000000 = 10240000000 values, more than 4 for each pixel of"),
    ],
)
def test_an_array_is_held_to_the_limit_before_it_is_unpacked(tmp_path, shape, counted, suffix):
    path = tmp_path / f"x.{suffix}"
    data = _header(*shape) + bytes(1000)
    path.write_bytes(data)
    if suffix == "npz":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("images.npy", data)
    (tmp_path / "scratch").mkdir()
    arguments = (str(path), "images", str(tmp_path / "scratch"))
    assert refusal(discovery.find, *arguments, LIMIT) == (
        f"Each image of {path} has {counted} --max_pixels=1000000; if that is right, raise "
        "--max_pixels; if not, remove it."
    )
    assert list((tmp_path / "scratch").iterdir()) == []
    # Without a limit, what is not there is missed.
    assert f"{path} cannot be read: it has 1128 of its " in refusal(discovery.find, *arguments)


def test_an_array_in_a_file_of_its_own_is_held_to_the_limit(tmp_path):
    (tmp_path / "x.npy").write_bytes(_header(32, 32, 10**7) + bytes(10))
    os.truncate(tmp_path / "x.npy", 32 * 32 * 10**7 + 128)  # with a hole, which takes no space
    assert refusal(images.read_image, source_of(tmp_path / "x.npy"), LIMIT) == (
        "X has 32×32×10000000 = 10240000000 values, more than 4 for each pixel of --max_pixels="
        "1000000; if that is right, raise --max_pixels; if not, remove it."
    )


def test_no_more_is_unpacked_than_the_header_says(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", _header(2, 3, 4) + bytes(10**7))
    assert len(discovery.find(str(tmp_path / "x.npz"), "images", str(tmp_path), LIMIT).sources) == 2
    assert (tmp_path / "images.npy").stat().st_size == 128 + 2 * 3 * 4


def test_sizes_beyond_all_bounds_are_refused_without_a_warning(tmp_path, recwarn):
    (tmp_path / "x.npy").write_bytes(_header(10**12, 10**12) + bytes(100))
    assert refusal(images.read_image, source_of(tmp_path / "x.npy"), LIMIT) == (
        "X cannot be read: it has 228 of its 1000000000000000000000128 bytes."
    )
    for shape in ((10**12, 0, 4), (0, 4, 4)):
        (tmp_path / "x.npy").write_bytes(_header(*shape))
        message = refusal(discovery.find, str(tmp_path / "x.npy"), "images", "")
        assert f"has shape {shape}; expected N×H×W or N×H×W×C, images first." in message
    (tmp_path / "x.npy").write_bytes(_header(2, -3, -4) + bytes(100))
    assert "cannot be read: its shape is (2, -3, -4)." in refusal(
        discovery.find, str(tmp_path / "x.npy"), "images", ""
    )
    assert not recwarn.list


@pytest.mark.parametrize("dtype", ["bool", "int8", "int64", "uint32", "float16", "float64"])
def test_one_image_may_have_an_axis_too_many(tmp_path, dtype):
    values = (np.arange(42).reshape(6, 7) % 2).astype(dtype)
    np.save(tmp_path / "x.npy", values[np.newaxis])
    assert images.read_mask(source_of(tmp_path / "x.npy"), LIMIT).values.tolist() == values.tolist()
    factor = 255 if dtype == "bool" else 1
    found = images.read_image(source_of(tmp_path / "x.npy"), LIMIT).values
    np.testing.assert_array_equal(found[..., 0], values * np.uint8(factor))


def test_channels_that_come_first_are_not_taken_for_rows(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3, 16, 16), np.uint8))
    assert refusal(images.read_image, source_of(tmp_path / "x.npy"), LIMIT) == (
        "X has shape (3, 16, 16), which looks like C×H×W, where H×W×C is expected; save it with "
        "its channels last: numpy.moveaxis(array, 0, -1)."
    )


def test_the_rows_of_one_image_are_not_taken_for_images(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((16, 16, 3), np.uint8))
    assert refusal(discovery.find, str(path), "images", "") == (
        f"--images={path} has shape (16, 16, 3), which looks like one image H×W×C, where N×H×W is "
        "expected; name its folder, or save N×H×W×C: numpy.save(path, array[numpy.newaxis])."
    )
