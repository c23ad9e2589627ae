"""Tests of NIfTI, on headers of nibabel, which SimpleITK reads as well."""

import gzip
import sys

import nibabel
import numpy as np
import pytest
import SimpleITK

from tests.pictures import refusal
from tests.volume_files import CT, LIMIT, save, source_of
from trainer.data import geometry
from trainer.data.formats import nifti, volumes

# RAS; turned by the rotation with sine 0.6 about z, and flipped along z.
AFFINE = np.array(
    [[0.32, -0.3, 0, -12.5], [0.24, 0.4, 0, 7.5], [0, 0, -3, 90], [0, 0, 0, 1]], np.float64
)
MOVED = AFFINE + np.outer([1, 0, 0, 0], [0, 0, 0, 5])
SHEARED = AFFINE @ np.array([[1, 0.1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def header_of(sform=None, qform=None, kind=nibabel.Nifti1Header, endianness="<", **fields):
    header = kind(endianness=endianness)
    header.set_data_shape(CT.shape[::-1])
    header.set_data_dtype(np.int16)
    header.set_zooms((0.4, 0.5, 3))
    for form, (affine, code) in (
        (header.set_qform, qform or (None, 0)),
        (header.set_sform, sform or (None, 0)),
    ):
        form(affine, code)
    for name, value in fields.items():
        header[name] = value
    return header


def store(path, header):
    with open(path, "wb") as file:
        header.write_to(file)
        file.write(CT.astype(header.get_data_dtype()).tobytes())
    return source_of(path)


@pytest.mark.parametrize(
    "header",
    [
        header_of((AFFINE, 1), (AFFINE, 1)),
        header_of((AFFINE, 2), None),
        header_of(None, (AFFINE, 3)),
        header_of((SHEARED, 2), (AFFINE, 1)),
        header_of((AFFINE, 4), (AFFINE, 4), endianness=">"),
        header_of((AFFINE, 1), xyzt_units=3),
        header_of((AFFINE, 1), xyzt_units=1),
        header_of((AFFINE, 1), sform_code=9),
        header_of(None, (MOVED * [1, 1, -1, 1], 1), pixdim=[0, 0.4, 0.5, 3, 0, 0, 0, 0]),
        header_of(),
    ],
    ids=[
        "both",
        "sform",
        "qform",
        "sheared",
        "big",
        "micrometres",
        "metres",
        "code",
        "no-qfac",
        "none",
    ],
)
def test_a_grid_is_the_one_that_itk_reads(tmp_path, header):
    grid = volumes.read_header(store(tmp_path / "a.nii", header)).grid
    theirs = SimpleITK.ReadImage(str(tmp_path / "a.nii"))
    expected = (*theirs.GetSpacing()[::-1], *theirs.GetOrigin(), *theirs.GetDirection())
    np.testing.assert_allclose(grid.to_array(), expected, rtol=1e-6, atol=1e-6)


def test_of_two_grids_the_sform_counts(tmp_path):
    source = store(tmp_path / "a.nii", header_of((MOVED, 4), (AFFINE, 1)))
    np.testing.assert_allclose(volumes.read_header(source).grid.origin, (7.5, -7.5, 90))


@pytest.mark.parametrize("kind", [nibabel.Nifti1Header, nibabel.Nifti2Header])
@pytest.mark.parametrize("endianness", "<>")
def test_both_versions_are_read_in_both_byte_orders(tmp_path, kind, endianness):
    source = store(tmp_path / "a.nii", header_of((AFFINE, 1), None, kind, endianness))
    values, header = volumes.read_volume([source], LIMIT)
    np.testing.assert_array_equal(values[..., 0], CT)
    assert header.dtype == values.dtype == np.dtype(np.int16)
    np.testing.assert_allclose(header.grid.spacing, (3, 0.5, 0.4))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"datatype": 9}, "X cannot be read: data code 9 not recognized."),
        ({"datatype": 32}, "X holds colours, complex numbers or the like (datatype 32)"),
        ({"vox_offset": 100}, "X cannot be read: vox offset 100 too low for single file nifti1."),
        ({"vox_offset": 1e30}, "X cannot be read: its vox_offset is 1"),
        ({"scl_inter": np.inf}, "X cannot be read: Valid slope but invalid intercept inf."),
        ({"magic": b"ni1"}, "X cannot be read: it has its voxels in another file."),
        ({"dim": [3, 4, -3, 2, 1, 1, 1, 1]}, "X cannot be read: its dim is [3, 4, -3, 2,"),
        ({"srow_x": [np.nan] * 4}, "X has axes that are not at right angles"),
        ({"srow_x": [0.32, -0.3, 0, np.inf]}, "X cannot be read: its grid has spacing"),
    ],
)
def test_headers_that_make_no_sense_are_refused_in_one_line(tmp_path, capfd, fields, told):
    source = store(tmp_path / "a.nii", header_of((AFFINE, 1)))
    header = header_of((AFFINE, 1), **fields)
    data = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "a.nii").write_bytes(header.binaryblock + data[len(header.binaryblock) :])
    assert refusal(volumes.read_header, source).startswith(told)
    assert capfd.readouterr().err == ""


def test_without_nibabel_the_remedy_is_told(tmp_path, monkeypatch):
    source = save(tmp_path / "a.nii")
    monkeypatch.setitem(sys.modules, "nibabel", None)
    assert refusal(volumes.read_header, source) == 'X needs nibabel; pip install ".[medical]".'


# Writing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nibabel.Nifti1Header, nibabel.Nifti2Header])
@pytest.mark.parametrize("endianness", "<>")
def test_a_mask_has_the_header_of_its_image_but_for_the_values(tmp_path, kind, endianness):
    header = header_of(
        (MOVED, 4),
        (AFFINE, 1),
        kind,
        endianness,
        descrip=b"a scan",
        pixdim=[0, 0.4, 0.5, 3, 2, 0, 0, 0],
    )
    header.set_data_shape((*CT.shape[::-1], 1))
    header.set_slope_inter(2, -1024)
    header.set_intent("t test", (3,))
    header["cal_max"], header["aux_file"] = 2000, b"hot"
    header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"of the scan"))
    image = store(tmp_path / "a.nii", header)
    grid = volumes.read_header(image).grid
    mask = np.arange(24, dtype=np.uint16).reshape(CT.shape)
    volumes.write(str(tmp_path / "m.nii.gz"), mask, grid, image.path)
    with gzip.open(tmp_path / "m.nii.gz") as file:
        written = kind.from_fileobj(file)
    for name in (
        "qform_code",
        "sform_code",
        "xyzt_units",
        "descrip",
        "qoffset_x",
        "quatern_b",
        "srow_x",
        "srow_y",
        "srow_z",
    ):
        assert written[name].tobytes() == header[name].tobytes(), name
    np.testing.assert_array_equal(written["pixdim"][1:4], header["pixdim"][1:4])
    assert written.endianness == endianness
    assert written.get_intent()[0] == "none"
    assert written.get_slope_inter() == (1, 0)
    assert (written["cal_max"], written["aux_file"].item(), written.extensions) == (0, b"", [])
    read, read_header = volumes.read_volume_mask(source_of(tmp_path / "m.nii.gz"), LIMIT)
    np.testing.assert_array_equal(read, mask)
    assert read_header.grid == grid


def test_a_mask_of_an_image_of_another_format_has_its_grid(tmp_path):
    image = save(tmp_path / "a.nrrd")
    grid = volumes.read_header(image).grid
    for name in ("m", "n"):
        volumes.write(str(tmp_path / f"{name}.nii.gz"), CT, grid, image.path)
    assert (tmp_path / "m.nii.gz").read_bytes() == (tmp_path / "n.nii.gz").read_bytes()
    written = nibabel.load(tmp_path / "m.nii.gz")
    assert (written.header["sform_code"], written.header["qform_code"]) == (1, 1)
    np.testing.assert_allclose(written.get_qform(), written.get_sform(), atol=1e-5)
    read = nifti.read_header(str(tmp_path / "m.nii.gz"), "X", None).grid
    np.testing.assert_allclose(read.to_array(), grid.to_array(), rtol=1e-6, atol=1e-6)


def test_axes_too_long_for_version_1_are_written_as_version_2(tmp_path):
    path = str(tmp_path / "a.nii")
    nifti.write(path, np.ones((1, 2, 40000), np.uint8), geometry.Geometry((3.0, 2.0, 1.0)))
    assert nifti.read_header(path, "X", None).shape == (1, 2, 40000)
    assert nifti.read_header(path, "X", None).grid == geometry.Geometry((3.0, 2.0, 1.0))
