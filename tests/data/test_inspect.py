"""Tests of looking into a data folder."""

import dataclasses
import os
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.jobs import ROOT, command
from tests.shards import index_cases
from trainer import cli, config
from trainer.data import inspect
from trainer.data.dataset import schema, volume_examples
from trainer.data.prepare import preparation


@pytest.fixture
def data(tmp_path):
    """Ten images of 4×6 pixels, a quarter of them nucleus: 7 train, 2 val, 1 test."""
    rng = np.random.default_rng(0)
    mask = np.zeros((10, 4, 6), np.uint8)
    mask[:, :2, :3] = 255
    np.save(tmp_path / "x.npy", rng.integers(0, 256, (10, 4, 6, 3), np.uint8))
    np.save(tmp_path / "y.npy", mask)
    preparation.prepare(
        config.Prepare(
            images=str(tmp_path / "x.npy"),
            masks=str(tmp_path / "y.npy"),
            output=str(tmp_path / "data"),
            classes="background:0,nucleus:255",
            origin="Our microscope",
            licence="CC0",
            seed=8,
            workers=1,
        )
    )
    return tmp_path / "data"


def _inspect(data, *others):
    cli.run(config.Inspect, inspect.main, ["inspect", f"--data_dir={data}", *others])


def test_folds_are_counted_and_their_shards_verified(folds_dir):
    manifest = schema.read_manifest(folds_dir)
    said = "\n".join(inspect.describe(manifest, folds_dir))
    assert "3, of 4, 4, 4 cases; the first is val" in said
    assert inspect.verify(manifest, folds_dir).startswith("All 8 shards")


def test_tables_say_what_is_there(data, capsys):
    _inspect(data)
    printed = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    assert "images 3 channels, uint8, stored as png" in lines
    assert "origin Our microscope" in lines
    assert "licence CC0" in lines
    rule = "sha256 of seed:group, 1"
    assert f"splits drawn by {rule}: train 0.7, val 0.15, test 0.15" in lines
    assert f"fingerprint {schema.fingerprint(schema.read_manifest(str(data)))}" in lines
    assert "class id mask value train val test" in lines
    assert "background 0 0 75.00 % 75.00 % 75.00 %" in lines
    assert "nucleus 1 255 25.00 % 25.00 % 25.00 %" in lines
    assert "4 × 6 7 2 1" in lines
    assert any(line.startswith("train 7 7 1 ") for line in lines)
    assert max(len(line) for line in printed.splitlines()) <= 100


def test_a_table_is_aligned():
    rows = [["name", "count"], ["a", "1"], ["long name", "1000"]]
    assert inspect.table(rows, heading=True) == [
        "  name        count",
        "  ─────────   ─────",
        "  a               1",
        "  long name    1000",
    ]


def test_whole_shards_are_verified(data, capsys):
    _inspect(data, "--verify")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("All 10 shards (")
    assert last.endswith(" MB) are as they were written.")


def test_indexes_of_cases_are_verified_and_need_not_be_read_for_the_tables(data, capsys):
    index_cases(data)
    _inspect(data, "--verify")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("All 10 shards and 3 indexes of cases (")
    path = data / "test-cases.jsonl"
    path.write_bytes(path.read_bytes() + b"\n")
    _inspect(data)
    assert _refusal(capsys, data, "--verify").startswith(
        "DIR/test-cases.jsonl is not the index of the manifest: lines 2 instead of 1, bytes "
    )


def _refusal(capsys, data, *others):
    with pytest.raises(SystemExit) as stop:
        _inspect(data, *others)
    assert stop.value.code == 2
    return capsys.readouterr().err.splitlines()[-1].replace(str(data), "DIR")


def test_a_damaged_shard_is_named_with_its_offset(data, capsys):
    path = data / "val-00001-of-00002.tfrecord"
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    path.write_bytes(content)
    assert _refusal(capsys, data, "--verify") == (
        "DIR/val-00001-of-00002.tfrecord is damaged at byte 0: the checksum of a record is wrong; "
        "copy it again or prepare the data again."
    )
    path.write_bytes(content[:50])
    assert _refusal(capsys, data, "--verify") == (
        "DIR/val-00001-of-00002.tfrecord is damaged at byte 0: the file is cut short; copy it "
        "again or prepare the data again."
    )


def test_a_folder_without_manifest_is_refused(tmp_path, capsys):
    assert _refusal(capsys, tmp_path) == (
        "DIR has no manifest.json: it is not a folder that trainer.data.prepare finished; prepare "
        "the data, or name another --data_dir."
    )


def test_a_sheet_shows_images_of_every_split(data, tmp_path):
    path = tmp_path / "sheet.png"
    _inspect(data, f"--sheet={path}", "--sheet_examples=5")
    # 4 of train, 1 of val and 1 of test: two rows of three tiles.
    drawn = np.asarray(Image.open(path))
    tile = inspect.panels.draw_example(np.zeros((4, 6, 1)), np.zeros((4, 6), np.uint8), "")
    gap, line = inspect.captions.GAP, inspect.captions.LINE
    height = 2 * (tile.shape[0] + gap) + gap + line
    assert drawn.shape == (height, 3 * (tile.shape[1] + gap) + gap, 3)
    assert (drawn == inspect.overlays.class_colour(1)).all(axis=2).sum() > 100


def test_a_sheet_has_an_example_of_every_class():
    masks = np.zeros((9, 8, 8), np.uint8)
    masks[7, 2:6, 2:6], masks[8, 2:6, 2:6] = 2, 1
    names = [f"case{k}" for k in range(9)]
    examples = [{"mask": tf.constant(m), "name": n} for m, n in zip(masks, names, strict=True)]
    unseen = {1, 2, 3}
    split = types.SimpleNamespace(pixels=[500, 16, 16, 0])  # none of class 3: not sought
    chosen = inspect._chosen(examples, 4, split, unseen)
    assert [example["name"] for example in chosen] == ["case0", "case1", "case7", "case8"]
    assert unseen == {3}
    read = iter(examples)
    assert len(inspect._chosen(read, 2, split, unseen)) == 2
    assert next(read)["name"] == "case3"  # no more was read


def test_a_sheet_replaces_a_sheet_and_no_other_picture(data, tmp_path, capsys):
    path = tmp_path / "sheet.png"
    for count in (3, 4):
        _inspect(data, f"--sheet={path}", f"--sheet_examples={count}")
    for theirs in (path, next(data.glob("val-*"))):
        if theirs == path:
            Image.new("L", (8, 8)).save(path)
        before = theirs.read_bytes()
        assert f"--sheet={theirs} exists, and no such command wrote it" in _refusal(
            capsys, data, f"--sheet={theirs}"
        ).replace("DIR", str(data))
        assert theirs.read_bytes() == before


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("none/x.png", "No such file or directory"),
        ("x.npy/x.png", "Not a directory"),
        (".", "Is a directory"),
        (f"{'x' * 300}.png", "File name too long"),
    ],
)
def test_a_sheet_that_cannot_be_written_is_named(data, tmp_path, capsys, path, reason):
    assert _refusal(capsys, data, f"--sheet={tmp_path}/{path}") == (
        f"--sheet={tmp_path}/{path} cannot be written: {reason}; name another file."
    )


@pytest.mark.slow
def test_what_tensorflow_says_when_it_is_imported_is_not_shown(data, tmp_path):
    sheet = f"--sheet={tmp_path}/none/x.png"
    argv = [sys.executable, "-m", "trainer.data.inspect", str(data), sheet]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    process = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert process.returncode == 2
    assert process.stderr.splitlines() == [
        f"{sheet} cannot be written: No such file or directory; name another file."
    ]


def test_leaks_and_skipped_images_are_listed(data):
    manifest = schema.read_manifest(str(data))
    changed = dataclasses.replace(
        manifest, leaks=(("train/a", "test/b"),), skipped=("c",), ignore_value=9
    )
    lines = [" ".join(line.split()) for line in inspect.describe(changed, "DIR")]
    assert "train/a = test/b" in lines
    assert "c" in lines
    assert "(ignored) 255 9" in lines


@pytest.mark.slow
def test_the_command_takes_the_folder_first(data):
    process = command("trainer.data.inspect", str(data), "--verify")
    assert process.returncode == 0
    assert process.stdout.splitlines()[-1].startswith("All 10 shards (")
    process = command("trainer.data.inspect", str(data), "--verrify")
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1] == "--verrify is not a flag; did you mean --verify?"


@pytest.fixture
def volumes(tmp_path):
    """Three volumes in train and one in val, 2 mm apart along the depth."""
    shapes = {"train": [(4, 16, 8), (4, 16, 8), (6, 12, 8)], "val": [(4, 16, 8)]}
    splits = {}
    for name, sizes in shapes.items():
        masks = [np.zeros(shape, np.uint8) for shape in sizes]
        for mask in masks:
            mask[2, 8, 4] = 1
        examples = [
            volume_examples.encode(
                f"{name}{n}", np.float32(mask)[..., None], mask, np.zeros((0, 4))
            )
            for n, mask in enumerate(masks)
        ]
        shard = schema.write_shard(str(tmp_path), schema.shard_name(name, 0, 1), examples)
        splits[name] = schema.Split(
            examples=len(sizes),
            shards=(shard,),
            cases=tuple(f"{name}{n}" for n in range(len(sizes))),
            sizes=tuple((*shape, sizes.count(shape)) for shape in sorted(set(sizes))),
            pixels=(sum(mask.size for mask in masks) - len(masks), len(masks)),
            ignored_pixels=0,
            mean=(0.0,),
            std=(1.0,),
        )
    manifest = schema.Manifest(
        classes=(schema.Class("background", 0), schema.Class("disc", 1)),
        channels=1,
        bit_depth=32,
        dtype="float32",
        encoding="zlib",
        splits=splits,
        volumes=volume_examples.Volumes(
            (2.0, 1.0, 1.0), (volume_examples.Channel("CT", "ct", 40.0, 12.5, -80.0, 300.0),)
        ),
        schema=2,
    )
    schema.write_manifest(manifest, str(tmp_path))
    return tmp_path


def test_of_volumes_spacing_sizes_and_intensities_are_printed(volumes, capsys):
    _inspect(volumes)
    printed = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    assert "spacing 2 × 1 × 1 mm, to which all were resampled" in lines
    assert "split volumes shards volumes/shard MB megavoxels ignored" in lines
    assert "CT ct 40 12.5 -80 300" in lines
    assert "smallest, voxels 4 × 12 × 8 4 × 16 × 8" in lines
    assert "median, voxels 4 × 16 × 8 4 × 16 × 8" in lines
    assert "largest, mm 12 × 16 × 8 8 × 16 × 8" in lines
    assert max(len(line) for line in printed.splitlines()) <= 100


def test_a_sheet_of_volumes_shows_a_slice_across_each_axis(volumes, tmp_path):
    path = tmp_path / "sheet.png"
    _inspect(volumes, f"--sheet={path}", "--sheet_examples=2")
    drawn = np.asarray(Image.open(path))
    tile = inspect.volumes.draw_example(
        np.zeros((4, 16, 8, 1)), np.zeros((4, 16, 8), np.uint8), (2.0, 1.0, 1.0), ""
    )
    gap, line = inspect.captions.GAP, inspect.captions.LINE
    assert drawn.shape == (
        2 * (tile.shape[0] + gap) + gap + line,
        2 * (tile.shape[1] + gap) + gap,
        3,
    )
    assert (drawn == inspect.overlays.class_colour(1)).all(axis=2).any()
