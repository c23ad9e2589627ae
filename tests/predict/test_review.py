"""Which masks to look at first, and how uncertain their pixels are."""

import csv
import json
import logging
import os

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from tests import runs
from tests.devices import strategy_of
from trainer import config
from trainer.config import flags
from trainer.data.dataset.volume_examples import Channel, Volumes
from trainer.errors import InputError
from trainer.predict import __main__ as command
from trainer.predict import predictor, review, uncertainty
from trainer.predict.volume_predictor import VolumePredictor

NAMES = ("background", "a", "b")


def test_the_expected_dice_is_twice_what_is_shared_by_all_there_is():
    # Of class 1, p sums to 2 and the mask has 2 pixels, in which p is 1.5: 2 · 1.5 / (2 + 2).
    probabilities = np.array([[[0.75], [0.75], [0.5 - 1e-9], [1e-9]]], np.float32)
    ids = np.array([[1, 1, 0, 0]], np.uint8)
    whole, parts = review.Sums(2), review.Sums(2)
    whole.add(review.sums_of(probabilities, ids))
    for k in range(4):
        parts.add(review.sums_of(probabilities[:, k : k + 1], ids[:, k : k + 1]))
    assert whole.expected() == parts.expected() == review.Expected(0.75, [0.75])


def test_classes_that_are_not_in_the_mask_are_left_out_of_the_mean():
    sums = review.Sums(3)
    probabilities = np.array([[0.25, 0.5, 0.25], [1, 0, 0]], np.float32)
    sums.add(review.sums_of(probabilities, np.array([1, 0], np.uint8)))
    assert sums.expected() == review.Expected(round(2 * 0.5 / 1.5, 6), [round(2 / 3, 6), None])
    nothing = review.Sums(3)
    probabilities = np.array([[0.75, 0.25, 0], [1, 0, 0]], np.float32)
    nothing.add(review.sums_of(probabilities, np.zeros(2, np.uint8)))
    assert nothing.expected() == review.Expected(0.75, [None, None])


def test_the_list_has_the_lowest_first_and_is_known_again():
    found = {f"{k}.png": review.Expected(k / 10, [k / 10, None]) for k in (3, 1, 7, 5, 9, 8)}
    text = review.to_csv(found, NAMES)
    rows = list(csv.reader(text.splitlines()))
    assert rows[0] == ["mask", "expected_dice", "expected_dice/a", "expected_dice/b"]
    assert rows[1] == ["1.png", "0.100000", "0.100000", ""]
    assert [row[0] for row in rows[1:]] == [f"{k}.png" for k in (1, 3, 5, 7, 8, 9)]
    assert review.is_ours(text, NAMES)
    for other in ("", "mask,seen\n", review.to_csv(found, NAMES[:2])):
        assert not review.is_ours(other, NAMES)
    said = review.described(found, "out/review.csv").splitlines()
    assert said[0] == "Look at these first, by their expected Dice; out/review.csv has all:"
    assert said[1:] == [f"0.{k}000  {k}.png" for k in (1, 3, 5, 7, 8)]


def test_the_list_has_names_that_are_no_text():
    text = review.to_csv({"a\udcff\n.png": review.Expected(0.5, [0.5, None])}, NAMES)
    assert text.encode().splitlines()[1] == rb"a\xff\n.png,0.500000,0.500000,"


def test_the_entropy_is_0_of_one_class_and_1_of_equal_ones():
    found = uncertainty.predictive_entropy(np.array([[0.0], [0.5], [1.0], [0.25]], np.float32))
    bits = -0.25 * np.log2(0.25) - 0.75 * np.log2(0.75)
    np.testing.assert_allclose(found, [0, 1, 0, bits], atol=1e-6)
    several = np.array([[0.25] * 4, [0, 0, 1, 0], [0.5, 0.5, 0, 0]], np.float32)
    np.testing.assert_allclose(uncertainty.predictive_entropy(several), [1, 0, 0.5], atol=1e-6)


def predict(run_dir, folder, *more):
    where = [f"--run_dir={run_dir}", f"--images={folder}", f"--output={folder.parent / 'out'}"]
    command.main(flags.parse(config.Predict, ["predict", "--strategy=one_device", *where, *more]))
    return folder.parent / "out"


def rows_of(out):
    with open(out / review.NAME, newline="") as file:
        return {row["mask"]: row for row in csv.DictReader(file)}


@pytest.mark.slow
def test_images_have_maps_and_a_list_that_grows_with_their_folder(tmp_path, caplog):
    run_dir = runs.write_run(tmp_path / "run", depth=1)
    folder = tmp_path / "images"
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 255, (3, 150, 40)).astype(np.uint8)
    Image.fromarray(images[0]).save(folder / "0.png")
    np.save(folder / "1.npy", images[1])
    out = predict(run_dir, folder, "--tile=64")
    assert not (out / review.NAME).exists()
    with caplog.at_level(logging.INFO, logger="absl"):
        predict(run_dir, folder, "--tile=64", "--review", "--uncertainty", "--probabilities")
    assert "Wrote 2 masks" in caplog.text  # those that were there had no expected Dice
    assert "Look at these first, by their expected Dice" in caplog.text
    Image.fromarray(images[2]).save(folder / "2.png")
    predict(run_dir, folder, "--tile=64")  # which the list has as well
    found = rows_of(out)
    assert sorted(found) == ["0.png", "1.npy", "2.png"]
    networks = predictor.Predictor([run_dir], strategy_of(1), tile=64)
    for k, (name, row) in enumerate(sorted(found.items())):
        p = networks.probabilities(images[k])[..., 1].astype(np.float64)
        mask = p >= 0.5
        expected = 2 * p[mask].sum() / (p.sum() + mask.sum())
        assert float(row["expected_dice"]) == pytest.approx(expected, abs=1e-3), name
    maps = tifffile.imread(out / "uncertainty/0.tif"), np.load(out / "uncertainty/1.npy")
    for name, found in zip("01", maps, strict=True):
        assert found.dtype == np.float32
        p = np.load(out / f"probabilities/{name}.npy")[..., np.newaxis]
        np.testing.assert_array_equal(found, uncertainty.predictive_entropy(p))
    assert not (out / ".unfinished").exists()
    assert sorted(os.listdir(out / "uncertainty")) == ["0.tif", "1.npy"]


@pytest.mark.slow
def test_a_file_of_others_with_the_name_of_the_list_stays(tmp_path):
    run_dir = runs.write_run(tmp_path / "run", depth=1, filters=2)
    folder = tmp_path / "images"
    folder.mkdir()
    np.save(folder / "1.npy", np.zeros((16, 16), np.uint8))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / review.NAME).write_text("my notes\n")
    with pytest.raises(InputError, match=r"review.csv exists, and no earlier start of this comm"):
        predict(run_dir, folder, "--review")
    assert (tmp_path / "out" / review.NAME).read_text() == "my notes\n"
    assert not (tmp_path / "out/prediction.json").exists()


@pytest.mark.slow
def test_volumes_have_maps_in_their_grids_and_the_list(tmp_path):
    volumes = Volumes((2.0, 1.0, 1.0), (Channel("MR", "zscore"),))
    kind = {"dtype": "float32", "crop": (4, 8, 8), "filters": 2, "depth": 1}
    values = {"classes": NAMES, "values": (0, 1, 2), "volumes": volumes}
    run_dir = runs.write_run(tmp_path / "run", **kind, **values)
    runs.calibrate(run_dir, 0.5)
    folder = tmp_path / "images"
    folder.mkdir()
    scan = np.zeros((10, 14, 12), np.float32)  # what is cropped away is certain
    scan[2:9, 1:13] = np.random.default_rng(0).normal(100, 10, (7, 12, 12))
    nibabel.Nifti1Image(scan.T, np.diag([1.0, 1.0, 2.0, 1.0])).to_filename(folder / "a.nii.gz")
    out = predict(run_dir, folder, "--review", "--uncertainty", "--probabilities")
    assert json.loads((out / "prediction.json").read_text())["temperatures"] == [0.5]
    shares = np.load(out / "probabilities/a.npy")
    networks = VolumePredictor([run_dir], strategy_of(1))
    expected = networks.probabilities(scan, (2.0, 1.0, 1.0))
    np.testing.assert_allclose(shares, expected, atol=runs.CLOSE)
    found = nibabel.load(out / "uncertainty/a.nii.gz")
    np.testing.assert_array_equal(found.affine, np.diag([1.0, 1.0, 2.0, 1.0]))
    entropy = np.asarray(found.dataobj).T
    np.testing.assert_array_equal(entropy, uncertainty.predictive_entropy(shares))
    assert not entropy[:2].any()
    assert entropy.max() > 0.5
    (row,) = rows_of(out).values()
    ids = shares.argmax(-1)
    for k, name in enumerate(NAMES[1:], 1):
        p, mask = shares[..., k].astype(np.float64), ids == k
        dice = 2 * p[mask].sum() / (p.sum() + mask.sum())
        assert float(row[f"expected_dice/{name}"]) == pytest.approx(dice, abs=1e-5)
