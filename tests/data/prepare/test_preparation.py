"""Tests of preparing data, most of them through the command itself."""

import dataclasses
import errno
import itertools
import json
import os
import pathlib
import tempfile
import tracemalloc

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from tests import preparing
from tests.pictures import bomb
from trainer import cli, config
from trainer.config import flags
from trainer.data.dataset import case_index, folds, schema
from trainer.data.prepare import kinds, output, pairing, preparation, splitting, statistics
from trainer.errors import InputError, RetryableError
from trainer.storage import files


def test_what_goes_in_comes_out(folder):
    manifest = preparing.prepare(folder, "--classes=background:0,nucleus:255")
    assert manifest.classes == (schema.Class("background", 0), schema.Class("nucleus", 255))
    assert (manifest.channels, manifest.dtype, manifest.encoding) == (1, "uint8", "png")
    assert {side: split.examples for side, split in manifest.splits.items()} == {
        "train": 7,
        "val": 2,
        "test": 1,
    }
    seen = []
    for side, split in manifest.splits.items():
        examples = list(preparing.examples(folder, manifest, side))
        assert tuple(example["name"].decode() for example in examples) == split.cases
        for example in examples:
            name = example["name"].decode()
            image = np.asarray(Image.open(folder / f"images/{name}.png"))
            np.testing.assert_array_equal(example["image"][..., 0], image)
            mask = np.asarray(Image.open(folder / f"masks/{name}.png"))
            np.testing.assert_array_equal(example["mask"], mask == 255)
            seen.append(name)
    assert sorted(seen) == [f"{case:02}" for case in range(10)]
    assert list(manifest.splits["train"].cases) != sorted(manifest.splits["train"].cases)


def test_pictures_that_lie_on_their_side_are_stored_as_viewers_show_them(folder):
    exif = Image.Exif()
    exif[274] = 6  # stored from the bottom left upwards
    for case in range(10):
        path = folder / f"images/{case:02}.png"
        image = np.asarray(Image.open(path))
        Image.fromarray(np.rot90(image)).save(path, exif=exif)
        np.testing.assert_array_equal(ImageOps.exif_transpose(Image.open(path)), image)
    for side in preparing.prepare(folder).splits:
        for example in preparing.examples(folder, schema.read_manifest(str(folder / "out")), side):
            shown = example["image"][..., 0] - int(example["name"])
            np.testing.assert_array_equal(shown == 51, example["mask"] == 1)


def test_the_manifest_counts_what_can_be_counted_by_hand(folder):
    split = preparing.prepare(folder).splits["train"]
    # Image k is k on 36 pixels and 51 + k on 12.
    values = np.concatenate([[int(k)] * 36 + [51 + int(k)] * 12 for k in split.cases])
    assert split.mean == (pytest.approx(values.mean(), rel=1e-15),)
    assert split.std == (pytest.approx(values.std(), rel=1e-14),)
    assert split.pixels == (7 * 36, 7 * 12)
    assert split.ignored_pixels == 0
    assert split.sizes == ((8, 6, 7),)
    assert schema.read_manifest(f"{folder}/out").grids == (schema.Grid((8, 6), None, 7),)
    assert [shard.examples for shard in split.shards] == [1] * 7
    assert {shard.present for shard in split.shards} == {("1", "1")}


def test_with_a_plan_images_of_very_different_sizes_are_cut_and_a_plan_is_written(folder):
    names = {"train": [f"{k:02}" for k in range(8)], "val": ["08"], "test": ["09"]}
    (folder / "splits.json").write_text(json.dumps(names))
    flags_given = [f"--splits={folder}/splits.json", "--plan", f"--output={folder}/two"]
    alike = preparing.prepare(folder, *flags_given)
    assert alike.splits["train"].sizes == ((8, 6, 8),)
    for kind in ("images", "masks"):  # of 8×6 pixels
        path = folder / f"{kind}/00.png"
        Image.fromarray(np.tile(np.asarray(Image.open(path)), (8, 8))).save(path)
    manifest = preparing.prepare(folder, *flags_given[:2])
    # The crop is 16, so tiles are of about 32: 64×48 is cut into 2×2 of 32×24 (48/32 rounds to 2).
    assert manifest.splits["train"].sizes == ((8, 6, 7), (32, 24, 4))
    assert manifest.grids == (schema.Grid((8, 6), None, 7), schema.Grid((64, 48), None, 1))
    job = flags.parse(config.Job, ["task", f"--flagfile={folder}/out/plan.cfg"])
    assert (job.data.data_dir, job.data.crop) == (f"{folder}/out", 16)


@pytest.mark.slow
def test_the_result_does_not_depend_on_the_number_of_workers(folder):
    one = preparing.prepare(folder, "--workers=1")
    (folder / "out").rename(folder / "one")
    assert preparing.prepare(folder, "--workers=2") == one


def test_the_seed_draws_and_orders_differently(folder):
    first = preparing.prepare(folder, "--seed=1")
    (folder / "out").rename(folder / "one")
    assert (
        preparing.prepare(folder, "--seed=2").splits["train"].cases != first.splits["train"].cases
    )


def test_ignored_pixels_are_marked_and_counted_apart(folder):
    mask = np.zeros((8, 6), np.uint8)
    mask[0] = 9
    mask[1] = 255
    for case in range(10):
        Image.fromarray(mask).save(folder / f"masks/{case:02}.png")
    manifest = preparing.prepare(folder, "--ignore=9", "--classes=0,255")
    assert manifest.ignore_value == 9
    split = manifest.splits["val"]
    assert (split.pixels, split.ignored_pixels) == ((2 * 36, 2 * 6), 2 * 6)
    example = next(preparing.examples(folder, manifest, "val"))
    assert example["mask"][:3, 0].tolist() == [schema.IGNORE, 1, 0]


def test_the_order_of_classes_is_the_one_given(folder):
    manifest = preparing.prepare(folder, "--classes=cell:255,membrane:0")
    assert manifest.splits["train"].pixels == (7 * 12, 7 * 36)


def _masks(folder, make):
    """Replaces each mask by what is made of its number and its values, 0 and 255."""
    for case, path in enumerate(sorted((folder / "masks").iterdir())):
        with Image.open(path) as picture:
            values = np.asarray(picture)
        make(case, values).save(path)


def test_instances_become_a_class_by_a_range(folder, capfd):
    def numbered(case, values):
        grid = np.arange(values.size).reshape(values.shape) + 300 * case
        return Image.fromarray(np.where(values, grid, 0).astype(np.uint16))

    _masks(folder, numbered)
    manifest = preparing.prepare(folder, "--classes=background:0,cell:1-65535")
    assert manifest.classes == (schema.Class("background", 0), schema.Class("cell", 1, 65535))
    assert manifest.splits["train"].pixels == (7 * 36, 7 * 12)
    assert schema.read_manifest(str(folder / "out")) == manifest


def _palette(case, values):
    """Returns 0 and 255 as black and red, at places of the palette that change with the case."""
    ids = (values > 0).astype(np.uint8)
    picture = Image.fromarray(ids if case % 2 else 1 - ids)
    picture.putpalette([0, 0, 0, 255, 0, 0] if case % 2 else [255, 0, 0, 0, 0, 0])
    return picture


def test_classes_are_told_by_colour_where_palettes_differ(folder, capfd):
    _masks(folder, _palette)
    assert preparing.refusal(capfd, folder) == (
        "DIR/masks/00.png shows index 0 as #ff0000 and DIR/masks/01.png shows index 0 as #000000: "
        "their palettes differ. Name the classes by colour, --classes=background:#000000,"
        "tumour:#ff0000, or save all masks with one palette."
    )
    with Image.open(folder / "masks/00.png") as picture:
        picture.convert("RGB").save(folder / "masks/00.png")
    manifest = preparing.prepare(
        folder, "--classes=background:#000000,tumour:#FF0000", "--ignore=#00ff00"
    )
    assert manifest.classes[1] == schema.Class("tumour", 1, colour="#ff0000")
    assert (manifest.ignore_value, manifest.ignore_colour) == (None, "#00ff00")
    assert [split.pixels for split in manifest.splits.values()] == [
        (36 * n, 12 * n) for n in (7, 2, 1)
    ]
    assert schema.read_manifest(str(folder / "out")) == manifest


def test_smoothed_masks_are_told_apart_by_a_threshold(folder, capfd):
    def smoothed(case, values):
        soft = values.copy()
        soft[2, 1:5] = (200, 90, 140, 130)
        soft[1, 1:5] = (10, 20, 60, 120)
        return Image.fromarray(soft)

    _masks(folder, smoothed)
    assert "Give --threshold=128 for two classes" in preparing.refusal(capfd, folder)
    manifest = preparing.prepare(folder, "--threshold=128", "--classes=background:0,nucleus:255")
    assert manifest.threshold == 128
    assert manifest.splits["train"].pixels == (7 * 37, 7 * 11)
    assert schema.read_manifest(str(folder / "out")) == manifest


def test_what_may_not_be_meant_is_warned_of(folder, caplog):
    squares = np.kron(np.arange(12).reshape(4, 3) * 5, np.ones((2, 2))).astype(np.uint8)
    _masks(folder, lambda case, values: Image.fromarray(squares))
    preparing.prepare(folder)
    assert any("and each becomes a class" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_arrays_are_prepared_row_by_row(folder, suffix):
    rows = np.random.default_rng(0).normal(size=(10, 4, 5, 2))
    save = np.save if suffix == "npy" else np.savez_compressed
    save(folder / f"x.{suffix}", rows)
    save(folder / f"y.{suffix}", np.arange(20).reshape(4, 5) % 3 * np.ones((10, 1, 1), int))
    manifest = preparing.prepare(
        folder, f"--images={folder}/x.{suffix}", f"--masks={folder}/y.{suffix}"
    )
    assert (manifest.channels, manifest.dtype, manifest.encoding) == (2, "float32", "zlib")
    assert manifest.num_classes == 3
    example = next(preparing.examples(folder, manifest, "train"))
    row = int(example["name"])
    np.testing.assert_array_equal(example["image"], rows[row].astype(np.float32))
    stored = rows[[int(name) for name in manifest.splits["train"].cases]].astype(np.float32)
    np.testing.assert_allclose(
        manifest.splits["train"].mean, stored.mean((0, 1, 2), np.float64), rtol=1e-12
    )
    np.testing.assert_allclose(
        manifest.splits["train"].std, stored.std((0, 1, 2), np.float64), rtol=1e-12
    )


def test_sizes_and_bits_and_colours_may_be_mixed(folder, caplog):
    wide = np.full((3, 9), 60000, np.uint16)
    Image.fromarray(wide).save(folder / "images/00.png")
    Image.fromarray((wide > 0).astype(np.uint8) * 255).save(folder / "masks/00.png")
    colour = np.arange(48 * 3, dtype=np.uint8).reshape(8, 6, 3)
    Image.fromarray(colour).save(folder / "images/01.png")
    with caplog.at_level("INFO", logger="absl"):
        manifest = preparing.prepare(folder)
    assert (manifest.channels, manifest.bit_depth, manifest.encoding) == (3, 16, "zlib")
    found = {
        example["name"].decode(): example["image"]
        for side in manifest.splits
        for example in preparing.examples(folder, manifest, side)
    }
    assert found["00"].shape == (3, 9, 3)
    np.testing.assert_array_equal(found["00"], 60000)
    np.testing.assert_array_equal(found["01"], colour.astype(np.uint16) * 257)
    said = [record.getMessage() for record in caplog.records]
    assert "9 of 10 images have one channel; it is repeated to make three." in said
    assert any(
        line.startswith("9 of 10 images have 8 bits; their values are scaled") for line in said
    )


def test_lists_decide_and_what_they_leave_out_is_left_out(folder, caplog):
    lists = {"train": ["00", "01"], "val": ["02"]}
    (folder / "splits.json").write_text(json.dumps(lists))
    with caplog.at_level("INFO", logger="absl"):
        manifest = preparing.prepare(folder, f"--splits={folder}/splits.json")
    assert {side: sorted(split.cases) for side, split in manifest.splits.items()} == lists
    assert "7 images are in no list of --splits and are left out." in caplog.text


def test_groups_stay_on_one_side(folder):
    manifest = preparing.prepare(folder, "--group_by=^0[0-4]|^0", "--split=0.5,0.5")
    together = {"05", "06", "07", "08", "09"}
    assert any(together <= set(split.cases) for split in manifest.splits.values())


def test_the_rule_of_the_split_is_in_the_manifest_and_what_it_gave_is_said(folder, caplog):
    with caplog.at_level("INFO", logger="absl"):
        manifest = preparing.prepare(folder, "--group_by=^.*$")
    shares = {"train": 0.7, "val": 0.15, "test": 0.15}
    assert manifest.draw == schema.Draw(splitting.RULE, 3, shares, "^.*$", ())
    said = [record.getMessage() for record in caplog.records]
    assert (
        "Splits drawn by --seed=3, shares on average: train 7 (70% for 70%), val 2 (20% for 15%), "
        "test 1 (10% for 15%); another seed gives another split."
    ) in said
    lists = {side: list(split.cases) for side, split in manifest.splits.items()}
    (folder / "splits.json").write_text(json.dumps(lists))
    listed = preparing.prepare(
        folder, f"--splits={folder}/splits.json", f"--output={folder}/listed"
    )
    assert listed.draw is None
    assert listed.splits == manifest.splits


def test_a_split_that_would_be_empty_by_chance_is_filled_and_that_is_said(folder, caplog):
    manifest = preparing.prepare(folder, "--seed=0")
    assert manifest.draw.moved == manifest.splits["test"].cases == ("09",)
    assert (
        "Warning: a split had no image by the draw alone and was given 09, which may change sides "
        "when the set grows; to keep it there, list the splits with --splits."
    ) in [record.getMessage() for record in caplog.records]


def test_leaks_are_reported_by_name(folder, caplog):
    lists = {"train": ["00", "01"], "val": ["02"], "test": ["03"]}
    (folder / "splits.json").write_text(json.dumps(lists))
    same = Image.open(folder / "images/01.png")
    same.convert("RGBA").save(folder / "images/03.png")
    manifest = preparing.prepare(folder, f"--splits={folder}/splits.json")
    assert manifest.leaks == (("train/01", "test/03"),)
    line = "Warning: a leak, identical pixels in two splits: train/01 = test/03"
    assert line in [record.getMessage() for record in caplog.records]


def test_a_class_that_does_not_occur_is_mentioned(folder, caplog):
    preparing.prepare(folder, "--classes=background:0,nucleus:255,mitosis:7")
    assert "Warning: class mitosis does not occur in train." in caplog.text


def test_classes_that_do_not_occur_are_one_line_for_each_split(folder, caplog):
    preparing.prepare(folder, "--classes=background:0,nucleus:255,mitosis:7,cell:8")
    said = [line for line in caplog.messages if "not occur" in line]
    splits = ("train", "val", "test")
    ending = ": mitosis, cell."
    assert said == [f"Warning: 2 classes do not occur in {side}{ending}" for side in splits]


def test_origin_and_licence_are_kept(folder):
    manifest = preparing.prepare(folder, "--origin=Our microscope", "--licence=CC0")
    assert (manifest.origin, manifest.licence) == ("Our microscope", "CC0")


def test_an_object_store_takes_the_data_too(folder):
    cli.run(
        config.Prepare,
        preparation.main,
        ["prepare", *preparing.arguments(folder, "--output=ram://prepared/set")],
    )
    manifest = schema.read_manifest("ram://prepared/set")
    for split in manifest.splits.values():
        for shard in split.shards:
            schema.verify_shard("ram://prepared/set", shard)
    assert not [name for name in tf.io.gfile.listdir("ram://prepared/set") if name.endswith("tmp")]


def test_shards_hold_no_more_than_they_are_asked_to(folder):
    rng = np.random.default_rng(0)
    np.save(folder / "x.npy", rng.integers(0, 256, (30, 32, 32), np.uint8))
    np.save(folder / "y.npy", rng.integers(0, 2, (30, 32, 32), np.uint8))
    arrays = [f"--images={folder}/x.npy", f"--masks={folder}/y.npy"]
    manifest = preparing.prepare(folder, *arrays, "--shard_mb=0.0041", "--split=0.9,0.1")
    # Image and mask take 2048 bytes uncompressed: two examples a shard.
    assert [shard.examples for shard in manifest.splits["train"].shards] == [2] * 12 + [1]


# Bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["images", "masks", "output"])
def test_missing_flags_are_named(folder, capfd, flag):
    assert preparing.refusal(capfd, folder, f"--{flag}=") == (
        f"--{flag} is missing; give --images, --masks and --output."
    )


def test_a_missing_folder_is_named(folder, capfd):
    assert preparing.refusal(capfd, folder, "--images=nowhere") == (
        "--images=nowhere does not exist; name a folder, a quoted glob, or a .npy or .npz file."
    )


def test_different_sizes_are_refused(folder, capfd):
    Image.new("L", (7, 8)).save(folder / "masks/05.png")
    assert preparing.refusal(capfd, folder) == (
        "DIR/masks/05.png is 8×7 (height × width), but its image DIR/images/05.png is 8×6; they "
        "must be equal."
    )


def _truncate(path):
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_truncated_image_is_named(folder, capfd, workers):
    _truncate(folder / "images/05.png")
    assert preparing.refusal(capfd, folder, f"--workers={workers}") == (
        "DIR/images/05.png cannot be read: image file is truncated. Fix or remove it, or skip it "
        "with --skip_bad."
    )


@pytest.mark.slow
def test_bad_images_are_skipped_on_request_and_listed(folder, caplog):
    _truncate(folder / "images/05.png")
    (folder / "masks/07.png").write_bytes(b"")
    manifest = preparing.prepare(folder, "--skip_bad", "--workers=2")
    assert manifest.skipped == ("05", "07")
    assert sum(split.examples for split in manifest.splits.values()) == 8
    said = [record.getMessage().replace(str(folder), "DIR") for record in caplog.records]
    assert said[:2] == [
        "Skipped: DIR/images/05.png cannot be read: image file is truncated.",
        "Skipped: DIR/masks/07.png cannot be read: it is empty (0 bytes).",
    ]


def test_a_drawn_split_that_skipping_empties_is_filled(folder):
    assert preparing.prepare(folder).splits["test"].cases == ("05",)
    _truncate(folder / "images/05.png")
    manifest = preparing.prepare(folder, "--skip_bad", f"--output={folder}/second")
    assert manifest.skipped == ("05",)
    assert manifest.splits["test"].cases == manifest.draw.moved
    assert sum(split.examples for split in manifest.splits.values()) == 9


def test_all_that_matched_is_an_image_or_counted_in_the_last_line(folder, caplog):
    (folder / "images" / "notes.txt").write_text("to do")
    (folder / "masks" / ".hidden.png").write_text("")
    (folder / "images" / "04.png").write_bytes(b"")
    lists = {"train": ["00", "01", "02"], "val": ["03", "04"]}
    (folder / "splits.json").write_text(json.dumps(lists))
    with caplog.at_level("INFO"):
        preparing.prepare(folder, "--skip_bad", f"--splits={folder}/splits.json")
    assert caplog.messages[-1].endswith(
        " Left out: .txt files: 1, hidden files: 1, images in no list of --splits: 5, unreadable "
        "images: 1."
    )


def test_a_split_that_skipping_empties_is_refused(folder, capfd):
    (folder / "splits.json").write_text(json.dumps({"train": ["00"], "val": ["01"]}))
    _truncate(folder / "images/01.png")
    arguments = ("--skip_bad", f"--splits={folder}/splits.json")
    assert preparing.refusal(capfd, folder, *arguments, num_notes=2) == (
        "--skip_bad leaves the val split empty (1 images in all); give it a larger share, or more "
        "images or groups to choose from."
    )


def test_a_mask_value_that_is_no_class_is_named(folder, capfd):
    Image.new("L", (6, 8), 7).save(folder / "masks/05.png")
    assert preparing.refusal(capfd, folder, "--classes=0,255") == (
        "DIR/masks/05.png has the value 7, which is not in --classes=0:0,255:255; add it, or give "
        "it as --ignore."
    )


def test_more_than_255_values_are_no_mask(folder, capfd):
    values = np.arange(300, dtype=np.uint16).reshape(10, 30)
    Image.fromarray(values).save(folder / "masks/05.png")
    Image.fromarray(values).save(folder / "images/05.png")
    assert preparing.refusal(capfd, folder) == (
        "DIR/masks/05.png has 300 distinct values, more than 255 classes. If they are instance "
        "numbers, give --classes=background:0,object:1-65535; if they are two classes smoothed, "
        "--threshold=150; else that is not a mask: check --masks."
    )


def test_an_empty_split_is_refused(folder, capfd):
    assert preparing.refusal(capfd, folder, "--group_by=^(0)") == (
        "--split=0.7,0.15,0.15 leaves the train split empty (10 images in all); give it a larger "
        "share, or more images or groups to choose from."
    )


def test_finished_data_are_not_overwritten(folder, capfd):
    preparing.prepare(folder)
    assert preparing.refusal(capfd, folder) == (
        "--output=DIR/out already has a manifest.json: it holds finished data; name another "
        "folder, or remove that one first."
    )


def test_an_output_that_cannot_be_a_folder_is_refused(folder, capfd):
    (folder / "file").write_text("")
    assert preparing.refusal(capfd, folder, f"--output={folder}/file") == (
        "--output=DIR/file is a file; name a folder."
    )
    assert preparing.refusal(capfd, folder, f"--output={folder}/file/x") == (
        "--output=DIR/file/x cannot be created: Not a directory; name another folder."
    )


@pytest.mark.parametrize("name", ["", "/deep/er"])
def test_an_output_that_cannot_be_written_is_refused_before_the_survey(
    folder, capfd, monkeypatch, name
):
    monkeypatch.setattr(pairing, "find_pairs", None)

    def refuse(*arguments, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(output.tempfile, "TemporaryFile", refuse)  # root may write everywhere
    (folder / "out").mkdir()
    assert preparing.refusal(capfd, folder, f"--output={folder}/out{name}") == (
        f"--output=DIR/out{name} cannot be written: Permission denied; name another folder."
    )


@pytest.mark.skipif(not os.path.exists("/proc/self"), reason="needs /proc")
def test_an_output_where_nothing_can_be_made_is_refused_before_the_survey(
    folder, capfd, monkeypatch
):
    monkeypatch.setattr(pairing, "find_pairs", None)
    assert preparing.refusal(capfd, folder, "--output=/proc/self") == (
        "--output=/proc/self cannot be written: No such file or directory; name another folder."
    )


def test_a_folder_that_cannot_be_listed_is_named(folder, capfd, monkeypatch):
    listdir = os.listdir

    def refuse(path):
        if path == str(folder / "images"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refuse)  # root may list everything
    assert preparing.refusal(capfd, folder) == (
        "--images=DIR/images cannot be listed: Permission denied; name another folder, or change "
        "who may read it."
    )


def test_lists_that_cannot_be_read_are_named(folder, capfd, monkeypatch):
    path = folder / "splits.json"
    path.write_text("[" * 100_000)
    assert preparing.refusal(capfd, folder, f"--splits={path}").startswith(
        "--splits=DIR/splits.json is not JSON: maximum recursion depth exceeded"
    )

    def refuse(*arguments, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(splitting, "open", refuse, raising=False)  # root may read everything
    assert preparing.refusal(capfd, folder, f"--splits={path}") == (
        "--splits=DIR/splits.json cannot be read: Permission denied; name another file, or change "
        "who may read it."
    )


@pytest.mark.parametrize("split", ["0.7,0.3,nan", "inf,-inf", "nan,nan"])
def test_shares_that_are_not_finite_are_refused(folder, capfd, split):
    assert preparing.refusal(capfd, folder, f"--split={split}") == (
        f"--split={split} is not two or three shares that add up to 1, of train, val and test; "
        "write --split=0.7,0.15,0.15."
    )


@pytest.mark.slow
def test_a_damaged_tiff_gives_one_line(folder, capfd):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200)).astype(np.uint8)
    Image.fromarray(noise).save(folder / "images/03.tif", compression="tiff_deflate")
    (folder / "images/03.png").unlink()
    data = (folder / "images/03.tif").read_bytes()
    for damaged in (data[:9000], data[:9000] + bytes(99) + data[9099:]):
        (folder / "images/03.tif").write_bytes(damaged)
        for workers in (1, 2):
            message = preparing.refusal(capfd, folder, f"--workers={workers}")
            assert message.startswith("DIR/images/03.tif cannot be read: ")
            assert message.endswith(" Fix or remove it, or skip it with --skip_bad.")


def test_an_array_too_large_is_refused(folder, capfd):
    np.savez_compressed(folder / "x.npz", np.zeros((10, 60, 50), np.uint8))
    assert preparing.refusal(capfd, folder, f"--images={folder}/x.npz", "--max_pixels=2999") == (
        "Each image of DIR/x.npz has 60×50 = 3000 pixels, more than --max_pixels=2999; if that is "
        "right, raise --max_pixels; if not, remove it."
    )


def test_pickled_objects_are_never_unpickled(folder, capfd):
    np.save(folder / "x.npy", np.array([{}], dtype=object))
    assert preparing.refusal(capfd, folder, f"--images={folder}/x.npy") == (
        "DIR/x.npy holds pickled Python objects, which could run any code and are never unpickled; "
        "save numbers: numpy.save(path, numpy.stack(images))."
    )


def test_a_decompression_bomb_is_refused(folder, capfd):
    (folder / "images/05.png").write_bytes(bomb())
    assert preparing.refusal(capfd, folder) == (
        "DIR/images/05.png has 20000×30000 = 600000000 pixels, more than --max_pixels=268435456; "
        "if that is right, raise --max_pixels; if not, remove it."
    )


@pytest.mark.parametrize("content", [b"", b"theirs", "theirs as a record", "ours"])
def test_only_shards_of_a_start_that_was_killed_are_replaced(folder, capsys, content):
    path = folder / "out" / "train-00000-of-00007.tfrecord"
    path.parent.mkdir()
    pixels = np.zeros((4, 4, 1), np.uint8)
    example = schema.encode("a", pixels, pixels[..., 0], "png")
    if content == "theirs as a record":
        content = schema.tfrecord.frame(example.replace(b"mask", b"noun"))
    elif content == "ours":
        content = schema.tfrecord.frame(example)
    path.write_bytes(content)
    argv = ["prepare", *preparing.arguments(folder)]
    if content == schema.tfrecord.frame(example):
        cli.run(config.Prepare, preparation.prepare, argv)
        assert path.read_bytes() != content
        return
    with pytest.raises(SystemExit) as stop:
        cli.run(config.Prepare, preparation.prepare, argv)
    assert stop.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"{path} exists, and this command did not write it; move it away, or name another --output."
    )
    assert path.read_bytes() == content


@pytest.mark.parametrize("others", [[], ["--tile=4"], ["--folds=3"], ["--folds=3", "--tile=4"]])
def test_cases_of_large_data_are_in_indexes(folder, monkeypatch, others):
    listed = preparing.prepare(folder, *others)
    (folder / "out").rename(folder / "listed")
    total = 10 if not others else sum(shard.examples for shard in listed.shards)
    monkeypatch.setattr(case_index, "MOST_LISTED", total)
    preparing.prepare(folder, *others, f"--output={folder}/as-many")
    assert not list(folder.glob("as-many/*-cases.jsonl"))
    monkeypatch.setattr(case_index, "MOST_LISTED", total - 1)
    manifest = preparing.prepare(folder, *others, "--workers=2")
    shards = sorted((folder / "listed").glob("*.tfrecord"))
    indexes = [folder / "out" / index.name for index in manifest.indexes]
    assert sorted((folder / "out").iterdir()) == sorted(
        [folder / "out/manifest.json", *indexes, *(folder / "out" / path.name for path in shards)]
    )
    for path in shards:
        assert (folder / "out" / path.name).read_bytes() == path.read_bytes()
    assert sum(index.lines for index in manifest.indexes) == total
    assert all(case_index.NAME.fullmatch(index.name) for index in manifest.indexes)
    for fold in range(3) if "--folds=3" in others else [None]:
        found, expected = (folds.choose(one, fold, "") for one in (manifest, listed))
        found = case_index.with_cases(str(folder / "out"), found, expected.splits)
        for name, split in expected.splits.items():
            assert tuple(found.splits[name].names) == split.cases
            marked = case_index.with_marks(str(folder / "out"), found, name).splits[name].shards
            assert [one.present for one in marked] == [one.present for one in split.shards]
            assert [one.crc32c for one in marked] == [one.crc32c for one in split.shards]


def test_an_index_that_a_killed_start_has_left_is_removed_and_that_of_another_refused(
    folder, capsys
):
    path = folder / "out" / "fold3-train-cases.jsonl"
    path.parent.mkdir()
    path.write_text('["a", "01"]\n')
    (folder / "out/other-cases.jsonl").write_text("theirs")
    preparing.prepare(folder)
    assert not path.exists()
    assert (folder / "out/other-cases.jsonl").exists()
    path = folder / "second" / "val-cases.jsonl"
    path.parent.mkdir()
    path.write_text("theirs")
    with pytest.raises(SystemExit):
        preparing.prepare(folder, f"--output={folder}/second")
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"{path} exists, and this command did not write it; move it away, or name another --output."
    )
    assert path.read_text() == "theirs"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
@pytest.mark.parametrize(
    "name", ["val-00001-of-00002.tfrecord", "val-cases.jsonl", "manifest.json"]
)
def test_a_full_disk_leaves_nothing_behind(folder, capsys, name, monkeypatch):
    monkeypatch.setattr(case_index, "MOST_LISTED", 0)

    def full_for(path, new_name=files.temporary_path):
        if path.endswith(name):
            os.symlink("/dev/full", f"{path}.full")
            return f"{path}.full"
        return new_name(path)

    monkeypatch.setattr(files, "temporary_path", full_for)
    (folder / "out").mkdir()
    with pytest.raises(SystemExit) as stop:
        cli.run(config.Prepare, preparation.main, ["prepare", *preparing.arguments(folder)])
    assert stop.value.code == 2
    assert list((folder / "out").iterdir()) == []
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == (
        f"No space is left on the disk of the output, or of {tempfile.gettempdir()} for what is "
        "between; free some space."
    )


def test_an_image_that_changes_between_the_passes_leaves_nothing_behind(folder, monkeypatch):
    examine = statistics.examine

    def damage_after_reading(pair, *others):
        found = examine(pair, *others)
        _truncate(pathlib.Path(pair.image.path))
        return found

    monkeypatch.setattr(statistics, "examine", damage_after_reading)
    settings = config.Prepare(
        images=str(folder / "images"),
        masks=str(folder / "masks"),
        output=str(folder / "out/deep"),
        workers=1,
    )
    with pytest.raises(preparation.InputError, match="cannot be read"):
        preparation.prepare(settings)
    assert not (folder / "out").exists()


def test_a_mask_that_changes_between_the_passes_is_named(folder, capfd, monkeypatch):
    settle = kinds.mask_agreement.settle

    def change(*arguments):
        Image.new("L", (6, 8), 7).save(folder / "masks/05.png")
        return settle(*arguments)

    monkeypatch.setattr(kinds.mask_agreement, "settle", change)
    message = preparing.refusal(capfd, folder, "--classes=0,255", num_notes=1)
    assert message == (
        "DIR/images/05.png or its mask DIR/masks/05.png changed while the data were prepared; "
        "prepare them again when nothing writes there."
    )


def test_a_folder_takes_one_preparation_at_a_time(folder):
    with output.open_output(f"{folder}/out"):
        with pytest.raises(RetryableError) as error, output.open_output(f"{folder}/out"):
            pass
        assert f"--output={folder}/out is being written by " in str(error.value)
    assert not (folder / "out").exists()
    preparing.prepare(folder)
    with (
        pytest.raises(InputError, match="it holds finished data"),
        output.open_output(f"{folder}/out"),
    ):
        pass
    assert not (folder / "out/lease.json").exists()


def test_settings_are_a_library_too(folder):
    settings = config.Prepare(
        images=str(folder / "images"), masks=str(folder / "masks"), output=str(folder / "out")
    )
    manifest = preparation.prepare(dataclasses.replace(settings, workers=1))
    assert manifest == schema.read_manifest(str(folder / "out"))


def test_tiles_of_training_images_are_examples_and_cover_every_pixel_once(folder):
    whole = preparing.prepare(folder, "--split=0.5,0.3,0.2")
    cut = preparing.prepare(folder, "--split=0.5,0.3,0.2", "--tile=4", f"--output={folder}/cut")
    # 8×6 pixels are 2 × 2 tiles, of 4×3: 6 / 4 is nearer to 2 than to 1.
    train = cut.splits["train"]
    assert train.examples == 4 * whole.splits["train"].examples
    assert train.sizes == ((4, 3, train.examples),)
    assert train.pixels == whole.splits["train"].pixels
    assert train.mean == whole.splits["train"].mean
    first = train.cases[0].rpartition("_y")[0]
    each = itertools.product(whole.splits["train"].cases, ("y0_x0", "y0_x3", "y4_x0", "y4_x3"))
    assert sorted(train.cases) == sorted(map("_".join, each))
    assert cut.splits["test"] == whole.splits["test"]
    parts = {}
    for shard in train.shards:
        for example in schema.read_shard(f"{folder}/cut", shard):
            decoded = schema.decode(example, cut)
            parts[decoded["name"].numpy().decode()] = decoded["image"].numpy()
    assert tuple(parts) == train.cases
    rows = [np.hstack([parts[f"{first}_y{y}_x{x}"] for x in (0, 3)]) for y in (0, 4)]
    with Image.open(folder / f"images/{first}.png") as picture:
        np.testing.assert_array_equal(np.vstack(rows)[..., 0], np.array(picture))


def test_the_tiles_of_an_image_do_not_lie_together_in_a_shard(folder):
    for case in range(10):
        for kind in ("images", "masks"):
            path = folder / f"{kind}/{case:02}.png"
            Image.fromarray(np.tile(np.asarray(Image.open(path)), (5, 5))).save(path)
    manifest = preparing.prepare(folder, "--tile=4", "--classes=a:0,b:255")
    train = manifest.splits["train"]
    start, changes = 0, 0
    for shard in train.shards:  # 70 tiles, of two images at most
        cases = [case.partition("_")[0] for case in train.cases[start : start + shard.examples]]
        start += shard.examples
        changes += sum(one != other for one, other in itertools.pairwise(cases))
        # What the manifest says of an example is of the example in this place.
        for k, example in enumerate(schema.read_shard(f"{folder}/out", shard)):
            has = np.unique(schema.decode(example, manifest)["mask"].numpy())
            assert [int(marks[k]) for marks in shard.present] == [0 in has, 1 in has]
    assert train.examples == 7 * 80
    assert changes > 100  # image by image they would be 6


def test_folds_have_each_case_once_to_validate_and_all_of_its_tiles_to_train(folder, caplog):
    manifest = preparing.prepare(folder, "--folds=3", "--tile=4")
    assert [fold.val.examples for fold in manifest.folds] == [2, 4, 3]
    assert "Folds: 3, of 2, 4, 3 cases; the first is the val split." in caplog.messages
    assert caplog.messages[-1].endswith("1 in 1 shards; 3 folds.")
    whole = [name for fold in manifest.folds for name in fold.val.cases]
    tested = manifest.splits["test"].cases
    assert sorted((*whole, *tested)) == [f"{case:02}" for case in range(10)]
    for fold in manifest.folds:
        # 8 × 6 pixels in tiles of 4 are two rows, and 6 / 4 columns: two.
        parts = [f"{name}_y{y}_x{x}" for name in fold.val.cases for y in (0, 4) for x in (0, 3)]
        assert sorted(fold.train.cases) == sorted(parts)
    assert manifest.splits["val"] == manifest.folds[0].val
    for side in ("val", "train"):
        names = [example["name"].decode() for example in preparing.examples(folder, manifest, side)]
        assert tuple(names) == manifest.splits[side].cases


def test_folds_of_what_is_not_cut_are_written_once_and_split_as_without_them(folder):
    with_folds = preparing.prepare(folder, "--folds=3")
    assert all(fold.train == fold.val for fold in with_folds.folds)
    assert len(list((folder / "out").glob("fold*"))) == 2 + 4 + 3
    (folder / "out").rename(folder / "folds")
    plain = preparing.prepare(folder)
    for side, split in plain.splits.items():
        found = with_folds.splits[side]
        assert set(found.cases) == set(split.cases)
        assert (found.sizes, found.pixels) == (split.sizes, split.pixels)
        assert found.mean == (pytest.approx(split.mean[0], rel=1e-15),)
        assert found.std == (pytest.approx(split.std[0], rel=1e-14),)


def test_too_many_folds_are_refused_before_anything_is_read(folder, capfd, monkeypatch):
    monkeypatch.setattr(kinds.Images, "examine", lambda *pair: 1 / 0)
    assert preparing.refusal(capfd, folder, "--folds=9") == (
        "--folds=9 takes the val split and 8 groups of the train split, which has 7; use --folds=8."
    )


def test_a_class_that_a_fold_lacks_is_mentioned(folder, caplog):
    (bare,) = preparing.prepare(folder, "--folds=8").folds[3].val.cases
    Image.new("L", (6, 8)).save(folder / f"masks/{bare}.png")
    (folder / "out").rename(folder / "before")
    preparing.prepare(folder, "--folds=8", "--classes=a:0,b:255")
    assert "Warning: class b does not occur in fold 3." in caplog.messages


def test_a_tile_with_the_name_of_an_image_is_refused(folder, capfd):
    train = preparing.prepare(folder).splits["train"].cases
    for kind in ("images", "masks"):
        (folder / kind / f"{train[0]}.png").rename(folder / kind / f"{train[1]}_y4_x0.png")
    lists = {"train": [train[1]], "val": [f"{train[1]}_y4_x0"]}
    (folder / "splits.json").write_text(json.dumps(lists))
    others = [f"--splits={folder}/splits.json", "--tile=4", f"--output={folder}/second"]
    assert preparing.refusal(capfd, folder, *others, num_notes=2) == (
        f"DIR/images/{train[1]}.png and DIR/images/{train[1]}_y4_x0.png both give an example "
        f"{train[1]}_y4_x0, because --tile names parts of images like that; rename one."
    )


def test_memory_grows_by_what_is_known_of_an_image_and_by_nothing_of_its_pixels(tmp_path):
    rng = np.random.default_rng(0)
    mask = np.zeros((128, 128), np.uint8)
    mask[9:99] = 1
    peaks = []
    for count in (4, 40, 80):  # before the first, modules are imported
        folder = tmp_path / str(count)
        for name in ("images", "masks"):
            (folder / name).mkdir(parents=True)
        for case in range(count):
            noise = rng.integers(256, size=(128, 128, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / f"images/{case}.bmp")
            Image.fromarray(mask).save(folder / f"masks/{case}.png")
        tracemalloc.start()
        preparing.prepare(folder, "--shard_mb=1")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # An image has 49 kB, in its record too, a mask 16 kB; names, sizes and counts are below 2 kB.
    assert (peaks[2] - peaks[1]) / 40 < 4096
