"""Tests of reading DICOM, against files made by pydicom and those that it ships."""

import concurrent.futures
import io
import pathlib
import sys
import warnings

import imagecodecs
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import encaps, pixels, uid

from trainer import cli, config
from trainer.data.dataset import schema
from trainer.data.formats import dicom, dicom_codecs, discovery, images, reading
from trainer.data.prepare import preparation
from trainer.errors import InputError

SHIPPED = pathlib.Path(pydicom.__file__).parent / "data/test_files"
LIMIT = 10**6
SIGNED = np.array([[-1000, -1], [0, 3000]], np.int16)
UNSIGNED = np.array([[0, 1], [4095, 65535]], np.uint16)


def _encoded(values, **attributes):
    """Returns a DICOM file of integers [H, W] or [H, W, 3], [frames, H, W] if they are several."""
    one = pydicom.Dataset()
    one.file_meta = pydicom.dataset.FileMetaDataset()
    one.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = uid.CTImageStorage
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID = uid.generate_uid()
    colours = values.ndim == 3 and "NumberOfFrames" not in attributes
    one.Rows, one.Columns = values.shape[:2] if colours else values.shape[-2:]
    one.SamplesPerPixel = 3 if colours else 1
    one.PhotometricInterpretation = "RGB" if colours else "MONOCHROME2"
    if colours:
        one.PlanarConfiguration = 0
    one.BitsAllocated = one.BitsStored = 8 * values.itemsize
    one.PixelRepresentation = int(values.dtype.kind == "i")
    for name, value in attributes.items():
        setattr(one, name, value)
    one.HighBit = attributes.get("HighBit", one.BitsStored - 1)
    one.PixelData = values.tobytes()
    return _saved(one)


def _compressed(values, syntax, codestream, **attributes):
    """Returns a DICOM file of these values whose pixels are that codestream."""
    one = pydicom.dcmread(io.BytesIO(_encoded(values, **attributes)))
    one.file_meta.TransferSyntaxUID = syntax
    one.PixelData = encaps.encapsulate([codestream])
    one["PixelData"].is_undefined_length = True
    return _saved(one)


def _saved(one, **options):
    file = io.BytesIO()
    one.save_as(file, enforce_file_format=True, **options)
    return file.getvalue()


def _source(path, content):
    path.write_bytes(content)
    return discovery.Source("x", str(path), None, "X")


def _read(path, content):
    return images.read_image(_source(path / "x.dcm", content), LIMIT).values


def _refusal(path, content, read=images.read_image):
    with pytest.raises(InputError) as error:
        read(_source(path / "x.dcm", content), LIMIT)
    return str(error.value)


def _read_mask(source, limit):
    return images.read_mask(source, limit).values


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_unsigned_values_keep_their_bits(tmp_path, dtype):
    values = UNSIGNED.astype(dtype)
    found = _read(tmp_path, _encoded(values))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found[..., 0], values)


def test_twelve_bits_in_sixteen_are_not_stretched(tmp_path):
    values = np.array([[0, 1], [100, 4095]], np.uint16)
    found = _read(tmp_path, _encoded(values, BitsStored=12))
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found[..., 0], values)


def test_signed_values_are_float32(tmp_path):
    found = _read(tmp_path, _encoded(SIGNED))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[..., 0], SIGNED)


@pytest.mark.parametrize(("slope", "intercept"), [("1", "-1024"), ("0.5", "10"), ("  2.50", "-.5")])
@pytest.mark.parametrize("values", [SIGNED, UNSIGNED])
def test_rescaled_values_are_the_measured_ones(tmp_path, values, slope, intercept):
    content = _encoded(values, RescaleSlope=slope, RescaleIntercept=intercept)
    measured = values * float(slope) + float(intercept)
    implicit = pydicom.dcmread(io.BytesIO(content))
    implicit.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian
    for one in (content, _saved(implicit, implicit_vr=True, little_endian=True)):
        found = _read(tmp_path, one)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found[..., 0], measured.astype(np.float32))


def test_a_display_window_and_an_overlay_change_nothing(tmp_path):
    one = pydicom.dcmread(io.BytesIO(_encoded(UNSIGNED, WindowCenter=100, WindowWidth=20)))
    one.add_new(0x60000010, "US", 2)  # rows and columns of an overlay, and its bits
    one.add_new(0x60000011, "US", 2)
    one.add_new(0x60003000, "OW", b"\xff\xff")
    np.testing.assert_array_equal(_read(tmp_path, _saved(one))[..., 0], UNSIGNED)


def test_bits_beside_the_stored_ones_do_not_count(tmp_path):
    """Old files have overlays in them; of signed values they need not repeat the sign."""
    above = np.array([[0x1005, 0xFFFF]], np.uint16)
    assert _read(tmp_path, _encoded(above, BitsStored=12)).ravel().tolist() == [5, 4095]
    signed = np.array([[0x0FFF, 0x0801, 0x07FF]], np.int16)
    assert _read(tmp_path, _encoded(signed, BitsStored=12)).ravel().tolist() == [-1, -2047, 2047]
    assert _refusal(tmp_path, _encoded(above, BitsStored=12, HighBit=15)) == (
        "X stores its 12 bits up to bit 15, which is not read; have them begin with bit 0."
    )


def test_a_table_gives_values_their_meaning(tmp_path):
    table = pydicom.Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [3, 1, 16], "US"  # of the values 1, 2 and 3
    table.LUTData = np.array([1000, 2000, 4000], "<u2").tobytes()
    values = np.array([[0, 1, 2, 3, 9]], np.uint8)  # beyond its ends, the ends count
    measured = [1000, 1000, 2000, 4000, 4000]
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        kinds = {"PhotometricInterpretation": photometric, "ModalityLUTSequence": [table]}
        assert _read(tmp_path, _encoded(values, **kinds)).ravel().tolist() == measured


def test_an_enhanced_image_of_one_frame_is_rescaled_by_its_groups(tmp_path):
    part, groups = pydicom.Dataset(), pydicom.Dataset()
    part.RescaleSlope, part.RescaleIntercept = 2, -10
    groups.PixelValueTransformationSequence = [part]
    values = np.array([[0, 7]], np.uint8)
    for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        content = _encoded(values, NumberOfFrames=1, **{name: [groups]})
        assert _read(tmp_path, content).ravel().tolist() == [-10, 4]


def test_where_zero_is_white_bright_is_made_large(tmp_path):
    values = np.array([[0, 200]], np.uint8)
    white = {"PhotometricInterpretation": "MONOCHROME1"}
    assert _read(tmp_path, _encoded(values, **white)).ravel().tolist() == [255, 55]
    signed = np.array([[-100, 27]], np.int8)  # of which the least is -128, and the largest 127
    assert _read(tmp_path, _encoded(signed, **white)).ravel().tolist() == [99, -28]
    measured = _encoded(values, **white, RescaleSlope="2", RescaleIntercept="1")
    assert _read(tmp_path, measured).ravel().tolist() == [1, 401]


def test_colours_stay_colours(tmp_path):
    values = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    np.testing.assert_array_equal(_read(tmp_path, _encoded(values)), values)


def _shipped():
    """Yields the files in pydicom that it and Pillow read, without the codecs of this package."""
    for path in sorted(SHIPPED.glob("*.dcm")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                one = pydicom.dcmread(path)
                is_jpeg = one.file_meta.TransferSyntaxUID in dicom_codecs.SYNTAXES
                values = pixels.pixel_array(one, decoding_plugin="pillow" if is_jpeg else "")
            except Exception:
                continue
        slope, intercept = one.get("RescaleSlope", 1), one.get("RescaleIntercept", 0)
        yield path, values * np.float64(slope) + np.float64(intercept)


def test_what_is_read_of_pydicoms_files_is_what_pydicom_reads():
    compared = 0
    for path, values in _shipped():
        source = discovery.Source("x", str(path), None, path.name)
        try:
            found = images.read_image(source, LIMIT).values
        except InputError:
            continue
        expected = values.astype(found.dtype).ravel()
        np.testing.assert_array_equal(found.ravel(), expected, err_msg=path.name)
        compared += 1
    assert compared >= 35


def _lossless_jpeg(values, bits):
    return imagecodecs.jpeg8_encode(values, lossless=True, bitspersample=bits)


def _jpeg_2000(values, bits):
    return imagecodecs.jpeg2k_encode(values, reversible=True, codecformat="J2K", bitspersample=bits)


LOSSLESS = {
    "JPEG of 8 bits": (uid.JPEGLosslessSV1, 8, _lossless_jpeg),
    "JPEG of 12 bits": (uid.JPEGLossless, 12, _lossless_jpeg),
    "JPEG-LS": (uid.JPEGLSLossless, 12, lambda values, bits: imagecodecs.jpegls_encode(values)),
    "JPEG 2000": (uid.JPEG2000Lossless, 12, _jpeg_2000),
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_what_was_compressed_without_loss_comes_back(tmp_path, name):
    syntax, bits, encode = LOSSLESS[name]
    dtype = np.uint8 if bits == 8 else np.uint16
    values = np.arange(16 * 20).reshape(16, 20).astype(dtype)
    content = _compressed(values, syntax, encode(values, bits), BitsStored=bits)
    found = _read(tmp_path, content)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found[..., 0], values)


@pytest.mark.parametrize("name", LOSSLESS)
def test_a_codestream_of_another_size_is_damage(tmp_path, name):
    syntax, bits, encode = LOSSLESS[name]
    values = np.zeros((16, 20), np.uint8 if bits == 8 else np.uint16)
    content = _compressed(values, syntax, encode(values, bits), BitsStored=bits, Rows=15)
    with pytest.raises(reading.UnreadableError, match="^X cannot be read: .* imagecodecs: "):
        _read(tmp_path, content)


def test_codecs_are_registered_once_whichever_thread_comes_first():
    with concurrent.futures.ThreadPoolExecutor(8) as executor:
        list(executor.map(lambda _: dicom_codecs.register(), range(16)))
    for syntax in dicom_codecs.SYNTAXES:
        assert dicom_codecs.LABEL in pixels.get_decoder(syntax).available_plugins


def test_lossless_siblings_among_pydicoms_files_are_equal():
    for one, other in (
        ("MR_small.dcm", "MR_small_jpeg_ls_lossless.dcm"),
        ("MR_small.dcm", "MR_small_jp2klossless.dcm"),
        ("MR_small.dcm", "MR_small_RLE.dcm"),
        ("MR_small.dcm", "MR_small_bigendian.dcm"),
        ("SC_rgb_rle.dcm", "SC_rgb_jpeg_gdcm.dcm"),
    ):
        values = [dicom.read_image(str(SHIPPED / name), name, LIMIT) for name in (one, other)]
        np.testing.assert_array_equal(*values, err_msg=other)


def test_files_that_are_damaged_are_unreadable_wherever_they_are_cut(tmp_path):
    content = _encoded(np.random.default_rng(0).integers(0, 99, (20, 20)).astype(np.uint16))
    compressed = pydicom.dcmread(io.BytesIO(content))
    compressed.compress(uid.RLELossless)
    for whole, end in ((content, 0), (_saved(compressed), 4)):  # the latter of a delimiter
        assert _read(tmp_path, whole).shape == (20, 20, 1)
        for length in (0, 50, 140, 400, len(whole) - 300, len(whole) - 1 - end):
            with pytest.raises(reading.UnreadableError, match=r"^X cannot be read: .*[.…]$"):
                _read(tmp_path, whole[:length])


def test_too_few_pixels_are_noticed(tmp_path):
    assert _refusal(tmp_path, _encoded(UNSIGNED, Rows=3)).startswith(
        "X cannot be read: The number of bytes of pixel data is less than expected (8 vs 12 bytes)"
    )


def test_what_is_no_dicom_is_damaged(tmp_path):
    assert _refusal(tmp_path, b"\x89PNG") == "X cannot be read: it is not a DICOM file."


def test_what_it_takes_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert _refusal(tmp_path, b"") == 'X needs pydicom; pip install ".[medical]".'


def test_an_icon_is_not_taken_for_the_image(tmp_path):
    icon = pydicom.Dataset()
    icon.Rows = icon.Columns = 1
    icon.BitsAllocated = 8
    icon.PixelData = b"\1\0"
    content = _encoded(UNSIGNED, IconImageSequence=[icon])
    np.testing.assert_array_equal(_read(tmp_path, content)[..., 0], UNSIGNED)
    with pytest.raises(reading.UnreadableError, match="less than expected .7 vs 8 bytes"):
        _read(tmp_path, content[:-1])


def test_a_bomb_is_not_decoded(tmp_path):
    one = pydicom.dcmread(io.BytesIO(_encoded(np.zeros((2000, 2000), np.uint8))))
    one.compress(uid.RLELossless)
    content = _saved(one)
    assert len(content) < 100_000
    assert _refusal(tmp_path, content) == (
        "X has 2000×2000 = 4000000 pixels, more than --max_pixels=1000000; if that is right, raise "
        "--max_pixels; if not, remove it."
    )


def test_what_is_not_read_is_refused(tmp_path):
    frames = _encoded(np.zeros((2, 4, 4), np.uint8), NumberOfFrames=2)
    assert _refusal(tmp_path, frames) == "X has 2 frames; save each as a file."
    palette = _encoded(np.zeros((4, 4), np.uint8), PhotometricInterpretation="PALETTE COLOR")
    assert _refusal(tmp_path, palette) == (
        "X has photometric interpretation PALETTE COLOR, which is not read; convert it to "
        "MONOCHROME2 or RGB."
    )
    deflated = pydicom.dcmread(io.BytesIO(_encoded(UNSIGNED)))
    deflated.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    assert _refusal(tmp_path, _saved(deflated)) == (
        "X has transfer syntax 1.2.840.10008.1.2.1.99, which is not read; convert it to Explicit "
        "VR Little Endian."
    )


def test_masks_have_exact_values(tmp_path):
    mask = np.array([[0, 3], [300, 0]], np.uint16)
    source = _source(tmp_path / "x.dcm", _encoded(mask))
    np.testing.assert_array_equal(_read_mask(source, LIMIT), mask)
    white = _encoded(mask, PhotometricInterpretation="MONOCHROME1")
    assert _refusal(tmp_path, white, _read_mask) == (
        "X is MONOCHROME1, in which 0 is white; save masks as MONOCHROME2."
    )
    lossy = (SHIPPED / "SC_rgb_dcmtk_+eb+cr.dcm").read_bytes()
    assert _refusal(tmp_path, lossy, _read_mask) == (
        "X has lossy compression, which changes class values; save masks without."
    )


@pytest.fixture
def series(tmp_path):
    """A series of ten slices, each with its mask: half of them as PNG, half as DICOM."""
    for name in ("slices", "masks"):
        (tmp_path / name).mkdir()
    for k in range(10):
        mask = np.zeros((8, 6), np.uint8)
        mask[2:5, 1:5] = 1
        content = _encoded((mask * 100).astype(np.int16) + k, RescaleIntercept="-1024")
        (tmp_path / f"slices/IM{k:04}.dcm").write_bytes(content)
        if k % 2:
            (tmp_path / f"masks/IM{k:04}.dcm").write_bytes(_encoded(mask))
        else:
            Image.fromarray(mask).save(tmp_path / f"masks/IM{k:04}.png")
    return tmp_path


def _prepare(folder, *others):
    arguments = [f"--images={folder}/slices", f"--masks={folder}/masks", f"--output={folder}/out"]
    cli.run(config.Prepare, preparation.prepare, ["prepare", *arguments, *others])
    return schema.read_manifest(f"{folder}/out")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_series_is_prepared_slice_by_slice(series, workers):
    manifest = _prepare(series, f"--workers={workers}")
    assert (manifest.dtype, manifest.channels) == ("float32", 1)
    for side, split in manifest.splits.items():
        numbers = [int(name.removeprefix("IM")) for name in split.cases]
        # 36 pixels are k - 1024, and 12 are 100 more.
        assert split.mean == (pytest.approx(np.mean(numbers) - 1024 + 25),), side
        assert split.pixels == (36 * len(numbers), 12 * len(numbers))


def test_a_damaged_slice_is_named_or_skipped(series, capsys):
    damaged = series / "slices/IM0003.dcm"
    damaged.write_bytes(damaged.read_bytes()[:-10])
    with pytest.raises(SystemExit) as stop:
        _prepare(series, "--workers=1")
    assert stop.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"{damaged} cannot be read: The number of bytes of pixel data is less ")
    manifest = _prepare(series, "--workers=1", "--skip_bad")
    assert manifest.skipped == ("IM0003",)
