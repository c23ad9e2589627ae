"""Tests of reading and writing volumes, on files of SimpleITK, pydicom, tifffile and NumPy."""

import gzip
import pathlib
import struct

import numpy as np
import pytest
import SimpleITK
import tifffile

from tests.pictures import refusal
from tests.volume_files import CT, LIMIT, TURNED, save, save_4d, save_series, source_of
from trainer.data.formats import medical, nifti, volumes
from trainer.data.formats.reading import UnreadableError
from trainer.data.geometry import Geometry

GRID = Geometry((3.0, 0.5, 0.4), (-12.5, 7.5, 90.0), TURNED)
HIPPOCAMPUS = pathlib.Path(__file__).parents[4] / "shared/data/msd_hippocampus"


def read(source, num_channels=None):
    return volumes.read_volume([source], LIMIT, num_channels)


def refused(source, num_channels=None):
    return refusal(volumes.read_volume, [source], LIMIT, num_channels)


@pytest.mark.parametrize("suffix", medical.SUFFIXES)
def test_a_file_comes_as_it_is_stored_with_its_grid(tmp_path, suffix):
    values, header = read(save(tmp_path / f"a{suffix}"))
    assert values.dtype == np.int16
    np.testing.assert_array_equal(values[..., 0], CT)
    np.testing.assert_allclose(header.grid.to_array(), GRID.to_array(), rtol=1e-6, atol=1e-6)
    assert (header.shape, header.channels, header.dtype) == ((2, 3, 4), 1, np.int16)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.float32, np.float64])
def test_values_keep_their_type_up_to_32_bits(tmp_path, dtype):
    values, _ = read(save(tmp_path / "a.nii", np.abs(CT).astype(dtype)))
    assert values.dtype == (np.float32 if dtype in (np.int64, np.float64) else dtype)
    np.testing.assert_array_equal(values[..., 0], np.abs(CT))


def test_a_rescaled_file_has_its_units(tmp_path):
    source = save(tmp_path / "a.nii")
    data = bytearray((tmp_path / "a.nii").read_bytes())
    struct.pack_into("<ff", data, 112, 2, -1024)  # scl_slope, scl_inter
    (tmp_path / "a.nii").write_bytes(data)
    values, _ = read(source)
    np.testing.assert_array_equal(values[..., 0], 2.0 * CT - 1024)


def test_one_slice_is_a_volume_and_an_image_is_not(tmp_path):
    assert read(save(tmp_path / "a.nii.gz", CT[:1]))[0].shape == (1, 3, 4, 1)
    image = SimpleITK.GetImageFromArray(CT[0])
    SimpleITK.WriteImage(image, str(tmp_path / "b.nrrd"))
    assert refused(source_of(tmp_path / "b.nrrd")) == (
        "X has 2 axes of 4×3, where a volume has 3; save each volume as a file of its own."
    )


# Channels -----------------------------------------------------------------------------------------


def test_channels_in_several_files_or_one_are_the_same_volume(tmp_path):
    parts = [save(tmp_path / f"{k}.nrrd", CT + k, direction=np.eye(3).ravel()) for k in (0, 1)]
    both, _ = volumes.read_volume(parts, LIMIT, 2)
    assert both.shape == (2, 3, 4, 2)
    np.testing.assert_array_equal(both[..., 1] - both[..., 0], 1)
    vector, _ = read(save(tmp_path / "vector.nrrd", both), 2)
    fourth, _ = read(save_4d(tmp_path / "fourth.nii.gz", [CT, CT + 1]), 2)
    np.testing.assert_array_equal(vector, both)
    np.testing.assert_array_equal(fourth, both)


def test_a_fourth_axis_is_channels_only_if_as_many_are_named(tmp_path):
    source = save_4d(tmp_path / "a.nii", [CT] * 3)
    for count, named in ((None, "no channels are named"), (2, "2 are named")):
        assert refused(source, count) == (
            f"X has a fourth axis of 3, 1 s apart by its header, and {named}; if they are "
            "channels, name each with --channel_names=A,B,…; if they are times, save each as a "
            "file of its own."
        )


def test_channels_on_different_grids_are_refused(tmp_path):
    parts = [save(tmp_path / "0.mha"), save(tmp_path / "1.mha", spacing=(3.0, 0.5, 0.5))]
    assert refusal(volumes.read_volume, parts, LIMIT, 2) == (
        "X and X are not on one grid: spacing (3, 0.5, 0.4) and (3, 0.5, 0.5); resample one to the "
        "other's grid, or correct the header that is wrong."
    )
    assert "has 1 channels, and 2 are named" in refused(parts[0], 2)


# Masks --------------------------------------------------------------------------------------------


def test_a_mask_on_its_images_grid_is_whole_numbers(tmp_path):
    image = volumes.read_header(save(tmp_path / "a.nii.gz"))
    mask, header = volumes.read_volume_mask(
        save(tmp_path / "m.nrrd", np.full(CT.shape, 3, np.float32)), LIMIT
    )
    assert mask.dtype == np.int32
    assert set(mask.ravel()) == {3}
    volumes.check_same_grid("A", image, "M", header)
    moved = volumes.read_header(save(tmp_path / "n.nrrd", origin=(-12.5, 7.5, 93.0)))
    assert "origin (-12.5, 7.5, 90) and (-12.5, 7.5, 93)" in refusal(
        volumes.check_same_grid, "A", image, "M", moved
    )
    small = volumes.read_header(save(tmp_path / "o.nrrd", CT[:1]))
    assert "2×3×4 and 1×3×4 voxels" in refusal(volumes.check_same_grid, "A", image, "M", small)


def test_masks_that_are_no_classes_are_refused(tmp_path):
    smooth = save(tmp_path / "m.mha", CT / np.float32(4))
    assert refusal(volumes.read_volume_mask, smooth, LIMIT) == (
        "X has the value -2.5, and a mask has whole numbers, one a class; round it, or save it "
        "as it was before it was resampled."
    )
    maps = save(tmp_path / "v.mha", np.zeros((2, 3, 4, 2), np.uint8))
    assert "has 2 values a voxel" in refusal(volumes.read_volume_mask, maps, LIMIT)


def test_voxels_that_are_not_finite_are_counted(tmp_path):
    values = CT.astype(np.float64)
    values[0, 0, 0], values[1, 2, 3], values[1, 0, 0] = np.nan, np.inf, 1e300
    source = save(tmp_path / "a.nii", values)
    assert refused(source).startswith("X has 3 values that are not finite in float32")
    assert "X has 2 values" in refusal(volumes.read_volume_mask, source, LIMIT)


# Damage and size ----------------------------------------------------------------------------------


def _damaged(path, data):
    path.write_bytes(data)
    with pytest.raises(UnreadableError) as error:
        read(source_of(path))
    return str(error.value)


def test_damaged_nifti_is_named_though_itk_reads_it(tmp_path):
    save(tmp_path / "a.nii", np.random.default_rng(0).integers(0, 99, (60, 50, 40), np.int16))
    data = (tmp_path / "a.nii").read_bytes()
    size = 352 + 240000
    assert len(data) == size
    packed, path = gzip.compress(data), tmp_path / "b.nii.gz"
    assert f"it holds 24000 bytes, where its header says {size}" in _damaged(
        tmp_path / "b.nii", data[:24000]
    )
    assert "it holds 24000 bytes" in _damaged(path, gzip.compress(data[:24000]))
    assert f"it holds more than {size} bytes" in _damaged(path, gzip.compress(data + b"\1" * 9))
    assert "ended before the end-of-stream marker" in _damaged(path, packed[:-20])
    path.write_bytes(packed[:-8] + bytes(4) + packed[-4:])
    with pytest.raises(gzip.BadGzipFile, match="CRC check failed"):
        nifti.read_voxels(str(path), "X", np.dtype(np.int16))
    assert "it is text by its content" in _damaged(tmp_path / "c.nrrd", b"hello" * 99)
    assert "not NIfTI inside" in _damaged(path, gzip.compress(b"hello" * 99))
    assert "it is empty (0 bytes)" in _damaged(tmp_path / "c.mha", b"")


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_other_formats_that_are_cut_short_are_unreadable(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 999, (9, 9, 9)).astype(np.int16)
    path = tmp_path / f"a{suffix}"
    save(path, noise)
    assert _damaged(path, path.read_bytes()[:-200]).startswith("X cannot be read: ")


def test_a_bomb_is_refused_by_its_header(tmp_path):
    save(tmp_path / "a.nii")
    data = bytearray((tmp_path / "a.nii").read_bytes())
    struct.pack_into("<3h", data, 42, *[30000] * 3)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(data))
    assert refused(source_of(tmp_path / "a.nii.gz")).startswith(
        "X has 30000×30000×30000 = 27000000000000 voxels, more than --max_pixels=1000000 allows"
    )


def test_headers_without_a_straight_grid_are_refused(tmp_path, capfd):
    save(tmp_path / "a.nii")
    data = bytearray((tmp_path / "a.nii").read_bytes())
    struct.pack_into("<hh12f", data, 252, 0, 1, *[0] * 12)
    struct.pack_into("<12f", data, 280, *(1, 0.5, 0, 0), *(0, 1, 0, 0), *(0, 0, 1, 0))
    (tmp_path / "sheared.nii").write_bytes(data)
    assert "axes that are not at right angles" in refused(source_of(tmp_path / "sheared.nii"))
    data = bytearray((tmp_path / "a.nii").read_bytes())
    struct.pack_into("<f", data, 84, 0)  # pixdim[2]
    (tmp_path / "flat.nii").write_bytes(data)
    assert "voxels of 0.4×0×3 by its header" in refused(source_of(tmp_path / "flat.nii"))
    assert capfd.readouterr().err == ""


# Other formats ------------------------------------------------------------------------------------


def test_the_slices_of_a_series_are_sorted_by_where_they_lie(tmp_path):
    source = save_series(tmp_path / "s")
    (tmp_path / "s/notes.txt").write_text("not a slice")
    values, header = read(source)
    assert values.dtype == np.int16
    np.testing.assert_array_equal(values[..., 0], CT)
    assert header.grid == Geometry((3.0, 0.5, 0.4), (-12.5, 7.5, 0.0))
    image = SimpleITK.ReadImage(
        SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "s"))
    )
    assert image.GetSpacing()[::-1] == header.grid.spacing
    assert (image.GetOrigin(), image.GetDirection()) == (header.grid.origin, header.grid.direction)
    scaled = save_series(tmp_path / "t", RescaleSlope=2, RescaleIntercept=-1024)
    np.testing.assert_array_equal(read(scaled)[0][..., 0], np.float32(2 * CT - 1024.0))


def test_series_that_are_not_one_volume_are_refused(tmp_path):
    four = np.repeat(CT, 2, axis=0)
    gap = save_series(tmp_path / "gap", four, [0, 3, 6, 12])
    assert "has slices 3 mm apart, but 6 mm between its 3. and 4." in refused(gap)
    save_series(tmp_path / "two", four)
    save_series(tmp_path / "two", CT)  # in place of two of the four
    assert "holds slices of 2 series" in refused(source_of(tmp_path / "two", is_series=True))
    twice = save_series(tmp_path / "twice", four, [0, 0, 3, 3])
    assert "several slices at one place" in refused(twice)
    tilted = save_series(tmp_path / "tilted", ImageOrientationPatient=[1, 0, 0, 0, 0.8, 0.6])
    assert "slices that move sideways by 1.8 mm" in refused(tilted)
    frames = save_series(tmp_path / "frames", NumberOfFrames=5)
    assert "has 5 frames" in refused(frames)


def test_the_pages_of_a_tiff_are_slices_spaced_as_imagej_says(tmp_path):
    path = tmp_path / "a.tif"
    stack = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)
    options = {"imagej": True, "resolution": (2.0, 4.0), "photometric": "minisblack"}
    tifffile.imwrite(path, stack, metadata={"axes": "ZYX", "spacing": 3, "unit": "um"}, **options)
    values, header = read(source_of(path))
    np.testing.assert_array_equal(values[..., 0], stack)
    assert values.dtype == np.uint16
    np.testing.assert_allclose(header.grid.spacing, (3e-3, 0.25e-3, 0.5e-3))
    tifffile.imwrite(path, stack, metadata={"axes": "TYX"}, **options)
    assert refused(source_of(path)) == (
        "X has 2 times; save the volume of each as a file of its own."
    )
    tifffile.imwrite(path, stack, metadata=None, photometric="minisblack")
    assert not read(source_of(path))[1].has_spacing
    sizes = {f"PhysicalSize{axis}": size for axis, size in (("X", 0.1), ("Y", 0.2), ("Z", 900))}
    ome = {"axes": "ZYX", **sizes, "PhysicalSizeZUnit": "nm"}
    tifffile.imwrite(tmp_path / "a.ome.tif", stack, metadata=ome, photometric="minisblack")
    spacing = read(source_of(tmp_path / "a.ome.tif"))[1].grid.spacing
    np.testing.assert_allclose(spacing, (9e-4, 2e-4, 1e-4))


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ((6, 5, 7), ""),
        ((6, 5, 7, 2), ""),
        ((9, 9, 3), "looks like an image H×W×C"),
        ((2, 9, 9, 9), "looks like C×D×H×W"),
        ((9, 9, 9, 9), "has a fourth axis of 9"),
        ((9, 9), "expected D×H×W or D×H×W×C"),
    ],
)
def test_an_array_has_its_channels_last(tmp_path, shape, told):
    np.save(tmp_path / "a.npy", np.ones(shape, np.float64))
    source = source_of(tmp_path / "a.npy")
    if told:
        assert told in refused(source)
        return
    values, header = read(source)
    assert values.shape == (*shape[:3], *(shape[3:] or (1,)))
    assert values.dtype == np.float32
    assert not header.has_spacing


# Writing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_mask_is_written_on_the_grid_of_its_image(tmp_path, suffix):
    source = save(tmp_path / f"a{suffix}")
    grid = volumes.read_header(source).grid
    mask = np.arange(24, dtype=np.uint8).reshape(CT.shape)
    path = str(tmp_path / f"m{suffix}")
    volumes.write(path, mask, grid, metadata_of=source.path)
    written = SimpleITK.ReadImage(path)
    assert written.GetPixelIDTypeAsString() == "8-bit unsigned integer"
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(written), mask)
    original = SimpleITK.ReadImage(source.path)
    for name in ("GetSpacing", "GetOrigin", "GetDirection"):
        ours, theirs = getattr(written, name)(), getattr(original, name)()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def test_a_mask_has_its_images_system_of_coordinates(tmp_path):
    save(tmp_path / "a.nii")
    data = bytearray((tmp_path / "a.nii").read_bytes())
    struct.pack_into("<hh", data, 252, 4, 4)  # MNI 152
    (tmp_path / "a.nii").write_bytes(data)
    grid = volumes.read_header(source_of(tmp_path / "a.nii")).grid
    volumes.write(str(tmp_path / "m.nii"), CT, grid, metadata_of=str(tmp_path / "a.nii"))
    assert struct.unpack_from("<hh", (tmp_path / "m.nii").read_bytes(), 252) == (4, 4)


@pytest.mark.skipif(not HIPPOCAMPUS.exists(), reason="needs ../shared/data/msd_hippocampus")
def test_the_decathlons_hippocampi_are_read_with_their_masks():
    names = sorted(path.name for path in (HIPPOCAMPUS / "images").glob("*.nii.gz"))
    for name in names[:: len(names) // 5]:
        values, image = read(source_of(HIPPOCAMPUS / "images" / name))
        mask, header = volumes.read_volume_mask(source_of(HIPPOCAMPUS / "masks" / name), LIMIT)
        volumes.check_same_grid("image", image, "mask", header)
        assert values.dtype in (np.uint8, np.float32)
        assert mask.shape == values.shape[:3] == image.shape
        assert set(np.unique(mask)) == {0, 1, 2}
        np.testing.assert_allclose(image.grid.spacing, 1)
