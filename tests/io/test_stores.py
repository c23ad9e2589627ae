"""Tests of the commands on object stores that take tensorflow-io."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.jobs import ROOT
from trainer.data.dataset import schema
from trainer.errors import InputError
from trainer.storage import files

SECONDS = 300


def _start(module, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _run(module, *arguments):
    """Runs a command to its end and returns what it printed."""
    process = _start(module, *arguments)
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, output
    return output


def _read(path):
    with files.open_file(path, "r") as file:
        return file.read()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Draws ten images of a bright square, 32×32, and their masks."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for case in range(10):
        mask = np.zeros((32, 32), np.uint8)
        mask[8:20, 4 + case : 20 + case] = 1
        image = (rng.integers(0, 100, mask.shape) + 100 * mask).astype(np.uint8)
        Image.fromarray(image).save(folder / f"images/{case}.png")
        Image.fromarray(mask).save(folder / f"masks/{case}.png")
    return folder


def _prepare(folder, output):
    _run(
        "trainer.data.prepare",
        f"--images={folder}/images",
        f"--masks={folder}/masks",
        f"--output={output}",
    )


@pytest.fixture(scope="module")
def data(bucket, pictures):
    """Prepares the pictures into the bucket."""
    _prepare(pictures, f"{bucket}/data")
    return f"{bucket}/data"


@pytest.fixture(scope="module")
def s3_data(s3, pictures):
    """Prepares the pictures into s3://, for what is not tried in both stores."""
    _prepare(pictures, f"{s3}/s3-data")
    return f"{s3}/s3-data"


def _job(data, run, *others):
    small = ["--filters=2", "--depth=2", "--crop=32", "--batch_size=2", "--jit_compile=false"]
    small += ["--precision=float32", "--strategy=one_device", "--steps_per_loop=1", "--panels=1"]
    return ["--data_dir=" + data, "--run_dir=" + run, *small, *others]


def test_prepared_data_are_whole_and_inspect_reads_them(data):
    manifest = schema.read_manifest(data)
    assert sum(split.examples for split in manifest.splits.values()) == 10
    names = tf.io.gfile.listdir(data)
    shards = [shard.name for split in manifest.splits.values() for shard in split.shards]
    assert sorted(names) == sorted([*shards, schema.MANIFEST])
    assert "are as they were written." in _run("trainer.data.inspect", data, "--verify")


def test_a_run_of_five_steps_is_trained_and_evaluated(bucket, data):
    run = f"{bucket}/five"
    output = _run("trainer.task", *_job(data, run, "--steps=5", "--eval_every=5"))
    assert f"run folder: {run}" in output
    assert json.loads(_read(f"{run}/run.json"))["exit_reason"] == "finished"
    entries = [json.loads(line) for line in _read(f"{run}/metrics.jsonl").splitlines()]
    steps = [entry["step"] for entry in entries if entry["split"] == "train"]
    assert steps == [1, 2, 3, 4, 5]
    assert [entry["split"] for entry in entries[-2:]] == ["val", "test"]
    for folder in ("checkpoints/00000005", "best/00000005"):
        assert files.exists(f"{run}/{folder}/commit.json")
    for split in ("train", "val"):
        (events,) = tf.io.gfile.glob(f"{run}/tensorboard/{split}/*")
        assert len(list(tf.data.TFRecordDataset(events))) > 1
    assert "per image dice" in _run("trainer.evaluate", f"--run_dir={run}", "--split=val")


def test_a_run_that_was_killed_resumes_where_it_stopped(bucket, data):
    run = f"{bucket}/killed"
    job = _job(data, run, "--steps=12", "--eval_every=12", "--checkpoint_every=2")
    process = _start("trainer.task", *job)
    deadline = time.monotonic() + SECONDS
    while not files.exists(f"{run}/checkpoints/00000002/commit.json"):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
    process.kill()
    process.communicate()
    output = _run("trainer.task", *job)
    assert "Resuming from step " in output
    entries = [json.loads(line) for line in _read(f"{run}/metrics.jsonl").splitlines()]
    steps = [entry["step"] for entry in entries if entry["split"] == "train"]
    assert steps == list(range(1, 13))
    assert json.loads(_read(f"{run}/run.json"))["exit_reason"] == "finished"


def _copy(old, new):
    for name in tf.io.gfile.listdir(old):  # whose own copy cannot, from az:// to az://
        with files.open_file(f"{old}/{name}", "rb") as source:
            content = source.read()
        with files.writing(f"{new}/{name}", "wb") as copy:
            copy.write(content)


def test_pictures_there_give_the_same_data_as_pictures_here(s3, s3_data, pictures, tmp_path):
    for kind in ("images", "masks"):
        _copy(str(pictures / kind), f"{s3}/pictures/{kind}")
    _prepare(f"{s3}/pictures", tmp_path / "data")
    here, there = (
        [shard.crc32c for split in schema.read_manifest(folder).splits.values()
         for shard in split.shards]
        for folder in (s3_data, str(tmp_path / "data"))
    )  # fmt: skip
    assert here == there


def _refusal(module, *arguments):
    """Returns the last line of a command that ends with status 2."""
    process = _start(module, *arguments)
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 2, output
    assert "Traceback" not in output
    return output.splitlines()[-1]


def test_a_bucket_that_is_not_there_is_one_line(s3, s3_data, pictures):
    missing = s3.rpartition("/")[0] + "/missing"
    line = f"{missing}/run: there is no {missing}/, or no access to it; create it, or name another."
    assert _refusal("trainer.task", *_job(s3_data, f"{missing}/run", "--steps=5")) == line
    here = [f"--images={pictures}/images", f"--masks={pictures}/masks"]
    line = _refusal("trainer.data.prepare", *here, f"--output={missing}/data")
    assert line.startswith(f"{missing}/data: there is no {missing}/, ")
    line = _refusal("trainer.task", *_job(f"{missing}/data", f"{s3}/none", "--steps=5"))
    assert line.startswith(f"{missing}/data")


def test_a_run_folder_may_be_there_while_the_data_are_local(s3, s3_data, tmp_path):
    _copy(s3_data, str(tmp_path))
    run = f"{s3}/local"
    output = _run("trainer.task", *_job(str(tmp_path), run, "--steps=1", "--eval_every=1"))
    assert f"run folder: {run}" in output


def test_masks_are_predicted_and_models_exported_there(s3, s3_data, pictures):
    run = f"{s3}/used"
    _run("trainer.task", *_job(s3_data, run, "--steps=1", "--eval_every=1"))
    _copy(str(pictures / "images"), f"{s3}/new")
    _run("trainer.predict", f"--run_dir={run}", f"--images={s3}/new", f"--output={s3}/masks")
    masks = [name for name in tf.io.gfile.listdir(f"{s3}/masks") if name.endswith(".png")]
    assert sorted(masks) == sorted(tf.io.gfile.listdir(f"{s3}/new"))
    _run("trainer.export", f"--run_dir={run}", f"--output={s3}/model")
    assert {"saved_model.pb", "model.keras"} <= set(tf.io.gfile.listdir(f"{s3}/model"))
    _run("trainer.report", run, f"--output={s3}/reports/r.html")
    assert files.exists(f"{s3}/reports/r.html")


def test_a_missing_shard_is_named(s3, s3_data):
    shard = schema.read_manifest(s3_data).splits["train"].shards[0]
    copy = f"{s3}/copy"
    _copy(s3_data, copy)
    files.remove(f"{copy}/{shard.name}")
    process = _start("trainer.task", *_job(copy, f"{s3}/stopped", "--steps=5"))
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 2, output
    assert output.splitlines()[-1].startswith(f"{copy}/{shard.name} is missing, ")


def _break_off(path, content, mode="w"):
    with files.writing(path, mode) as file:
        file.write(content)
        raise KeyError


def test_a_file_whose_writer_raises_is_not_published(bucket):
    path = f"{bucket}/unfinished/x"
    with pytest.raises(KeyError):
        _break_off(path, "some of it")
    assert not files.exists(path)
    files.write_whole(path, "old")
    with pytest.raises(KeyError):
        _break_off(path, b"n" * 2**21, "wb")
    assert _read(path) == "old"


def test_a_path_without_a_folder_is_refused(bucket):
    with pytest.raises(InputError, match=f"{bucket} names no folder; write {bucket}/FOLDER."):
        files.make_folder(bucket)


def test_a_file_that_is_not_there_is_not_copied_as_an_empty_one(bucket, tmp_path):
    with pytest.raises(InputError, match=f"{bucket}/none/x does not exist"):
        files.copy_from_store(f"{bucket}/none/x", str(tmp_path / "x"))


def test_the_process_keeps_its_exit_status(s3):
    code = (
        f"import sys; from trainer.storage import files; print(files.exists('{s3}/x')); sys.exit(3)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=SECONDS
    )
    assert (result.returncode, result.stdout) == (3, "False\n")
