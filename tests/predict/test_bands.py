"""A huge image that several workers predict, each a band of its rows."""

import functools
import json
import os
import shutil

import numpy as np
import pytest
import tifffile

from tests import folders, runs
from trainer import config
from trainer.config import flags
from trainer.data.formats import discovery
from trainer.errors import InputError
from trainer.evaluate import sliding_window
from trainer.evaluate.stitching import Mosaic
from trainer.predict import bands, predict_images, record

ALL_OUTPUTS = ("--probabilities", "--uncertainty", "--review", "--overlays", "--instances")


@pytest.mark.parametrize(("length", "tile", "halo"), [(64, 16, 4), (61, 16, 6), (16, 16, 4)])
@pytest.mark.parametrize("count", [1, 2, 3, 50])
def test_bands_have_the_rows_and_sums_of_the_whole(length, tile, halo, count):
    padded = -(-length // 2) * 2
    weights = [sliding_window.shares(side, tile, halo, 2) for side in (padded, 32)]
    rng = np.random.default_rng(0)
    whole = Mosaic((length, 31), weights)
    tiles = {at: rng.random((tile, tile, 3)).astype(np.float32) for at in whole.corners}
    expected = [part for at in whole.corners for part in whole.add(at, tiles[at])]
    found, taken = [], set()
    for number in range(1, count + 1):
        band = Mosaic((length, 31), weights, (number, count))
        assert set(band.corners) <= set(whole.corners)
        taken |= set(band.corners)
        found += [part for at in band.corners for part in band.add(at, tiles[at])]
    assert taken == set(whole.corners)
    assert np.concatenate([rows for _, rows in found]).shape == (length, 31, 3)
    rows_of = dict(found)
    if count < 50:  # the last two rows of tiles end together in the whole
        assert len(found) == len(expected)
    for top, rows in expected:
        np.testing.assert_array_equal(rows_of[top], rows)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return runs.write_run(tmp_path_factory.mktemp("run"), depth=1)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of one image of 2.2 MB, three bands, and of a small one."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    tifffile.imwrite(folder / "huge.tif", rng.integers(0, 255, (1100, 2000), np.uint8))
    tifffile.imwrite(folder / "small.tif", rng.integers(0, 255, (300, 280), np.uint8))
    return folder


@pytest.fixture(scope="module")
def networks(run_dir):
    return functools.cache(predict_images.load)


def settings(run_dir, images, output, *more):
    argv = [f"--run_dir={run_dir}", f"--images={images}", f"--output={output}"]
    argv += ["--tile=256", "--band_megabytes=1", *more]
    return flags.parse(config.Predict, ["predict", *argv])


def predict_bands(asked, networks, numbers=(1, 2, 3)):
    count, keys = predict_images.items(asked)
    assert (count, len(keys)) == (2, 3)
    for number in numbers:
        predict_images.predict_band(asked, networks, keys[number - 1])
    return keys


@pytest.mark.slow
def test_bands_make_the_files_that_one_start_makes(run_dir, images, networks, tmp_path):
    predict_images.predict(settings(run_dir, images, tmp_path / "one", *ALL_OUTPUTS), networks)
    asked = settings(run_dir, images, tmp_path / "two", *ALL_OUTPUTS)
    predict_bands(asked, networks, (3, 1, 2))
    predict_images.predict(asked, networks)
    assert folders.content(tmp_path / "two") == folders.content(tmp_path / "one")
    assert len(folders.content(tmp_path / "two")) == 2 * 6 + 2
    assert predict_images.items(asked) == (2, [])  # the mask is there


@pytest.mark.slow
def test_bands_are_joined_and_not_predicted_again(run_dir, images, networks, tmp_path):
    asked = settings(run_dir, images, tmp_path)
    predict_bands(asked, networks)
    (path,) = (tmp_path / "parts/bands").glob("*/2-of-3")
    parts = list(bands.read(str(path), ""))
    head = path.read_bytes().partition(b"\n")[0] + b"\n"
    with open(path, "wb") as file:
        file.write(head)
        for values in parts:
            for name in json.loads(head)["names"]:
                np.lib.format.write_array(file, 1 - values[name] if name == "ids" else values[name])
    predict_images.predict(asked, networks)
    plain = tmp_path / "plain"
    predict_images.predict(settings(run_dir, images, plain), networks)
    masks = [tifffile.imread(folder / "huge.tif") for folder in (tmp_path, plain)]
    (rows,) = np.nonzero((masks[0] != masks[1]).all(axis=1))
    assert len(rows) == sum(len(values["ids"]) for values in parts)
    assert rows[0] > 0
    masks[0][rows] = 255 - masks[0][rows]
    np.testing.assert_array_equal(*masks)


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["a band", "probabilities", "the image"])
def test_what_bands_do_not_have_is_predicted(run_dir, images, networks, tmp_path, missing):
    folder = shutil.copytree(images, tmp_path / "images")
    more = ("--probabilities",) if missing == "probabilities" else ()
    predict_bands(settings(run_dir, folder, tmp_path / "out"), networks)
    if missing == "a band":
        (path,) = (tmp_path / "out/parts/bands").glob("*/2-of-3")
        path.unlink()
    elif missing == "the image":
        pixels = tifffile.imread(folder / "huge.tif")
        tifffile.imwrite(folder / "huge.tif", 255 - pixels)
    predict_images.predict(settings(run_dir, folder, tmp_path / "out", *more), networks)
    predict_images.predict(settings(run_dir, folder, tmp_path / "plain", *more), networks)
    assert folders.content(tmp_path / "out") == folders.content(tmp_path / "plain")


@pytest.mark.slow
def test_a_band_that_is_there_is_not_predicted_again(run_dir, images, networks, tmp_path):
    asked = settings(run_dir, images, tmp_path)
    predict_bands(asked, networks, (1,))
    (path,) = (tmp_path / "parts/bands").glob("*/1-of-3")
    before = path.stat().st_mtime_ns
    predict_bands(asked, networks, (1,))
    assert path.stat().st_mtime_ns == before
    predict_bands(settings(run_dir, images, tmp_path, "--uncertainty"), networks, (1,))
    assert path.stat().st_mtime_ns > before


@pytest.mark.slow
def test_no_band_is_written_among_other_predictions(run_dir, images, networks, tmp_path):
    predict_images.predict(settings(run_dir, images, tmp_path, "--tta=flips"), networks)
    os.remove(tmp_path / "huge.tif")
    asked = settings(run_dir, images, tmp_path)
    with pytest.raises(InputError, match=r"holds predictions with another tta \(flips instead of"):
        predict_bands(asked, networks, (1,))
    assert not (tmp_path / "parts").exists()


@pytest.mark.slow
def test_no_band_is_written_among_other_predictions_of_parts(run_dir, images, networks, tmp_path):
    for part in ("--part=1/2", "--part=2/2"):
        asked = settings(run_dir, images, tmp_path, "--tta=flips", part)
        predict_images.predict(asked, networks)
    os.remove(tmp_path / "huge.tif")
    asked = settings(run_dir, images, tmp_path)
    with pytest.raises(InputError, match=r"holds predictions with another tta \(flips instead of"):
        predict_bands(asked, networks, (1,))
    assert not (tmp_path / "parts/bands").exists()


def test_what_is_refused_is_refused_before_bands(run_dir, images, tmp_path):
    with pytest.raises(InputError, match="^--output=.* is where the images are; masks would take"):
        predict_images.items(settings(run_dir, images, images, "--format=npy"))
    with pytest.raises(InputError, match=r"^--format=nii\.gz is for volumes, and --run_dir="):
        predict_images.items(settings(run_dir, images, tmp_path, "--format=nii.gz"))


@pytest.mark.slow
def test_a_folder_that_cannot_be_made_is_one_line(run_dir, images, networks, tmp_path):
    (tmp_path / "parts").write_text("")
    with pytest.raises(InputError, match="^--output=.* cannot be created: Not a directory; name"):
        predict_bands(settings(run_dir, images, tmp_path), networks, (1,))


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_told(run_dir, images, networks, tmp_path, monkeypatch):
    full = functools.partial(open, "/dev/full")
    monkeypatch.setattr(bands.files, "writing", lambda path, mode: full(mode))
    with pytest.raises(OSError, match="No space left on device"):
        predict_bands(settings(run_dir, images, tmp_path), networks, (1,))


@pytest.mark.slow
def test_bands_of_a_link_are_read_by_the_name_of_the_link(run_dir, networks, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    with open(tmp_path / "blob", "wb") as file:
        np.save(file, np.random.default_rng(0).integers(0, 255, (600, 2000), np.uint8))
    os.symlink(tmp_path / "blob", folder / "a.npy")
    asked = settings(run_dir, folder, tmp_path / "out")
    _, keys = predict_images.items(asked)
    for key in keys:
        predict_images.predict_band(asked, networks, key)
    assert len(list((tmp_path / "out/parts/bands").glob("*/*-of-2"))) == len(keys) == 2


@pytest.mark.slow
def test_masks_of_images_in_folders_of_the_same_names_stay(run_dir, images, networks, tmp_path):
    folder = tmp_path / "images/parts/bands"
    shutil.copytree(images, folder)
    asked = settings(run_dir, tmp_path / "images", tmp_path / "out")
    predict_bands(asked, networks)
    predict_images.predict(asked, networks)
    names = {"prediction.json", "parts/bands/huge.tif", "parts/bands/small.tif"}
    assert set(folders.content(tmp_path / "out")) == names


@pytest.mark.slow
def test_a_damaged_band_is_named(run_dir, images, networks, tmp_path):
    asked = settings(run_dir, images, tmp_path)
    predict_bands(asked, networks)
    (path,) = (tmp_path / "parts/bands").glob("*/2-of-3")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError, match=r"2-of-3 is damaged; remove it, and start again\.$"):
        predict_images.predict(asked, networks)
    path.write_bytes(b"{")
    with pytest.raises(InputError, match=r"2-of-3 is damaged; remove it, and start again\.$"):
        predict_images.predict(asked, networks)
    path.unlink()
    predict_images.predict(asked, networks)
    assert not (tmp_path / "parts").exists()


@pytest.mark.slow
def test_an_unreadable_image_is_left_to_the_start_that_joins(run_dir, images, networks, tmp_path):
    folder = shutil.copytree(images, tmp_path / "images")
    content = (folder / "huge.tif").read_bytes()
    (folder / "huge.tif").write_bytes(content[:-900_000])
    asked = settings(run_dir, folder, tmp_path / "out", "--skip_bad")
    _, keys = predict_images.items(asked)
    for key in keys:
        predict_images.predict_band(asked, networks, key)
    predict_images.predict(asked, networks)
    assert sorted(os.listdir(tmp_path / "out")) == ["prediction.json", "small.tif"]


@pytest.mark.slow
def test_bands_are_kept_in_a_bucket(run_dir, images, networks, tmp_path, gcs, bucket):
    for path in images.iterdir():
        gcs.write(f"{bucket}/images/{path.name}", path.read_bytes())
    asked = settings(run_dir, f"{bucket}/images", f"{bucket}/out", "--probabilities")
    predict_bands(asked, networks)
    predict_images.predict(asked, networks)
    plain = tmp_path / "plain"
    predict_images.predict(settings(run_dir, images, plain, "--probabilities"), networks)
    expected = folders.content(plain)
    assert set(gcs.names(f"{bucket}/out/")) == set(expected)
    for name in expected.keys() - {"prediction.json"}:
        assert gcs.read(f"{bucket}/out/{name}") == expected[name]


def test_only_large_files_of_one_image_have_bands():
    asked = config.Predict(images="a", output="b")
    small, large, page = (
        record.Origin("a.tif", row, size)
        for row, size in [(None, 256 * 10**6), (None, 256 * 10**6 + 1), (3, 10**10)]
    )
    source = discovery.Source("a", "link\udcff.tif", None, "link")
    assert not bands.of_image(asked, source, small)
    assert not bands.of_image(asked, source, page)
    found = bands.of_image(asked, source, large)
    assert [(band.number, band.count) for band in found] == [(1, 2), (2, 2)]
    assert [bands.Band.of_key(band.to_key()) for band in found] == found
    huge = record.Origin("a.tif", None, 10**12)
    assert len(bands.of_image(asked, source, huge)) == 100
