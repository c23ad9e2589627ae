"""The command: from image files to masks, tables and overlays, and on from where it stopped."""

import csv
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import unicodedata
import weakref

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import ndimage

import trainer
from tests import folders, jobs, runs, terminals
from tests.devices import strategy_of
from trainer import cli, config
from trainer.checkpointing import run_metadata
from trainer.config import flags
from trainer.data.formats import discovery, mask_writer, npy_stream
from trainer.data.formats.npy_stream import TemporaryRows
from trainer.drawing import overlays
from trainer.errors import InputError
from trainer.evaluate import components
from trainer.predict import instances, outputs, predict_images, predictor
from trainer.storage import files

pytestmark = pytest.mark.slow  # networks are traced, and some processes started


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return runs.write_run(tmp_path_factory.mktemp("run"), depth=1)


@pytest.fixture(scope="module")
def loaded(run_dir):
    return predictor.Predictor([run_dir], strategy_of(1))


@pytest.fixture
def pictures(tmp_path):
    """A folder of five files: PNG, JPEG, an array, a TIFF and a TIFF of two pages."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (6, 40, 33)).astype(np.uint8)
    Image.fromarray(noise[0]).save(folder / "a.png")
    Image.fromarray(noise[1]).save(folder / "b.jpg")
    np.save(folder / "c.npy", noise[2])
    tifffile.imwrite(
        folder / "d.tif",
        noise[3],
        photometric="minisblack",
        resolution=(4000, 3000),
        resolutionunit="CENTIMETER",
        description="slide 7",
        metadata=None,
        extratags=[(33550, "d", 3, (0.5, 0.5, 0.0), True)],
    )
    tifffile.imwrite(folder / "e.tif", noise[4:], photometric="minisblack")
    return folder


def predict(*arguments):
    predict_images.predict(flags.parse(config.Predict, ["predict", *arguments]))


def arguments(run_dir, pictures, *others):
    output = pictures.parent / "out"
    return [f"--run_dir={run_dir}", f"--images={pictures}", f"--output={output}", *others]


def test_every_kind_of_image_gives_a_mask_of_its_name_size_and_kind(run_dir, loaded, pictures):
    predict(*arguments(run_dir, pictures))
    out = pictures.parent / "out"
    names = ["a.png", "b.png", "c.npy", "d.tif", "e_p000.tif", "e_p001.tif", "prediction.json"]
    assert sorted(os.listdir(out)) == names
    for name, read in {
        "a.png": lambda path: np.asarray(Image.open(path)),
        "b.png": lambda path: np.asarray(Image.open(path)),
        "c.npy": np.load,
        "d.tif": tifffile.imread,
    }.items():
        mask = read(out / name)
        image = next(iter(pictures.glob(f"{name[0]}.*")))
        values = np.load(image) if name == "c.npy" else np.asarray(Image.open(image))
        runs.assert_same_mask(mask, loaded.predict(values), loaded.probabilities(values))
        assert mask.dtype == np.uint8
    assert set(np.unique(np.load(out / "c.npy"))) == {0, 255}
    pages = tifffile.imread(pictures / "e.tif")
    mask = tifffile.imread(out / "e_p001.tif")
    runs.assert_same_mask(mask, loaded.predict(pages[1]), loaded.probabilities(pages[1]))


def test_a_tiff_keeps_resolution_description_and_place(run_dir, pictures):
    predict(*arguments(run_dir, pictures))
    with tifffile.TiffFile(pictures.parent / "out" / "d.tif") as file:
        page = file.pages[0]
        assert page.tags["XResolution"].value == (4000, 1)
        assert page.tags["YResolution"].value == (3000, 1)
        assert page.tags["ResolutionUnit"].value == 3
        assert page.description == "slide 7"
        assert page.tags[33550].value == (0.5, 0.5, 0.0)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_mask_is_upright_and_so_is_its_resolution(tmp_path, orientation):
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    tags = [(274, 3, 1, orientation, True), (33550, 12, 3, (0.5, 0.5, 0.0), True)]
    options = {"resolution": (400, 300), "photometric": "minisblack", "metadata": None}
    tifffile.imwrite(tmp_path / "x.tif", image, extratags=tags, **options)
    source = discovery.Source("x", str(tmp_path / "x.tif"), None, "x")
    ids = TemporaryRows(str(tmp_path), (4, 3), np.dtype(np.uint8))
    ids.append(np.zeros((4, 3), np.uint8))
    mask_writer.write_tiff(str(tmp_path / "mask.tif"), ids, source)
    with tifffile.TiffFile(tmp_path / "mask.tif") as file:
        page = file.pages[0]
        found = [page.tags[name].value[0] for name in ("XResolution", "YResolution")]
        assert found == ([300, 400] if orientation == 6 else [400, 300])
        assert (33550 in page.tags) == (orientation == 1)  # which counts the stored rows


def test_a_mask_is_that_of_the_picture_that_viewers_show(run_dir, tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (40, 33)).astype(np.uint8)
    exif = Image.Exif()
    exif[274] = 6  # stored from the bottom left upwards
    for name, values, options in (("up", image, {}), ("side", np.rot90(image), {"exif": exif})):
        (tmp_path / name).mkdir()
        Image.fromarray(values).save(tmp_path / name / "a.png", **options)
        places = [f"--images={tmp_path / name}", f"--output={tmp_path / name}-out"]
        predict(f"--run_dir={run_dir}", "--overlays", *places)
    for path in ("a.png", "overlays/a.png"):
        up, side = (Image.open(tmp_path / f"{name}-out" / path) for name in ("up", "side"))
        np.testing.assert_array_equal(np.asarray(side), np.asarray(up))


def test_probabilities_overlays_and_instances_come_when_asked_for(run_dir, loaded, pictures):
    more = ["--probabilities", "--overlays", "--instances", "--format=npy", "--overlay_opacity=1"]
    more += ["--previews"]
    predict(*arguments(run_dir, pictures, *more))
    out = pictures.parent / "out"
    image = np.asarray(Image.open(pictures / "a.png"))
    found = np.load(out / "probabilities" / "a.npy")
    np.testing.assert_allclose(found, loaded.probabilities(image)[..., 1], atol=runs.CLOSE)
    assert found.dtype == np.float32
    overlay = np.asarray(Image.open(out / "overlays" / "a.png"))
    assert overlay.shape == (40, 33, 3)
    mask, numbers = np.load(out / "a.npy"), np.load(out / "instances" / "a.npy")
    np.testing.assert_array_equal(numbers > 0, mask == 255)
    assert (overlay[mask == 255] == overlays.class_colour(1)).all()
    preview = np.asarray(Image.open(out / "previews" / "a.png"))
    assert (preview[mask == 255] == overlays.class_colour(1)).all()
    assert not preview[mask == 0].any()
    with open(out / "instances" / "a.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == numbers.max()
    assert [int(row["area"]) for row in rows] == np.bincount(numbers.ravel())[1:].tolist()
    assert rows[0]["class"] == "nucleus"


def test_a_second_start_does_only_what_is_missing(run_dir, pictures, caplog):
    predict(*arguments(run_dir, pictures))
    out = pictures.parent / "out"
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir() if path.is_file()}
    (out / "d.tif").unlink()
    (out / ".unfinished").mkdir()
    (out / ".unfinished" / "left.ids").write_bytes(b"of a process that was killed")
    with caplog.at_level("INFO", logger="absl"):
        predict(*arguments(run_dir, pictures))
    after = {path.name: path.stat().st_mtime_ns for path in out.iterdir() if path.is_file()}
    assert after.keys() == before.keys()
    assert [name for name in before if before[name] != after[name]] == ["d.tif"]
    assert "Wrote 1 masks" in caplog.messages[-1]
    assert "; 5 existed already." in caplog.messages[-1]
    assert not (out / ".unfinished").exists()
    predict(*arguments(run_dir, pictures, "--overlays"))  # what is asked for later is added
    assert len(os.listdir(out / "overlays")) == 6


def test_other_settings_do_not_mix_with_what_is_there(run_dir, pictures):
    predict(*arguments(run_dir, pictures))
    with pytest.raises(InputError) as error:
        predict(*arguments(run_dir, pictures, "--tta=flips"))
    assert str(error.value) == (
        f"--output={pictures.parent / 'out'} holds predictions with another tta (none instead of "
        "flips); name another folder, or remove that one first."
    )


def test_unreadable_images_stop_it_or_are_left_out(run_dir, pictures, caplog):
    data = (pictures / "b.jpg").read_bytes()
    (pictures / "b.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"b.jpg cannot be read: .* skip it with --skip_bad"):
        predict(*arguments(run_dir, pictures))
    with caplog.at_level("INFO", logger="absl"):
        predict(*arguments(run_dir, pictures, "--skip_bad"))
    assert sum("Skipped: " in message for message in caplog.messages) == 1
    assert caplog.messages[-1].endswith("1 could not be read and were left out.")
    names = set(os.listdir(pictures.parent / "out"))
    assert {"a.png", "c.npy", "d.tif"} <= names
    assert "b.png" not in names


def test_a_stack_of_arrays_gives_a_mask_for_each_row(run_dir, loaded, tmp_path):
    stack = np.random.default_rng(0).integers(0, 255, (3, 20, 24)).astype(np.uint8)
    np.save(tmp_path / "x.npy", stack)
    predict(f"--run_dir={run_dir}", f"--images={tmp_path}/x.npy", f"--output={tmp_path}/out")
    mask = np.load(tmp_path / "out/00002.npy")
    runs.assert_same_mask(mask, loaded.predict(stack[2]), loaded.probabilities(stack[2]))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--images="], "--images is missing; give --run_dir, --images and --output."),
        (["--images={at}/images"], "--images={at}/images does not exist; name a folder, a quoted "),
        (["--run_dir={at}/none"], "--run_dir={at}/none has no run.json; name a folder that "),
        (["--output={at}/x.png"], "--output={at}/x.png is a file; name a folder."),
        (["--output={at}"], "--output={at} is where the images are; masks would take their names"),
        (["--tta=some"], "--tta=some is not one of none, flips, d4."),
    ],
)
def test_what_cannot_be_is_one_line(run_dir, tmp_path, argv, message, capsys):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "x.png")
    given = [f"--run_dir={run_dir}", f"--images={tmp_path}", f"--output={tmp_path}/out"]
    argv = [*given, *(word.format(at=tmp_path) for word in argv)]
    with pytest.raises(SystemExit) as stop:
        cli.run(config.Predict, predict_images.predict, ["predict", *argv])
    assert stop.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith(message.format(at=tmp_path))


def test_two_images_of_one_name_are_refused(run_dir, pictures):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(pictures / "b.png")
    with pytest.raises(InputError, match=r"b.jpg and .*b.png would both be written to b.png;"):
        predict(*arguments(run_dir, pictures))


def refusal(*arguments):
    with pytest.raises(InputError) as error:
        predict(*arguments)
    return str(error.value)


def grey(path, *, side=12, level=0):
    path.parent.mkdir(exist_ok=True)
    noise = np.random.default_rng(level).integers(0, 255, (side, side)).astype(np.uint8)
    Image.fromarray(noise).save(path)


def test_images_of_equal_names_in_folders_have_masks_in_folders(run_dir, tmp_path, caplog):
    for level, name in enumerate(("p1", "p2")):
        (tmp_path / "images" / name).mkdir(parents=True)
        grey(tmp_path / "images" / name / "a.png", level=level)
    caplog.set_level("INFO", logger="absl")
    for _ in range(2):
        predict(*arguments(run_dir, tmp_path / "images", "--overlays"))
    assert "2 existed already" in caplog.text
    assert folders.content(tmp_path / "out").keys() >= {
        *("p1/a.png", "p2/a.png", "overlays/p1/a.png", "overlays/p2/a.png"),
    }
    (tmp_path / "out/p2/a.png").write_bytes(b"of somebody")
    assert "has changed since this command wrote it" in refusal(
        *arguments(run_dir, tmp_path / "images", "--overlays")
    )
    where = tmp_path / "images/masks"
    nested = [f"--run_dir={run_dir}", f"--images={tmp_path}/images", f"--output={where}"]
    assert refusal(*nested) == (
        f"--output={where} is among the folders of --images={tmp_path}/images, where masks would "
        "be taken for images at the next start; name a folder elsewhere."
    )
    assert not where.exists()


@pytest.mark.parametrize("flag", ["--overlays", "--probabilities", "--instances", "--format=png"])
@pytest.mark.parametrize("place", ["images", "link", "images/../images/", "images/./"])
@pytest.mark.parametrize("images", ["images", "images/*.png"])
def test_masks_are_never_written_among_the_images(run_dir, tmp_path, flag, place, images):
    grey(tmp_path / "images/a.png")
    (tmp_path / "link").symlink_to("images")
    before = folders.content(tmp_path)
    argv = [f"--run_dir={run_dir}", f"--images={tmp_path}/{images}", f"--output={tmp_path}/{place}"]
    assert refusal(*argv, flag) == (
        f"--output={tmp_path}/{place} is where the images are; masks would take their names: name "
        "another folder."
    )
    assert folders.content(tmp_path) == before


@pytest.mark.parametrize("place", ["images", "images/", "out/../images"])
def test_nor_are_they_in_a_store(run_dir, tmp_path, gcs, bucket, place):
    grey(tmp_path / "a.png")
    gcs.write(f"{bucket}/images/a.png", (tmp_path / "a.png").read_bytes())
    argv = [f"--run_dir={run_dir}", f"--images={bucket}/images", f"--output={bucket}/{place}"]
    assert f"--output={bucket}/{place} is where the images are" in refusal(*argv, "--overlays")
    gcs.write(f"{bucket}/out/a.png", b"drawn by hand")
    argv[2] = f"--output={bucket}/out"
    assert f"{bucket}/out/a.png exists, and no earlier start" in refusal(*argv)
    assert gcs.names(f"{bucket}/out/") == ["a.png"]
    assert gcs.read(f"{bucket}/out/a.png") == b"drawn by hand"


@pytest.mark.parametrize(
    ("flag", "name"),
    [
        ("--format=auto", "a.png"),
        ("--overlays", "overlays/a.png"),
        ("--probabilities", "probabilities/a.npy"),
        ("--instances", "instances/a.csv"),
        ("--instances", "instances/a.png"),
    ],
)
@pytest.mark.parametrize("kind", ["file", "folder", "link", "broken link"])
def test_a_file_that_no_prediction_wrote_is_named_and_left_alone(
    run_dir, tmp_path, flag, name, kind
):
    grey(tmp_path / "images/a.png")
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    (tmp_path / "mine").write_bytes(b"drawn by hand")
    if kind == "file":
        path.write_bytes(b"drawn by hand")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / ("mine" if kind == "link" else "nowhere"))
    before = folders.content(tmp_path)
    argv = [f"--run_dir={run_dir}", f"--images={tmp_path}/images", f"--output={tmp_path}/out"]
    assert refusal(*argv, flag) == (
        f"{path} exists, and no earlier start of this command wrote it; move it away, or name "
        "another --output."
    )
    assert folders.content(tmp_path) == before
    assert path.is_symlink() == ("link" in kind)


@pytest.mark.parametrize("name", ["prediction.json", ".unfinished/x", "lease.json", "overlays"])
def test_files_of_others_that_have_our_own_names_stay(run_dir, tmp_path, name):
    grey(tmp_path / "images/a.png")
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text('{"theirs": 1}')
    argv = [f"--run_dir={run_dir}", f"--images={tmp_path}/images", f"--output={tmp_path}/out"]
    assert "move it away, or name another --output." in refusal(*argv, "--overlays")
    assert list(folders.content(tmp_path / "out")) == [name]


def test_a_mask_that_was_corrected_by_hand_is_not_replaced(run_dir, pictures, tmp_path):
    predict(*arguments(run_dir, pictures))
    mask = tmp_path / "out" / "c.npy"
    for change in (b"shorter", mask.read_bytes()[:-1] + b"\7"):  # the second is as long as it was
        mask.write_bytes(change)
        assert refusal(*arguments(run_dir, pictures, "--overlays")) == (
            f"{mask} has changed since this command wrote it; move it away, or name another "
            "--output."
        )
        assert mask.read_bytes() == change
        assert not (tmp_path / "out" / "overlays").exists()


def test_a_copied_folder_of_masks_resumes(run_dir, pictures, tmp_path, caplog):
    predict(*arguments(run_dir, pictures))
    copy = shutil.copytree(tmp_path / "out", tmp_path / "copy", copy_function=shutil.copyfile)
    argv = [f"--run_dir={run_dir}", f"--images={pictures}", f"--output={copy}"]
    with caplog.at_level("INFO", logger="absl"):
        predict(*argv)
    assert "Wrote 0 masks" in caplog.messages[-1]
    assert "; 6 existed already." in caplog.messages[-1]


def test_another_folder_with_the_same_names_is_no_stale_done(run_dir, tmp_path):
    for folder, level in (("first", 1), ("second", 2)):
        grey(tmp_path / folder / "a.png", level=level)
    argv = [f"--run_dir={run_dir}", f"--output={tmp_path}/out"]
    predict(*argv, f"--images={tmp_path}/first")
    before = folders.content(tmp_path / "out")
    assert refusal(*argv, f"--images={tmp_path}/second") == (
        f"{tmp_path}/out/a.png was made from {tmp_path}/first/a.png, not from "
        f"{tmp_path}/second/a.png; name another --output, or remove what was made from the other "
        "images."
    )
    assert folders.content(tmp_path / "out") == before
    (tmp_path / "link").symlink_to("first")
    predict(*argv, f"--images={tmp_path}/link/*.png")  # the same image by another way
    after = folders.content(tmp_path / "out")
    assert after["a.png"] == before["a.png"]


def test_an_image_that_has_changed_is_predicted_again(run_dir, loaded, tmp_path, caplog):
    for name in ("a", "b"):
        grey(tmp_path / f"images/{name}.png")
    argv = [f"--run_dir={run_dir}", f"--images={tmp_path}/images", f"--output={tmp_path}/out"]
    predict(*argv, "--overlays")
    grey(tmp_path / "images/b.png", level=5, side=20)
    with caplog.at_level("INFO", logger="absl"):
        predict(*argv)
    assert (
        "1 images have changed since their masks were written, and are predicted again: "
        f"{tmp_path}/images/b.png"
    ) in caplog.messages
    assert "Wrote 1 masks" in caplog.messages[-1]
    for path in ("out/b.png", "out/overlays/b.png"):  # the latter was asked for before
        assert Image.open(tmp_path / path).size == (20, 20)
    before = folders.content(tmp_path / "out")
    predict(*argv, "--overlays")
    assert folders.content(tmp_path / "out") == before


def test_what_is_left_out_is_counted_in_the_last_line(run_dir, tmp_path, caplog):
    grey(tmp_path / "images/a.png")
    for name in ("b.svg", "c.svg", ".hidden"):
        (tmp_path / "images" / name).write_text("<svg/>")
    with caplog.at_level("INFO", logger="absl"):
        predict(*arguments(run_dir, tmp_path / "images"))
    assert caplog.messages[-1].endswith(" Left out: hidden files: 1, .svg files: 2.")


def test_a_run_that_was_trained_again_is_another(tmp_path):
    grey(tmp_path / "images/a.png")
    argv = [f"--images={tmp_path}/images", f"--output={tmp_path}/out"]
    first = runs.write_run(tmp_path / "run", depth=1, filters=2)
    predict(*argv, f"--run_dir={first}")
    moved = shutil.move(first, tmp_path / "moved")
    predict(*argv, f"--run_dir={moved}")  # the same weights
    again = runs.write_run(tmp_path / "run", depth=1, filters=2, seed=1)
    metadata = json.loads((tmp_path / "moved/run.json").read_text())
    (tmp_path / "run/run.json").write_text(json.dumps(metadata))  # the same settings and data
    line = refusal(*argv, f"--run_dir={again}")
    assert f"another weights ({moved} at step 7, weights " in line
    assert f" instead of {again} at step 7, weights " in line


@pytest.mark.parametrize("flag", ["--overlays", "--probabilities", "--instances"])
def test_names_of_all_outputs_are_checked_before_the_first_is_written(run_dir, tmp_path, flag):
    grey(tmp_path / "images/a.png")
    tifffile.imwrite(tmp_path / "images/a.tif", np.zeros((9, 7), np.uint8))
    argv = [f"--run_dir={run_dir}", f"--images={tmp_path}/images", f"--output={tmp_path}/out"]
    assert f"{tmp_path}/images/a.png and {tmp_path}/images/a.tif would both be written to " in (
        refusal(*argv, flag)
    )
    assert not (tmp_path / "out").exists()
    predict(*argv)  # masks alone have names of their own
    assert {"a.png", "a.tif"} <= set(os.listdir(tmp_path / "out"))


def test_pages_of_stacks_have_names_of_their_own_or_are_refused(run_dir, tmp_path):
    grey(tmp_path / "images/e_p001.png")
    tifffile.imwrite(
        tmp_path / "images/e.tif", np.zeros((2, 9, 7), np.uint8), photometric="minisblack"
    )
    argv = [f"--run_dir={run_dir}", f"--images={tmp_path}/images", f"--output={tmp_path}/out"]
    assert "e.tif[1] and " in refusal(*argv, "--format=png")
    assert not (tmp_path / "out").exists()


def test_pages_in_a_store_are_checked_in_the_same_way(run_dir, tmp_path, gcs, bucket):
    grey(tmp_path / "images/e_p001.png")
    tifffile.imwrite(
        tmp_path / "images/e.tif", np.zeros((2, 9, 7), np.uint8), photometric="minisblack"
    )
    for path in (tmp_path / "images").iterdir():
        gcs.write(f"{bucket}/images/{path.name}", path.read_bytes())
    argv = [f"--run_dir={run_dir}", f"--images={bucket}/images", f"--output={bucket}/out"]
    assert "e.tif[1] and " in refusal(*argv, "--format=png")
    assert gcs.names(f"{bucket}/out") == []


@pytest.mark.parametrize(
    ("names", "key"),
    [
        (("A.png", "a.jpg"), str.casefold),
        (("e\u0301.png", "\u00e9.jpg"), lambda name: unicodedata.normalize("NFC", name)),
    ],
)
def test_names_that_the_file_system_takes_for_one_are_refused(
    run_dir, tmp_path, monkeypatch, names, key
):
    for name in names:
        grey(tmp_path / "images" / name)
    argv = [f"--run_dir={run_dir}", f"--images={tmp_path}/images", f"--output={tmp_path}/out"]
    monkeypatch.setattr(outputs, "_key_of", lambda folder: key)
    assert "would both be written to" in refusal(*argv)
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    predict(*argv)  # where they are two


def test_a_second_process_is_refused_and_the_first_keeps_its_scratch(run_dir, tmp_path):
    grey(tmp_path / "images/a.png")
    argv = [f"--run_dir={run_dir}", f"--images={tmp_path}/images", f"--output={tmp_path}/out"]
    place = outputs.Folder.place
    seen = []

    def place_while_another_starts(folder, task, *rest):
        result = jobs.command("trainer.predict", *argv)
        seen.append((result.returncode, result.stderr.splitlines()[-1]))
        place(folder, task, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outputs.Folder, "place", place_while_another_starts)
        predict(*argv)
    ((status, line),) = seen
    assert status == 2
    assert line.startswith(f"--output={tmp_path}/out is being written by process {os.getpid()}")
    assert sorted(os.listdir(tmp_path / "out")) == ["a.png", "prediction.json"]


@pytest.mark.parametrize("where", ["local", "gs"])
def test_what_was_recorded_and_not_placed_is_made_again(
    run_dir, tmp_path, where, monkeypatch, request, caplog
):
    for name in ("a", "b", "c"):
        grey(tmp_path / f"images/{name}.png")
    out = str(tmp_path / "out")
    if where == "gs":
        out = f"{request.getfixturevalue('bucket')}/out"
    argv = [f"--run_dir={run_dir}", f"--images={tmp_path}/images", f"--output={out}"]
    place, placed = os.replace if where == "local" else files.copy_to_store, []

    def place_one(old, new):
        if new.endswith(".png"):
            placed.append(new)
            if len(placed) > 1:
                raise Killed
        place(old, new)

    class Killed(BaseException):
        pass

    with monkeypatch.context() as patch:
        if where == "local":
            patch.setattr(outputs.os, "replace", place_one)
        else:
            patch.setattr(outputs.files, "copy_to_store", place_one)
            patch.setattr(outputs, "BATCH", 2)
        patch.setattr(outputs.Folder, "end", lambda folder: None)  # a kill leaves no time for it
        with pytest.raises(Killed):
            predict(*argv)
    assert "prediction.json" in files.list_folder(out)
    with caplog.at_level("INFO", logger="absl"):
        predict(*argv)
    assert "Wrote 2 masks" in caplog.messages[-1]
    assert "; 1 existed already." in caplog.messages[-1]
    assert files.list_folder(out) == ["a.png", "b.png", "c.png", "prediction.json"]


def test_a_folder_of_an_earlier_release_is_refused_by_the_name_of_a_mask(run_dir, tmp_path):
    grey(tmp_path / "images/a.png")
    argv = [f"--run_dir={run_dir}", f"--images={tmp_path}/images", f"--output={tmp_path}/out"]
    predict(*argv)
    path = tmp_path / "out/prediction.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "files": {}}))
    assert f"{tmp_path}/out/a.png exists, and no earlier start" in refusal(*argv)


def test_a_png_cannot_hold_negative_values(tmp_path):
    mask = TemporaryRows(str(tmp_path), (2, 2), np.dtype(np.int16))
    with pytest.raises(
        InputError, match="has int16 values, which a PNG cannot hold; use --format=tif"
    ):
        mask_writer.write_png(str(tmp_path / "m.png"), mask, None)


def test_a_gs_folder_gives_and_takes_what_a_local_one_does(run_dir, pictures, gcs, bucket):
    predict(*arguments(run_dir, pictures, "--instances"))
    for path in pictures.iterdir():
        gcs.write(f"{bucket}/images/{path.name}", path.read_bytes())
    for path in pathlib.Path(run_dir).rglob("*.*"):
        if path.is_file():
            gcs.write(f"{bucket}/run/{path.relative_to(run_dir)}", path.read_bytes())
    remote = [f"--{flag}={bucket}/{name}" for flag, name in
              (("run_dir", "run"), ("images", "images"), ("output", "out"))]  # fmt: skip
    predict(*remote, "--instances")
    out = pictures.parent / "out"
    local = [str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()]
    assert gcs.names(f"{bucket}/out/") == sorted(local)
    for name in local:
        if name != "prediction.json":  # which names the run folder
            assert gcs.read(f"{bucket}/out/{name}") == (out / name).read_bytes(), name
    predict(*remote, "--instances")  # all is there


@pytest.mark.parametrize("shape", [(60, 50), (20, 15, 10)])
def test_regions_across_the_seams_of_bands_are_one(shape, tmp_path, monkeypatch):
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=shape), 2)
    ids = (noise > 0.02).astype(np.uint8)
    ids[..., shape[-1] // 2 :] *= 2
    file = TemporaryRows(str(tmp_path), ids.shape, np.dtype(np.uint8))
    file.append(ids)
    monkeypatch.setattr(instances, "BAND_PIXELS", 7 * ids[0].size)
    numbers, table = instances.label(file, str(tmp_path))
    found = numbers.read(0, len(ids))
    expected = ndimage.label(ids == 1)[0]
    second = ndimage.label(ids == 2)[0]
    expected = expected + np.where(second > 0, second + expected.max(), 0)
    assert len(np.unique(np.stack([found, expected]).reshape(2, -1), axis=1).T) == (
        expected.max() + 1
    )  # one number of ours for each of theirs
    firsts = [np.flatnonzero(found == n)[0] for n in range(1, found.max() + 1)]
    assert firsts == sorted(firsts)
    for n in range(1, found.max() + 1):
        places = np.argwhere(found == n)
        assert table.areas[n - 1] == len(places)
        assert table.classes[n - 1] == ids[tuple(places[0])]
        np.testing.assert_allclose(table.centroids[n - 1], places.mean(axis=0))
        box = [places.min(axis=0).tolist(), (places.max(axis=0) + 1).tolist()]
        assert table.boxes[n - 1].tolist() == box
    assert found.max() > 3


def test_a_mask_without_objects_has_an_empty_table(tmp_path):
    file = TemporaryRows(str(tmp_path), (4, 5), np.dtype(np.uint8))
    file.append(np.zeros((4, 5), np.uint8))
    numbers, table = instances.label(file, str(tmp_path))
    assert numbers.read(0, 4).max() == 0
    assert table.to_csv(["a", "b"]).count("\n") == 1


def test_every_third_pixel_is_taken_whatever_the_bands():
    image = np.arange(35 * 20).reshape(35, 20)
    bands = [image[:4], image[4:5], image[5:21], image[21:]]
    np.testing.assert_array_equal(outputs._every(3, bands), image[::3, ::3])


def test_bands_are_let_go_while_others_come():
    given = []

    def bands():
        for _ in range(10):
            band = np.zeros((8, 8), np.uint8)
            given.append(weakref.ref(band))
            yield band
            del band
            assert sum(band() is not None for band in given) <= 1  # the one just taken

    assert outputs._every(4, bands()).shape == (20, 2)


def test_importing_the_package_does_not_import_tensorflow():
    code = "import sys, trainer; assert callable(trainer.load); print('tensorflow' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "False\n"


def test_load_predicts_as_the_command_does(run_dir, loaded, tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (40, 33)).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "x.png")
    result = jobs.command(
        "trainer.predict",
        f"--run_dir={run_dir}",
        f"--images={tmp_path}/*.png",
        f"--output={tmp_path}/out",
    )
    assert result.returncode == 0, result.stderr
    assert "Wrote 1 masks" in result.stderr
    code = (
        "import sys, numpy, trainer\nfrom PIL import Image\n"
        "image = numpy.asarray(Image.open(sys.argv[2]))\n"
        "numpy.save(sys.argv[3], trainer.load(sys.argv[1]).predict(image))"
    )
    command = [sys.executable, "-c", code, run_dir, tmp_path / "x.png", tmp_path / "y.npy"]
    subprocess.run(command, check=True, capture_output=True)
    mask = np.asarray(Image.open(tmp_path / "out/x.png"))
    runs.assert_same_mask(np.load(tmp_path / "y.npy"), mask, loaded.probabilities(image))


@pytest.mark.slow
def test_ctrl_c_in_a_prediction_is_one_line_and_the_same_command_predicts_the_rest(
    run_dir, tmp_path
):
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for n in range(40):
        image = rng.integers(0, 255, (400, 400)).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / f"images/{n:02}.png")
    argv = [f"--run_dir={run_dir}", f"--images={tmp_path}/images", f"--output={tmp_path}/out"]
    process = terminals.Session(80, "trainer.predict", *argv)
    process.wait_for(" left")  # of the time, which the first mask tells
    process.interrupt()
    assert process.end() == 130
    assert process.lines() == [
        "Stopped by Ctrl-C; --output has the masks that are finished, and the same command "
        "predicts the rest."
    ]
    written = list((tmp_path / "out").glob("*.png"))
    assert 1 <= len(written) < 40
    for path in written:
        Image.open(path).load()  # whole
    known = json.loads((tmp_path / "out/prediction.json").read_text())["files"]
    assert sorted(path.name for path in written) == sorted(known)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*known, "prediction.json"}
    result = jobs.command("trainer.predict", *argv)
    assert result.returncode == 0, result.stderr
    assert f"{len(written)} existed already" in result.stderr


@pytest.mark.slow
def test_of_a_large_image_the_tiles_are_counted_on_a_terminal(run_dir, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (400, 400)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.png")
    argv = [f"--run_dir={run_dir}", f"--images={tmp_path}/x.png", f"--output={tmp_path}/out"]
    process = terminals.Session(80, "trainer.predict", *argv, "--tile=128")
    assert process.end() == 0, process.said
    drawn = process.drawings()
    whats = ("loading TensorFlow", "finding the images", "loading the network", "predicting ")
    places = [min(n for n, text in enumerate(drawn) if text.startswith(what)) for what in whats]
    assert places == sorted(places)
    counts = [found.groups() for text in drawn
              if (found := re.search(r" 0/1 images  (\d+)/(\d+) tiles", text))]  # fmt: skip
    assert counts
    assert {total for _, total in counts} == {"25"}
    assert counts == sorted(counts, key=lambda count: int(count[0]))


def test_a_killed_prediction_resumes_and_leaves_no_part_of_a_mask(run_dir, tmp_path):
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for n in range(40):
        image = rng.integers(0, 255, (400, 400)).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / f"images/{n:02}.png")
    argv = [f"--run_dir={run_dir}", f"--images={tmp_path}/images", f"--output={tmp_path}/out"]
    process = subprocess.Popen([sys.executable, "-m", "trainer.predict", *argv],
                               stderr=subprocess.DEVNULL)  # fmt: skip
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "out").glob("*.png"))) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for path in (tmp_path / "out").glob("*.png"):
        Image.open(path).load()  # whole
    result = jobs.command("trainer.predict", *argv)
    assert result.returncode == 0, result.stderr
    assert "existed already" in result.stderr
    assert len(list((tmp_path / "out").glob("*.png"))) == 40
    assert not (tmp_path / "out/.unfinished").exists()
    assert json.loads((tmp_path / "out/prediction.json").read_text())["tta"] == "none"


@pytest.mark.parametrize(
    "kept",
    [
        components.Decision(foreground=True),
        components.Decision(classes=(2, 1)),
        components.Decision(True, (1, 2)),
    ],
)
@pytest.mark.parametrize(("rows", "in_memory"), [(3, 2**20), (100, 2**20), (3, 50)])
def test_what_is_kept_band_by_band_is_what_is_kept_in_memory(
    tmp_path, monkeypatch, kept, rows, in_memory
):
    monkeypatch.setattr(npy_stream, "IN_MEMORY", in_memory)
    ids = np.random.default_rng(2).integers(0, 3, (21, 17), np.uint8)
    file = TemporaryRows(str(tmp_path), ids.shape, ids.dtype)
    file.append(ids)
    monkeypatch.setattr(instances, "BAND_PIXELS", rows * 17)
    found = instances.keep(file, str(tmp_path), kept)
    np.testing.assert_array_equal(found.read(0, 21), kept.apply(ids))
    assert not list(tmp_path.iterdir())


def test_masks_keep_what_was_decided_for_the_run_or_for_the_cross_validation(
    tmp_path, loaded, pictures
):
    cv = tmp_path / "CV"
    for fold in range(2):
        run_dir = runs.write_run(cv / f"fold-{fold}", depth=1, seed=fold)
        run = run_metadata.read(run_dir)
        run_metadata.write(run_dir, {**run, "data": {**run["data"], "folds": 2}})
    predict(*arguments(cv, pictures, "--format=npy", "--output=" + str(tmp_path / "all")))
    decision = {"keep_largest": {"foreground": True, "classes": ["nucleus"]}}
    (cv / "postprocessing.json").write_text(json.dumps(decision))
    predict(*arguments(cv, pictures, "--format=npy", "--instances"))
    kept = components.Decision(foreground=True)
    for name in ("a", "b", "c", "d"):
        every, found = (np.load(tmp_path / folder / f"{name}.npy") for folder in ("all", "out"))
        np.testing.assert_array_equal(found, kept.apply(every))
        assert found.sum() < every.sum()
    with open(tmp_path / "out/instances/a.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 1
    record = json.loads((tmp_path / "out/prediction.json").read_text())
    assert [weights["run_dir"] for weights in record["weights"]] == [
        str(cv / f"fold-{fold}") for fold in range(2)
    ]
    with pytest.raises(InputError, match="holds predictions with another components"):
        predict(*arguments(cv, pictures, "--format=npy", "--output=" + str(tmp_path / "all")))
    image = np.load(pictures / "c.npy")
    assert ndimage.label(trainer.load(str(cv)).predict(image))[1] == 1
