"""Checkpoints: whole ones count, others are passed over."""

import json

import pytest
import tensorflow as tf

from trainer import checkpoint


@pytest.fixture
def value():
    return tf.Variable([1.0, 2.0])


@pytest.fixture
def checkpoints(tmp_path, value):
    return checkpoint.Checkpoints(str(tmp_path / "all"), tf.train.Checkpoint(value=value), keep=2)


def test_restoring_gives_back_values_step_and_progress(checkpoints, value):
    checkpoints.save(3, {"best": 0.5})
    value.assign([9, 9])
    commit = checkpoints.restore()
    assert (commit["step"], commit["progress"]) == (3, {"best": 0.5})
    assert value.numpy().tolist() == [1, 2]


def test_an_empty_folder_has_nothing_to_restore(checkpoints):
    assert checkpoints.restore() is None
    assert checkpoints.steps() == []


def test_only_the_newest_are_kept(checkpoints, tmp_path):
    for step in (1, 2, 3):
        checkpoints.save(step, {})
    assert checkpoints.steps() == [2, 3]
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == ["00000002", "00000003"]


def test_the_commit_says_size_and_checksum_of_each_file(checkpoints, tmp_path):
    checkpoints.save(1, {})
    folder = tmp_path / "all" / "00000001"
    files = json.loads((folder / "commit.json").read_text())["files"]
    assert set(files) == {path.name for path in folder.iterdir()} - {"commit.json"}
    for name, entry in files.items():
        assert entry["bytes"] == (folder / name).stat().st_size


def damage(folder, kind):
    data = next(folder.glob("state.data*"))
    if kind == "missing":
        data.unlink()
    elif kind == "cut":
        data.write_bytes(data.read_bytes()[:-1])
    else:
        content = bytearray(data.read_bytes())
        content[0] ^= 1
        data.write_bytes(content)


@pytest.mark.parametrize(
    ("kind", "fault"),
    [("missing", "is missing"), ("cut", "has bytes"), ("flipped", "has crc32c")],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_restored(
    checkpoints, value, tmp_path, caplog, kind, fault
):
    checkpoints.save(1, {})
    value.assign([3, 4])
    checkpoints.save(2, {})
    damage(tmp_path / "all" / "00000002", kind)
    assert fault in checkpoint.find_fault(
        str(tmp_path / "all" / "00000002"),
        checkpoint.read_commit(str(tmp_path / "all" / "00000002")),
    )
    assert checkpoints.restore()["step"] == 1
    assert value.numpy().tolist() == [1, 2]


def test_a_checkpoint_without_its_commit_is_not_one(checkpoints, tmp_path):
    checkpoints.save(1, {})
    (tmp_path / "all" / "00000001" / "commit.json").unlink()
    assert checkpoints.restore() is None


def test_workers_that_are_not_the_chief_leave_no_files(tmp_path, value):
    other = checkpoint.Checkpoints(
        str(tmp_path / "all"), tf.train.Checkpoint(value=value), keep=2, chief=False
    )
    other.save(1, {})
    assert not (tmp_path / "all").exists()
