"""The command on volumes: masks in the grids of their images, and on from where it stopped."""

import csv
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from tests import preparing, runs, volume_files
from tests.devices import strategy_of
from trainer import config
from trainer.config import flags
from trainer.data import synthetic
from trainer.data.dataset.volume_examples import Channel, Volumes
from trainer.data.formats import discovery, volumes
from trainer.data.geometry import Geometry
from trainer.errors import InputError
from trainer.evaluate import components, evaluate_run
from trainer.predict import __main__ as command
from trainer.predict.volume_predictor import VolumePredictor

pytest.importorskip("SimpleITK")
pytestmark = pytest.mark.slow  # networks are traced

SPACING = (3.0, 0.5, 0.75)
# A quarter turn about the long axis of the body, so that no axis is where it would be by default.
GRID = Geometry(SPACING, (-10.5, 20.25, 7.0), (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    how = Volumes((3.0, 1.0, 0.75), (Channel("T1", "zscore"),))
    return runs.write_run(
        tmp_path_factory.mktemp("run"),
        volumes=how,
        crop=(4, 8, 8),
        dtype="float32",
        filters=2,
        depth=1,
        classes=("background", "front", "back"),
        values=(0, 1, 300),
    )


@pytest.fixture(scope="module")
def image_run_dir(tmp_path_factory):
    return runs.write_run(tmp_path_factory.mktemp("images"), depth=1)


@pytest.fixture(scope="module")
def loaded(run_dir):
    return VolumePredictor([run_dir], strategy_of(1))


def scan(seed):
    return np.random.default_rng(seed).integers(1, 1000, (5, 18, 9)).astype(np.int16)


@pytest.fixture
def scans(tmp_path):
    """A folder of three volumes: NIfTI, NRRD and an array, which says nothing of its grid."""
    folder = tmp_path / "scans"
    folder.mkdir()
    volumes.write(str(folder / "a.nii.gz"), scan(0), GRID)
    volumes.write(str(folder / "b.nrrd"), scan(1), GRID)
    np.save(folder / "c.npy", scan(2))
    return folder


def predict(*arguments):
    command.main(flags.parse(config.Predict, ["predict", *arguments]))


def arguments(run_dir, scans, *others):
    return [
        *(f"--run_dir={run_dir}", f"--images={scans}", f"--output={scans.parent / 'out'}"),
        *others,
    ]


def read(path):
    source = discovery.Source("x", str(path), None, "x")
    values, header = volumes.read_volume_mask(source, 10**6)
    return values, header.grid


def test_masks_are_in_the_grids_and_kinds_of_their_images(run_dir, loaded, scans, caplog):
    predict(*arguments(run_dir, scans))
    out = scans.parent / "out"
    assert sorted(os.listdir(out)) == ["a.nii.gz", "b.nrrd", "c.npy", "prediction.json"]
    for seed, name in enumerate(("a.nii.gz", "b.nrrd")):
        mask, grid = read(out / name)
        expected = loaded.probabilities(scan(seed), SPACING)
        runs.assert_same_mask(mask, np.array((0, 1, 300))[expected.argmax(-1)], expected)
        np.testing.assert_allclose(grid.to_array(), GRID.to_array(), rtol=0, atol=1e-6)
    expected = loaded.probabilities(scan(2), (1, 1, 1))
    mask = np.load(out / "c.npy")
    runs.assert_same_mask(mask, np.array((0, 1, 300))[expected.argmax(-1)], expected)
    assert mask.dtype == np.uint16
    assert "c.npy does not say how far its voxels are apart; 1 mm is assumed." in caplog.text


def test_probabilities_strips_and_instances_come_when_asked_for(run_dir, loaded, scans):
    more = ("--probabilities", "--overlays", "--previews", "--instances", "--format=nii.gz")
    predict(*arguments(run_dir, scans, *more))
    out = scans.parent / "out"
    found = np.load(out / "probabilities" / "a.npy")
    np.testing.assert_allclose(found, loaded.probabilities(scan(0), SPACING), atol=runs.CLOSE)
    strip, preview = (np.asarray(Image.open(out / f"{k}/b.png")) for k in ("overlays", "previews"))
    assert strip.shape == preview.shape
    assert (strip != preview).any()
    assert read(out / "c.nii.gz")[0].shape == (5, 18, 9)
    mask, (numbers, grid) = read(out / "a.nii.gz")[0], read(out / "instances" / "a.nii.gz")
    np.testing.assert_array_equal(numbers > 0, mask > 0)
    np.testing.assert_allclose(grid.to_array(), GRID.to_array(), rtol=0, atol=1e-6)
    with open(out / "instances" / "a.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["voxels"]) for row in rows] == np.bincount(numbers.ravel())[1:].tolist()
    np.save(scans / "c.npy", scan(3))
    predict(*arguments(run_dir, scans, "--format=nii.gz"))  # with what was asked for before
    found = np.load(out / "probabilities" / "c.npy")
    np.testing.assert_allclose(found, loaded.probabilities(scan(3), (1, 1, 1)), atol=runs.CLOSE)


def test_a_second_start_does_only_what_is_missing_or_changed(run_dir, scans, caplog):
    predict(*arguments(run_dir, scans))
    out = scans.parent / "out"
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    (out / "b.nrrd").unlink()
    np.save(scans / "c.npy", scan(3))
    with caplog.at_level("INFO", logger="absl"):
        predict(*arguments(run_dir, scans))
    after = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert [name for name in sorted(before) if before[name] != after[name]] == [
        *("b.nrrd", "c.npy", "prediction.json")
    ]
    assert "Wrote 2 masks" in caplog.text
    assert "1 existed already." in caplog.text
    origin = json.loads((out / "prediction.json").read_text())["files"]["c.npy"]["image"]
    assert origin["path"] == str(scans / "c.npy")
    with pytest.raises(InputError, match="holds predictions with another tta"):
        predict(*arguments(run_dir, scans, "--tta=flips"))


def test_the_channels_of_a_case_are_one_volume(tmp_path):
    how = Volumes(None, (Channel("T1", "zscore"), Channel("T2", "zscore")))
    settings = {"crop": 8, "dtype": "float32", "filters": 2, "depth": 1}
    run_dir = runs.write_run(tmp_path / "run", volumes=how, channels=2, **settings)
    scans = tmp_path / "scans"
    scans.mkdir()
    for channel in range(2):
        volumes.write(str(scans / f"case_000{channel}.nii.gz"), scan(channel), GRID)
    predict(*arguments(run_dir, scans))
    mask, grid = read(tmp_path / "out" / "case.nii.gz")
    both = np.stack([scan(0), scan(1)], axis=-1)
    networks = VolumePredictor([run_dir], strategy_of(1))
    shares = networks.probabilities(both)
    runs.assert_same_mask(mask, np.array((0, 255))[shares.argmax(-1)], shares)
    np.save(scans / "other.npy", scan(2))
    with pytest.raises(InputError, match=r"_0000.nii.gz has 1 channels and the networks take 2 "):
        predict(*arguments(run_dir, scans))  # whose names are no longer all of channels


def test_an_unreadable_volume_is_named_and_skipped_if_asked(run_dir, scans, caplog):
    (scans / "b.nrrd").write_bytes((scans / "b.nrrd").read_bytes()[:200])
    with pytest.raises(InputError, match="b.nrrd .* skip it with --skip_bad."):
        predict(*arguments(run_dir, scans))
    with caplog.at_level("INFO", logger="absl"):
        predict(*arguments(run_dir, scans, "--skip_bad"))
    assert "1 could not be read and were left out." in caplog.text
    assert not (scans.parent / "out" / "b.nrrd").exists()


def test_what_is_for_images_is_refused_for_volumes(run_dir, scans):
    for argument, message in {
        "--format=png": "--format=png is for images, and --run_dir=.* was trained on volumes; use",
        "--tile=512": "--tile=512 is for images, and",
        "--tta=d4": "--tta=d4 exchanges rows and columns",
    }.items():
        with pytest.raises(InputError, match=message):
            predict(*arguments(run_dir, scans, argument))


def test_images_and_volumes_are_not_taken_for_each_other(run_dir, image_run_dir, tmp_path):
    folders = [tmp_path / name for name in ("pictures", "scans")]
    for folder in folders:
        folder.mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folders[0] / "a.png")
    volumes.write(str(folders[1] / "a.nii"), scan(0), GRID)
    with pytest.raises(InputError, match=r"no volumes.* was trained on volumes\.$"):
        predict(*arguments(run_dir, folders[0]))
    with pytest.raises(InputError, match="holds volumes, and --run_dir=.* was trained on images"):
        predict(*arguments(image_run_dir, folders[1]))
    with pytest.raises(InputError, match=r"--format=nii.gz is for volumes, and .* use png, tif"):
        predict(*arguments(image_run_dir, folders[0], "--format=nii.gz"))


def test_a_score_is_a_score_of_these_masks(tmp_path):
    synthetic.main(config.Synthetic(output=str(tmp_path / "made"), cases=5))
    images = f"--images={tmp_path / 'made'}"
    manifest = preparing.prepare(tmp_path, images, "--masks=", "--spacing=4,1.5,1.5")
    run_dir = runs.write_run(
        tmp_path / "run",
        volumes=manifest.volumes,
        crop=(8, 24, 24),
        dtype="float32",
        filters=2,
        depth=1,
        classes=[entry.name for entry in manifest.classes],
        values=[entry.value for entry in manifest.classes],
    )
    data_dir = str(tmp_path / "out")
    evaluate_run.evaluate_run(config.Evaluate(run_dir=run_dir, data_dir=data_dir, split="val"))
    with open(tmp_path / "run" / "evaluation" / "val" / "cases.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    made, masks = tmp_path / "made", tmp_path / "masks"
    predict(f"--run_dir={run_dir}", f"--images={made / 'imagesTr'}", f"--output={masks}")
    values = {entry.name: entry.value for entry in manifest.classes}
    for row in rows:
        truth, predicted = (
            read(folder / f"{row['case']}.nii.gz")[0] == values[row["class"]]
            for folder in (made / "labelsTr", masks)
        )
        found = truth.sum(), predicted.sum(), (truth & predicted).sum()
        expected = [int(row[name]) for name in ("truth", "prediction", "intersection")]
        # Rounding may decide a voxel whose two best logits are equal.
        np.testing.assert_allclose(found, expected, atol=1e-4 * truth.size)
    assert len(rows) == 3 * manifest.splits["val"].examples > 0


def test_a_gs_folder_gives_and_takes_what_a_local_one_does(run_dir, scans, gcs, bucket, caplog):
    predict(*arguments(run_dir, scans))
    for path in scans.iterdir():
        gcs.write(f"{bucket}/scans/{path.name}", path.read_bytes())
    remote = [f"--run_dir={run_dir}", f"--images={bucket}/scans", f"--output={bucket}/out"]
    predict(*remote)
    out = scans.parent / "out"
    assert gcs.names(f"{bucket}/out/") == sorted(os.listdir(out))
    for name in ("a.nii.gz", "b.nrrd", "c.npy"):
        assert gcs.read(f"{bucket}/out/{name}") == (out / name).read_bytes(), name
    with caplog.at_level("INFO", logger="absl"):
        predict(*remote)
    assert "; 3 existed already." in caplog.messages[-1]


def test_a_volume_of_zeros_is_all_background(run_dir, tmp_path):
    volumes.write(str(tmp_path / "a.nii"), np.zeros((3, 4, 5), np.int16), GRID)
    predict(f"--run_dir={run_dir}", f"--images={tmp_path}/*.nii", f"--output={tmp_path / 'out'}")
    assert read(tmp_path / "out" / "a.nii.gz")[0].shape == (3, 4, 5)


def test_a_series_of_dicom_slices_is_a_volume(run_dir, loaded, tmp_path, caplog):
    values = scan(4)
    volume_files.save_series(tmp_path / "scans" / "patient", values)
    predict(*arguments(run_dir, tmp_path / "scans"))
    mask, grid = read(tmp_path / "out" / "patient.nii.gz")
    np.testing.assert_allclose((*grid.spacing, *grid.origin), (3, 0.5, 0.4, -12.5, 7.5, 0))
    expected = loaded.probabilities(values, grid.spacing)
    runs.assert_same_mask(mask, np.array((0, 1, 300))[expected.argmax(-1)], expected)
    with caplog.at_level("INFO", logger="absl"):
        predict(*arguments(run_dir, tmp_path / "scans"))
    assert "; 1 existed already." in caplog.messages[-1]
    folder = tmp_path / "scans" / "patient"
    with pytest.raises(InputError, match="is where the images are"):
        predict(*arguments(run_dir, folder)[:2], f"--output={folder}")


def test_masks_of_volumes_keep_what_was_decided(run_dir, scans, tmp_path):
    predict(*arguments(run_dir, scans))
    copy = shutil.copytree(run_dir, tmp_path / "decided")
    decision = {"keep_largest": {"foreground": True, "classes": ["front"]}}
    (copy / "postprocessing.json").write_text(json.dumps(decision))
    predict(*arguments(copy, scans, "--output=" + str(tmp_path / "kept")))
    every = np.searchsorted((0, 1, 300), np.load(tmp_path / "out/c.npy")).astype(np.uint8)
    found = np.searchsorted((0, 1, 300), np.load(tmp_path / "kept/c.npy"))
    np.testing.assert_array_equal(found, components.Decision(True, (1,)).apply(every))
    assert (found == 1).sum() < (every == 1).sum()
