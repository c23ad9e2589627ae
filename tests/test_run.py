"""Whole jobs, as processes: train, go on, refuse, evaluate."""

import json
import os
import socket
import subprocess
import sys

import pytest
from conftest import write_data

from trainer import config, run
from trainer.errors import InputError

SMALL = ["--crop=32", "--filters=4", "--depth=2", "--batch_size=4", "--steps=6", "--eval_every=3"]
SMALL += ["--jit_compile=false", "--precision=float32", "--steps_per_loop=2"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_data(folder, {"train": [(40, 40)] * 8, "val": [(40, 40)] * 3, "test": [(48, 33)] * 3})
    return str(folder)


def command(module, *argv, environment=None):
    return subprocess.run(
        [sys.executable, "-m", module, *argv],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **(environment or {})},
    )


def train(data_dir, run_dir, *argv):
    return command("trainer.task", f"--data_dir={data_dir}", f"--run_dir={run_dir}", *SMALL, *argv)


def lines(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def only(entries, split, *keys):
    return [[entry[key] for key in keys] for entry in entries if entry["split"] == split]


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "finished"
    result = train(data_dir, run_dir)
    assert result.returncode == 0, result.stderr
    return run_dir, result


@pytest.mark.slow
def test_a_job_ends_with_the_dice_the_folder_and_the_tensorboard_line(finished):
    run_dir, result = finished
    *_, dice, folder, tensorboard = result.stderr.strip().splitlines()
    assert dice.startswith("test Dice, mean per image: 0.")
    assert folder == f"run folder: {run_dir}"
    assert tensorboard == f"tensorboard --logdir {run_dir}/tensorboard"


@pytest.mark.slow
def test_a_job_leaves_the_run_folder_that_is_promised(finished):
    run_dir, _ = finished
    entries = lines(run_dir)
    assert only(entries, "train", "step") == [[2], [3], [5], [6]]
    assert only(entries, "val", "step") == [[3], [6]]
    assert only(entries, "test", "dice", "iou")
    passport = json.loads((run_dir / "run.json").read_text())
    assert (passport["exit_reason"], passport["streams"], passport["total_steps"]) == (
        "finished",
        2,
        6,
    )
    for path in (
        "checkpoints/00000006/commit.json",
        "evaluation/test/cases.csv",
        "evaluation/test/summary.json",
        "tensorboard/train",
        "tensorboard/val",
    ):
        assert (run_dir / path).exists(), path
    assert len(list((run_dir / "best").glob("*/commit.json"))) == 1


@pytest.mark.slow
def test_a_run_that_goes_on_ends_like_one_that_was_not_stopped(data_dir, tmp_path, finished):
    result = train(data_dir, tmp_path / "half", "--patience=0", "--deterministic")
    assert result.returncode == 0, result.stderr
    whole = lines(tmp_path / "half")
    # What a kill after step 3 leaves: its checkpoint, and lines of steps that it did not save.
    again = tmp_path / "half" / "checkpoints" / "00000006"
    for path in again.iterdir():
        path.unlink()
    again.rmdir()
    result = train(data_dir, tmp_path / "half", "--deterministic")
    assert result.returncode == 0, result.stderr
    assert "Going on from step 3 of" in result.stderr
    resumed = lines(tmp_path / "half")
    for split, keys in (("train", ("step", "loss")), ("val", ("step", "loss", "dice"))):
        assert only(resumed, split, *keys) == only(whole, split, *keys)


@pytest.mark.slow
def test_a_run_folder_with_other_settings_is_refused_and_kept(data_dir, finished):
    run_dir, _ = finished
    before = (run_dir / "run.json").read_bytes()
    result = train(data_dir, run_dir, "--learning_rate=0.5")
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == (
        f"--run_dir={run_dir} holds a run with other settings: --learning_rate=0.5 (was 0.001); "
        "give the same flags to go on with it, or another --run_dir."
    )
    assert (run_dir / "run.json").read_bytes() == before


@pytest.mark.slow
def test_evaluation_as_a_command_gives_what_the_job_said(finished, tmp_path):
    run_dir, _ = finished
    (expected,) = only(lines(run_dir), "test", "dice", "iou")
    result = command(
        "trainer.evaluate", f"--run_dir={run_dir}", "--batch_size=2", f"--json={tmp_path / 's'}"
    )
    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "s").read_text())
    assert [summary["dice"], summary["iou"]] == pytest.approx(expected, rel=1e-4)
    assert "mean, foreground" in result.stderr


@pytest.mark.slow
def test_evaluation_of_data_of_another_kind_is_refused(finished, tmp_path):
    run_dir, _ = finished
    for channels, classes, message in (
        (3, 2, "takes 1 channels and the data have 3; prepare them with --channels=1."),
        (1, 3, "has the classes class0, class1 and the data class0, class1, class2; prepare"),
    ):
        folder = tmp_path / f"{channels}{classes}"
        folder.mkdir()
        write_data(folder, {"train": [(16, 16)]}, channels=channels, num_classes=classes)
        result = command("trainer.evaluate", f"--run_dir={run_dir}", f"--data_dir={folder}")
        assert result.returncode == 2
        assert message in result.stderr.splitlines()[-1]


@pytest.mark.slow
def test_evaluation_without_a_run_or_a_split_is_refused(finished, data_dir, tmp_path):
    run_dir, _ = finished
    result = command("trainer.evaluate", f"--run_dir={tmp_path}")
    assert (result.returncode, result.stderr) == (
        2,
        f"--run_dir={tmp_path} has no run.json; name a folder that trainer.task wrote.\n",
    )
    folder = tmp_path / "no_test"
    folder.mkdir()
    write_data(folder, {"train": [(16, 16)], "val": [(16, 16)]})
    result = command("trainer.evaluate", f"--run_dir={run_dir}", f"--data_dir={folder}")
    assert result.stderr.splitlines()[-1] == (
        f"--split=test is not in {folder}, which has train, val; name one of them."
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--batch_size=3", "--virtual_devices=2"],
            "--batch_size=3 does not divide among 2 replicas × --accumulate_steps=1; "
            "use a multiple of 2.",
        ),
        (["--learning_rate=1e30", "--optimizer=sgd", "--clip_norm=0"], "--learning_rate, more"),
        (["--data_dir=/nowhere"], "/nowhere has no manifest.json"),
        (["--streams=3"], "--streams=3 is not a power of two up to 2"),
    ],
)
def test_a_job_that_cannot_be_is_one_line_and_status_2(data_dir, tmp_path, argv, message):
    result = train(data_dir, tmp_path / "run", *argv)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr.strip().splitlines()[-1]
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_a_run_that_diverges_keeps_its_last_good_checkpoint(data_dir, tmp_path):
    argv = ["--optimizer=sgd", "--clip_norm=0", "--norm=none", "--schedule=constant"]
    argv += ["--learning_rate=1e4", "--checkpoint_every=1", "--steps_per_loop=1"]
    result = train(data_dir, tmp_path, *argv)
    assert result.returncode == 2, result.stderr
    message = result.stderr.strip().splitlines()[-1]
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert f"the checkpoint of step {int(kept[-1])} is kept" in message
    assert json.loads((tmp_path / "run.json").read_text())["exit_reason"] == message


@pytest.mark.slow
def test_a_damaged_shard_stops_the_job_with_its_name_and_offset(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    write_data(folder, {"train": [(40, 40)] * 8, "val": [(40, 40)], "test": [(40, 40)]})
    shard = folder / "train-00001-of-00002.tfrecord"
    shard.write_bytes(shard.read_bytes()[:-10])
    result = train(folder, tmp_path / "run")
    assert result.returncode == 2, result.stderr
    assert f"{shard} is damaged at byte " in result.stderr.strip().splitlines()[-1]


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 600 kB, in memory."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"needs the right to mount: {mounted.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_run_goes_on_once_there_is_room(data_dir, small_disk):
    run_dir = small_disk / "run"
    result = train(data_dir, run_dir, "--filters=16")
    assert result.returncode == 2, result.stderr
    assert result.stderr.strip().splitlines()[-1] == (
        f"No space is left on the disk of --run_dir={run_dir}; free some and start again: the "
        "last whole checkpoint is kept."
    )
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    result = train(data_dir, run_dir, "--filters=16")
    assert result.returncode == 0, result.stderr
    assert json.loads((run_dir / "run.json").read_text())["exit_reason"] == "finished"


def free_ports(number):
    sockets = [socket.socket() for _ in range(number)]
    for entry in sockets:
        entry.bind(("127.0.0.1", 0))
    ports = [entry.getsockname()[1] for entry in sockets]
    for entry in sockets:
        entry.close()
    return ports


@pytest.mark.slow
def test_two_workers_train_like_one(data_dir, tmp_path):
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    argv = [f"--data_dir={data_dir}", *SMALL, "--norm=none", "--optimizer=sgd", "--augment=none"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "trainer.task", *argv, f"--run_dir={tmp_path / 'two'}"],
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "TF_CONFIG": json.dumps(
                    {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
                ),
            },
        )
        for index in range(2)
    ]
    outputs = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    result = command("trainer.task", *argv, f"--run_dir={tmp_path / 'one'}")
    assert result.returncode == 0, result.stderr
    for split, keys in (
        ("train", ("step", "loss")),
        ("val", ("loss", "dice")),
        ("test", ("dice",)),
    ):
        one, two = (only(lines(tmp_path / name), split, *keys) for name in ("one", "two"))
        assert len(one) == len(two) > 0
        for ours, theirs in zip(one, two, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-5)


def test_progress_counts_evaluations_without_a_better_score():
    progress = run.Progress()
    for step, dice in ((1, 0.5), (2, 0.7), (3, 0.6), (4, 0.7)):
        progress = progress.after(step, "dice", {"dice": dice})
    assert (progress.best, progress.best_step, progress.worse) == (0.7, 2, 2)
    assert progress.exhausted(2)
    assert not progress.exhausted(3)
    assert not progress.exhausted(0)


def test_a_lower_loss_is_better():
    progress = run.Progress().after(1, "loss", {"loss": 2.0}).after(2, "loss", {"loss": 1.0})
    assert (progress.best, progress.best_step) == (1.0, 2)


def test_an_undefined_score_still_makes_the_first_checkpoint_the_best():
    progress = run.Progress().after(1, "dice", {"loss": 2.0})
    assert progress.best_step == 1
    assert progress.after(2, "dice", {"dice": 0.0}).best_step == 2


def test_float16_tolerates_an_infinite_gradient_but_not_an_infinite_loss():
    figures = {"loss": 1.0, "gradient_norm": float("inf")}
    run.check_finite(figures, 5, "float16", [])
    with pytest.raises(InputError) as error:
        run.check_finite(figures, 5, "float32", [4])
    assert str(error.value) == (
        "The gradient_norm is inf at step 5; the checkpoint of step 4 is kept. Try a lower "
        "--learning_rate, more --warmup_steps, a lower --clip_norm, or --precision=float32."
    )
    with pytest.raises(InputError, match="The loss is nan at step 5; there is no checkpoint yet"):
        run.check_finite({"loss": float("nan")}, 5, "float16", [])


def test_weight_decay_is_that_of_adamw_only_where_the_flag_is_silent():
    def decay_of(**values):
        settings = config.Optimization(**values)
        return run.build_optimizer(settings, 10, "float32").weight_decay

    assert decay_of() == 1e-4
    assert decay_of(optimizer="adam") is None
    assert decay_of(optimizer="sgd", weight_decay=0.01) == 0.01
