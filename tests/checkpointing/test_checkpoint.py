"""Checkpoints: whole ones count, others are skipped."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.jobs import command
from trainer.checkpointing import checkpoint
from trainer.errors import InputError


@pytest.fixture
def value():
    return tf.Variable([1.0, 2.0], name="value")


@pytest.fixture
def checkpoints(tmp_path, value):
    return checkpoint.Checkpoints(str(tmp_path / "checkpoints"), {"model": [value]}, "abc")


def save(checkpoints, *steps):
    for step in steps:
        checkpoints.write(checkpoints.snapshot(step, {"best": step / 10}))


def test_restoring_gives_back_values_step_and_progress(checkpoints, value):
    save(checkpoints, 5)
    value.assign([9, 9])
    commit = checkpoints.restore()
    assert (commit["step"], commit["progress"]) == (5, {"best": 0.5})
    assert value.numpy().tolist() == [1, 2]


def test_a_snapshot_does_not_follow_the_variables(checkpoints, value):
    snapshot = checkpoints.snapshot(1, {})
    value.assign([9, 9])
    checkpoints.write(snapshot)
    checkpoints.restore()
    assert value.numpy().tolist() == [1, 2]


def test_tensorflow_reads_the_tensors_by_group_place_and_shape(checkpoints, tmp_path):
    save(checkpoints, 1)
    reader = tf.train.load_checkpoint(str(tmp_path / "checkpoints" / "00000001" / "state"))
    assert reader.get_variable_to_shape_map() == {"model/0000/2": [2]}


def test_a_second_network_of_a_process_restores_the_first_ones_checkpoint(tmp_path):
    def state():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3), keras.layers.Dense(1)])
        optimizer = keras.optimizers.Adam()
        optimizer.build(model.trainable_variables)
        return {"model": model.variables, "optimizer": optimizer.variables}

    one, other = (checkpoint.Checkpoints(str(tmp_path), state()) for _ in range(2))
    save(one, 1)
    other.restore()
    again = other.snapshot(2, {}).tensors
    for name, values in one.snapshot(1, {}).tensors.items():
        np.testing.assert_array_equal(again[name], values)


def test_a_checkpoint_with_the_names_of_earlier_releases_is_restored_by_place(
    checkpoints, value, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_shown", lambda shape: "conv2d_17_kernel")
        save(checkpoints, 1)
    value.assign([9, 9])
    checkpoints.restore()
    assert value.numpy().tolist() == [1, 2]


@pytest.mark.parametrize(
    ("variables", "difference"),
    [
        ([[1.0, 2.0, 3.0]], "tensor 0 of model as 2, and this job has it as 3"),
        ([[1.0, 2.0], 0.0], "1 tensors of model, and this job has 2"),
    ],
)
def test_a_checkpoint_of_another_network_is_refused_and_nothing_is_assigned(
    checkpoints, tmp_path, variables, difference
):
    save(checkpoints, 1)
    state = [tf.Variable(values) for values in variables]
    other = checkpoint.Checkpoints(str(tmp_path / "checkpoints"), {"model": state})
    with pytest.raises(InputError) as error:
        other.restore()
    assert str(error.value) == (
        f"{tmp_path}/checkpoints/00000001 is a checkpoint of another network, optimizer or "
        f"release: it has {difference}; choose another --run_dir, or the release that wrote it."
    )
    assert state[0].numpy().tolist() == variables[0]


def test_a_group_that_may_be_missing_stays_and_one_that_is_not_asked_for_is_left(tmp_path):
    def pair():
        return {"model": [tf.Variable(1.0)], "scale": [tf.Variable(2.0)]}

    folder, whole, half = str(tmp_path), pair(), pair()
    save(checkpoint.Checkpoints(folder, {"model": whole["model"]}), 1)
    half["model"][0].assign(7)
    checkpoint.Checkpoints(folder, half, optional=["scale"]).restore()
    assert (half["model"][0].numpy(), half["scale"][0].numpy()) == (1, 2)
    with pytest.raises(InputError, match="it has 0 tensors of scale, and this job has 1"):
        checkpoint.Checkpoints(folder, half).restore()
    save(checkpoint.Checkpoints(folder, whole), 2)
    alone = {"model": [tf.Variable(7.0)]}
    checkpoint.Checkpoints(folder, alone).restore()
    assert alone["model"][0].numpy() == 1


@pytest.mark.parametrize("name", ["a[b]", "a*?b", "a\\b", "a%d, b=1", "ü 'x' \"y\""])
def test_a_checkpoint_is_restored_whatever_its_folder_is_called(tmp_path, value, name):
    checkpoints = checkpoint.Checkpoints(str(tmp_path / name), {"model": [value]})
    save(checkpoints, 1)
    value.assign([9, 9])
    assert checkpoints.restore()["step"] == 1
    assert value.numpy().tolist() == [1, 2]


def check_same(*commits):
    """Returns what each worker is told that restored such a checkpoint."""
    arrays, said = [], []
    for told in (False, True):  # first each enters its own, then all see the sum
        for worker, commit in enumerate(commits):

            def add(array, told=told):
                arrays.append(array)
                return sum(arrays[: len(commits)]) if told else array * 0

            try:
                checkpoint.check_same("DIR", commit, worker, len(commits), add)
            except InputError as error:
                said.append(str(error))
    return said


def test_workers_that_restored_different_checkpoints_are_all_stopped():
    def commit(step, evaluated):
        return {"step": step, "progress": {"evaluated_step": evaluated}}

    assert check_same(commit(4, 4), commit(4, 4)) == []
    assert check_same(None, None) == []
    start, end = (
        "The workers do not see the same checkpoint in DIR: ",
        ". Give all workers one shared folder as --run_dir, and start again.",
    )
    for commits, found in (
        ([commit(4, 4), commit(2, 2)], "worker 0: step 4; worker 1: step 2"),
        ([commit(4, 4), None], "worker 0: step 4; worker 1: none"),
        (
            [commit(4, 4), commit(4, 2)],
            "worker 0: step 4, evaluated at 4; worker 1: step 4, evaluated at 2",
        ),
    ):
        assert check_same(*commits) == [start + found + end] * 2


def test_an_empty_folder_has_nothing_to_restore(checkpoints):
    assert checkpoints.restore() is None
    assert checkpoints.steps() == []


def test_removed_checkpoints_are_gone(checkpoints, tmp_path):
    save(checkpoints, 1, 2, 3)
    checkpoints.remove(checkpoints.steps()[:-2])
    assert checkpoints.steps() == [2, 3]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "00000002",
        "00000003",
    ]


def test_the_commit_says_size_and_checksum_of_each_file(checkpoints, tmp_path):
    save(checkpoints, 1)
    folder = tmp_path / "checkpoints" / "00000001"
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
    elif kind == "flipped":
        content = bytearray(data.read_bytes())
        content[0] ^= 1
        data.write_bytes(content)
    else:
        (folder / "commit.json").write_text('{"step": ')


DAMAGES = [
    ("missing", "is missing"),
    ("cut", "has bytes"),
    ("flipped", "has crc32c"),
    ("commit", "commit.json cannot be read"),
]


@pytest.mark.parametrize(("kind", "fault"), DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_restored(
    checkpoints, value, tmp_path, caplog, kind, fault
):
    save(checkpoints, 1)
    value.assign([3, 4])
    save(checkpoints, 2)
    damage(tmp_path / "checkpoints" / "00000002", kind)
    assert checkpoints.restore()["step"] == 1
    assert value.numpy().tolist() == [1, 2]
    assert fault in caplog.text
    assert "00000002 is skipped" in caplog.text


def test_a_damaged_checkpoint_is_replaced_when_its_step_comes_again(checkpoints, tmp_path):
    save(checkpoints, 1, 2)
    damage(tmp_path / "checkpoints" / "00000002", "cut")
    checkpoints.restore()
    save(checkpoints, 2)
    assert checkpoints.restore()["step"] == 2


def test_a_folder_without_its_commit_is_a_stray_and_is_removed(checkpoints, tmp_path):
    save(checkpoints, 1, 2)
    (tmp_path / "checkpoints" / "00000002" / "commit.json").unlink()
    assert checkpoints.restore()["step"] == 1
    checkpoints.remove_strays()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["00000001"]


@pytest.mark.parametrize("kind", ["cut", "flipped", "missing"])
def test_a_damaged_newest_checkpoint_does_not_count_among_those_that_are_kept(
    checkpoints, tmp_path, value, kind
):
    save(checkpoints, 1, 2, 9)
    damage(tmp_path / "checkpoints" / "00000009", kind)
    assert checkpoints.restore()["step"] == 2
    checkpoints.remove_replaced(1)
    assert checkpoints.steps() == [2, 9]
    save(checkpoints, 3)
    checkpoints.remove_replaced(1)
    assert checkpoints.steps() == [3, 9]
    again = checkpoint.Checkpoints(str(tmp_path / "checkpoints"), {"model": [value]}, "abc")
    assert again.restore()["step"] == 3
    save(again, 10)
    again.remove_replaced(1)
    assert again.steps() == [10]


def test_a_damaged_checkpoint_that_was_written_again_counts(checkpoints, tmp_path):
    save(checkpoints, 1, 2)
    damage(tmp_path / "checkpoints" / "00000002", "cut")
    checkpoints.restore()
    save(checkpoints, 2)
    checkpoints.remove_replaced(1)
    assert checkpoints.steps() == [2]


def test_folders_and_files_of_others_stay_among_the_checkpoints(checkpoints, tmp_path):
    save(checkpoints, 1, 2)
    folder = tmp_path / "checkpoints"
    (folder / "1000").mkdir()  # as Orbax names a checkpoint
    (folder / "1000" / "_METADATA").write_text("theirs")
    (folder / "00000001" / "notes.txt").write_text("mine")
    (folder / "00000003").mkdir()
    (folder / "00000003" / "notes.txt").write_text("mine")
    (folder / "00000003" / "state.index").write_text("of a writer that was killed")
    checkpoints.remove_strays()
    checkpoints.remove_replaced(1)
    save(checkpoints, 3)
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    ours = {"commit.json", "state.index", "state.data-00000-of-00001"}
    assert left == {"1000/_METADATA", "00000001/notes.txt", "00000003/notes.txt"} | {
        f"{step}/{name}" for step in ("00000002", "00000003") for name in ours
    }
    assert checkpoints.restore()["step"] == 3


def test_the_progress_of_a_restored_step_is_renewed_without_writing_its_files_again(
    checkpoints, tmp_path
):
    save(checkpoints, 1)
    checkpoints.restore()
    data = next((tmp_path / "checkpoints" / "00000001").glob("state.data*"))
    before = data.stat().st_mtime_ns
    checkpoints.write(checkpoints.snapshot(1, {"best": 7}))
    assert checkpoints.restore()["progress"] == {"best": 7}
    assert data.stat().st_mtime_ns == before


def test_a_checkpoint_of_other_settings_is_refused(checkpoints, tmp_path, value):
    save(checkpoints, 1)
    other = checkpoint.Checkpoints(str(tmp_path / "checkpoints"), {"model": [value]}, "xyz")
    with pytest.raises(InputError, match=r"other settings or data \(fingerprint abc instead of"):
        other.restore()


def test_integers_and_scalars_are_restored_as_they_were(tmp_path):
    variables = [tf.Variable(7, dtype=tf.int64), tf.Variable(np.uint32([1, 2]))]
    checkpoints = checkpoint.Checkpoints(str(tmp_path), {"a": variables[:1], "b": variables[1:]})
    save(checkpoints, 1)
    variables[0].assign(0)
    variables[1].assign([0, 0])
    checkpoints.restore()
    assert variables[0].numpy() == 7
    assert variables[1].numpy().tolist() == [1, 2]


@pytest.mark.slow
def test_list_and_verify_show_steps_sizes_and_what_is_not_whole(checkpoints, tmp_path):
    save(checkpoints, 1, 2, 3)
    damage(tmp_path / "checkpoints" / "00000002", "flipped")
    (tmp_path / "checkpoints" / "00000003" / "commit.json").unlink()
    listed, verified = (
        command("trainer.checkpointing", action, str(tmp_path)) for action in ("list", "verify")
    )
    assert [line.split()[-1] for line in listed.stdout.splitlines()] == [
        "state",
        "committed",
        "committed",
        "unfinished",
    ]
    first, second = verified.stdout.splitlines()[1:3]
    assert first.split()[:3] == ["checkpoints", "1", "0.0"]
    assert first.endswith("whole")
    assert "has crc32c" in second
    assert verified.returncode == 2
    assert verified.stderr == (
        "2 of 3 checkpoints are damaged or incomplete; trainer.task skips them and resumes from "
        "the newest complete one.\n"
    )


@pytest.mark.slow
def test_a_folder_without_checkpoints_and_an_unknown_action_are_refused(tmp_path):
    result = command("trainer.checkpointing", "verify", str(tmp_path))
    assert (result.returncode, result.stderr) == (
        2,
        f"--run_dir={tmp_path} has no checkpoints; name a folder that trainer.task wrote.\n",
    )
    result = command("trainer.checkpointing", "verfy", str(tmp_path))
    assert result.returncode == 2
    assert "did you mean verify?" in result.stderr


@pytest.mark.slow
def test_a_third_word_is_refused(tmp_path):
    result = command("trainer.checkpointing", "list", str(tmp_path), "more")
    assert (result.returncode, result.stderr) == (
        2,
        "'more' is not a flag; write --name=value, see --help.\n",
    )
