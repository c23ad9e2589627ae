"""Tests of the data that are made up."""

import csv
import math
import pathlib

import numpy as np
import pytest
import SimpleITK
from PIL import Image

from tests import folders
from tests.pictures import refusal
from trainer import config
from trainer.data import synthetic
from trainer.data.formats import volumes
from trainer.data.prepare import preparation, volume_pairing


def make(folder, **settings):
    synthetic.main(config.Synthetic(output=str(folder), **settings))
    with open(folder / "truth.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_balls_content_is_that_of_the_formula():
    ball = synthetic.Ellipsoid(np.zeros(3), np.full(3, 2.0), np.eye(3))
    assert ball.content == pytest.approx(32 / 3 * math.pi)
    assert synthetic.Ellipsoid(np.zeros(2), np.array([1.0, 3.0]), np.eye(2)).content == (
        pytest.approx(3 * math.pi)
    )
    assert ball.has(np.array([[0, 0, 2], [0, 1.5, 1.5]])).tolist() == [True, False]


def test_volumes_are_taken_as_they_are_and_have_the_truth_in_their_headers(tmp_path):
    rows = make(tmp_path / "d", cases=8, seed=3)
    found = volume_pairing.find(config.Prepare(images=str(tmp_path / "d")))
    assert [pair.name for pair in found.pairs] == [f"case_{k:03}" for k in range(7)]
    assert found.classes == "background:0,body:1,core:2"
    assert found.channel_names == ("MR",)
    values, header = volumes.read_volume(found.pairs[0].images, 10**6, 1)
    mask, other = volumes.read_volume_mask(found.pairs[0].mask, 10**6)
    volumes.check_same_grid("image", header, "mask", other)
    assert values.dtype == np.int16
    assert header.grid.spacing[0] > 2 * header.grid.spacing[1]
    voxel = math.prod(header.grid.spacing)
    for row, index in zip(rows[:2], (1, 2), strict=True):
        assert float(row["mask_mm3"]) == pytest.approx(voxel * (mask == index).sum(), abs=0.01)
    ratios = [float(row["mask_mm3"]) / float(row["mm3"]) for row in rows]
    # A mask counts voxels by their middles, so it errs by few of those at the surface.
    np.testing.assert_allclose(ratios, 1, atol=0.1)
    assert np.mean(ratios) == pytest.approx(1, abs=0.02)
    new = SimpleITK.ReadImage(str(tmp_path / "d/imagesTs/case_007_0000.nii.gz"))
    assert new.GetDimension() == 3


def test_the_same_seed_makes_the_same_bytes_and_more_cases_change_none(tmp_path):
    for name, count, seed in (("a", 2, 0), ("b", 2, 0), ("c", 3, 0), ("d", 2, 1)):
        make(tmp_path / name, cases=count, seed=seed)
    first = folders.content(tmp_path / "a")
    assert first == folders.content(tmp_path / "b")
    image = "imagesTr/case_001_0000.nii.gz"
    assert first[image] == folders.content(tmp_path / "c")[image]
    assert first[image] != folders.content(tmp_path / "d")[image]


def test_images_are_prepared_as_they_are(tmp_path, caplog):
    rows = make(tmp_path / "d", kind="images", cases=16)
    mask = np.asarray(Image.open(tmp_path / "d/masks/case_000.png"))
    assert set(np.unique(mask)) == {0, 128, 255}
    assert int(float(rows[1]["mask_pixels"])) == (mask == 255).sum()
    assert len(list((tmp_path / "d/new").iterdir())) == 2
    manifest = preparation.prepare(
        config.Prepare(
            images=f"{tmp_path}/d/images",
            masks=f"{tmp_path}/d/masks",
            output=f"{tmp_path}/out",
            workers=1,
        )
    )
    assert [entry.value for entry in manifest.classes] == [0, 128, 255]
    assert sum(split.examples for split in manifest.splits.values()) == 14


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    (tmp_path / "mine.txt").touch()
    assert refusal(make, tmp_path).replace(str(tmp_path), "DIR") == (
        "--output=DIR is not empty; name another folder, or remove it."
    )
    assert [path.name for path in pathlib.Path(tmp_path).iterdir()] == ["mine.txt"]
    assert "--output is missing" in refusal(synthetic.main, config.Synthetic())
