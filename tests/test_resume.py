"""Runs that are killed, stopped, moved or started twice, and what becomes of them."""

import json
import shutil
import signal

import pytest
import tensorflow as tf

from tests import rounding
from tests.jobs import lines, only, results, start, start_workers, train, wait_for, wait_until
from tests.servers import gcs_server
from tests.shards import write_balls
from trainer import config
from trainer.evaluate.evaluate_run import evaluate_run

pytestmark = pytest.mark.slow


def checksums(run_dir):
    """Returns the checksums of all checkpoints, by file: of weights, optimizer, best weights."""
    return {
        f"{path.parent.relative_to(run_dir)}/{name}": entry["crc32c"]
        for path in run_dir.glob("*/*/commit.json")
        for name, entry in json.loads(path.read_text())["files"].items()
    }


def stop_line(output):
    """Returns what a job that was asked to stop said of it.

    With several workers gRPC may say afterwards that the peer is gone.
    """
    return next(line for line in output.splitlines() if line.startswith("Stopped"))


def curve(run_dir, split, tag):
    """Returns the steps of a tag that TensorBoard would draw."""
    return sorted(
        event.step
        for path in (run_dir / "tensorboard" / split).glob("events*")
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
        if value.tag == tag
    )


LONG = ["--steps=24", "--eval_every=4", "--deterministic", "--ema=0.9", "--keep_checkpoints=3"]


@pytest.fixture(scope="session")
def uninterrupted(data_dir, shared):
    def build(folder):
        result = train(data_dir, folder / "run", *LONG)
        assert result.returncode == 0, result.stderr

    return shared("uninterrupted", build) / "run"


def test_what_a_kill_kept_from_being_removed_is_removed_at_the_next_start(
    data_dir, tmp_path, uninterrupted
):
    run_dir = shutil.copytree(uninterrupted, tmp_path / "killed")
    (best,) = (run_dir / "best").iterdir()
    for kept, replaced in ((best, "best/00000002"), (best, "best/00000099")):
        shutil.copytree(kept, run_dir / replaced)
    shutil.copytree(run_dir / "checkpoints/00000016", run_dir / "checkpoints/00000012")
    result = train(data_dir, run_dir, *LONG)
    assert result.returncode == 0, result.stderr
    assert checksums(run_dir) == checksums(uninterrupted)


def test_a_run_that_was_killed_ends_bit_equal_to_one_that_was_not(
    data_dir, tmp_path, uninterrupted
):
    run_dir = tmp_path / "killed"
    # After a checkpoint, and twice while one is written.
    for path in ("00000004/commit.json", "00000008/state.index", "00000016/state.index"):
        process = start(data_dir, run_dir, *LONG)
        wait_for(process, run_dir / "checkpoints" / path)
        process.kill()
        process.communicate()
    result = train(data_dir, run_dir, *LONG)
    assert result.returncode == 0, result.stderr
    assert results(run_dir) == results(uninterrupted)
    assert checksums(run_dir) == checksums(uninterrupted)
    for split, tag in (("train", "loss"), ("val", "scores/dice")):
        assert curve(run_dir, split, tag) == curve(uninterrupted, split, tag) != []


def test_a_run_on_volumes_that_was_killed_ends_bit_equal_to_one_that_was_not(tmp_path):
    shapes = {"train": [(9, 14, 12)] * 8, "val": [(9, 14, 12)] * 2, "test": [(6, 20, 9)] * 2}
    write_balls(tmp_path, shapes, num_classes=3)
    argv = ["--crop=8,12,12", "--strides=1,2,2/2,1,1/1,2,2", "--depth=3", "--norm=instance"]
    argv += ["--activation=leaky_relu", "--augment=strong", "--foreground=0.5", "--deterministic"]
    argv += ["--accumulate_steps=2", "--steps=8", "--eval_every=4", "--keep_checkpoints=3"]
    argv += ["--ema=0.9", "--model=residual_encoder_unet", "--deep_supervision"]
    argv += ["--loss=ce_linear_dice", "--optimizer=sgd", "--nesterov", "--schedule=polynomial"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train(tmp_path, whole, *argv).returncode == 0
    process = start(tmp_path, killed, *argv)
    wait_for(process, killed / "checkpoints/00000004/commit.json")
    process.kill()
    process.communicate()
    result = train(tmp_path, killed, *argv)
    assert result.returncode == 0, result.stderr
    assert results(killed) == results(whole)
    assert checksums(killed) == checksums(whole)


def test_a_job_that_is_asked_to_stop_saves_ends_with_143_and_resumes(
    data_dir, tmp_path, uninterrupted
):
    run_dir, step = tmp_path / "stopped", 0
    argv = [*LONG, "--keep_checkpoints=9"]  # those of the stops take no other's place
    for number, last in ((signal.SIGTERM, "00000004"), (signal.SIGINT, "00000012")):
        process = start(data_dir, run_dir, *argv)
        wait_for(process, run_dir / "checkpoints" / last / "commit.json")
        process.send_signal(number)
        _, output = process.communicate()
        assert process.returncode == 143, output
        assert step == 0 or f"Resuming from step {step} of" in output
        message = output.strip().splitlines()[-1]
        assert message.startswith(f"Stopped by {number.name} at step ")
        step = int(message.split("at step ")[1].split(";")[0])
        assert (run_dir / "checkpoints" / f"{step:08d}" / "commit.json").exists()
        assert json.loads((run_dir / "run.json").read_text())["exit_reason"] == message
    result = train(data_dir, run_dir, *argv)
    assert result.returncode == 0, result.stderr
    assert f"Resuming from step {step} of" in result.stderr
    assert results(run_dir) == results(uninterrupted)
    assert checksums(run_dir).items() >= checksums(uninterrupted).items()


def test_a_run_in_a_bucket_with_faults_that_is_killed_ends_as_one_on_the_disk(
    data_dir, gcs, bucket, uninterrupted
):
    gcs.begin(gcs_server.Faults(busy=0.1, cut=0.05, slow=0.05))
    argv = [*LONG, "--lease_seconds=2", "--checkpoint_every=16"]
    process = start(data_dir, f"{bucket}/run", *argv)
    wait_until(process, lambda: gcs.names(f"{bucket}/run/checkpoints/00000016/state"))
    process.kill()
    process.communicate()
    result = train(data_dir, f"{bucket}/run", *argv)
    assert result.returncode == 0, result.stderr
    commit = json.loads(gcs.read(f"{bucket}/run/checkpoints/00000024/commit.json"))
    for name, entry in commit["files"].items():
        assert entry["crc32c"] == checksums(uninterrupted)[f"checkpoints/00000024/{name}"]


def test_two_devices_killed_end_bit_equal_to_two_that_were_not(data_dir, tmp_path):
    # Each has the statistics of its own half of a batch, of which the mean is evaluated and saved.
    settings = [*LONG, *SGD, "--norm=batch", "--dropout=0.3", "--steps=12", "--activation=swish"]
    argv = [*settings, "--virtual_devices=2"]
    result = train(data_dir, tmp_path / "whole", *argv)
    assert result.returncode == 0, result.stderr
    process = start(data_dir, tmp_path / "killed", *argv)
    wait_for(process, tmp_path / "killed" / "checkpoints" / "00000008" / "state.index")
    process.kill()
    process.communicate()
    result = train(data_dir, tmp_path / "killed", *argv)
    assert result.returncode == 0, result.stderr
    assert results(tmp_path / "killed") == results(tmp_path / "whole")
    assert checksums(tmp_path / "killed") == checksums(tmp_path / "whole")
    # And best/ scores on one device what was reported of two.
    evaluate_run(
        config.Evaluate(run_dir=str(tmp_path / "whole"), split="val", worst_cases=0, best_cases=0)
    )
    summary = json.loads((tmp_path / "whole/evaluation/val/summary.json").read_text())
    (best,) = (int(path.name) for path in (tmp_path / "whole" / "best").iterdir())
    reported = only(lines(tmp_path / "whole"), "val", "step", "dice", "loss")
    assert {step: scores for step, *scores in reported}[best] == pytest.approx(
        [summary["dice"], summary["loss"]], abs=1e-5
    )
    # Two workers average theirs over the network.
    stopped_at_4(tmp_path / "whole", tmp_path / "run")
    workers = start_workers(2, data_dir, tmp_path / "run", *settings)
    outputs = [worker.communicate()[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    assert_alike(tmp_path / "run", tmp_path / "whole", CLOSE)


ELASTIC = ["--norm=group", "--dropout=0.2", "--steps=12", "--eval_every=4", "--keep_checkpoints=9"]
ELASTIC += ["--activation=swish"]  # ReLU's derivative jumps where rounding decides
# Eight more steps of some 300 products forward and back, and sums over 4 images of 32×32 pixels.
CLOSE = rounding.tolerance(8 * (2 * 300 + 4 * 32 * 32))
SGD = ["--optimizer=sgd", "--learning_rate=0.05"]


@pytest.fixture(scope="session")
def on_two_devices(data_dir, shared):
    """A function (name of an optimizer) → run folder."""

    def run_of(name):
        def build(folder):
            argv = [*ELASTIC, *(SGD if name == "sgd" else []), "--virtual_devices=2"]
            result = train(data_dir, folder / "run", *argv)
            assert result.returncode == 0, result.stderr

        return shared(f"on_two_devices_{name}", build) / "run"

    return run_of


def stopped_at_4(run_dir, copy):
    """Copies a run as it was at step 4."""
    shutil.copytree(run_dir, copy)
    for kind in ("checkpoints", "best"):
        for folder in (copy / kind).iterdir():
            if int(folder.name) > 4:
                shutil.rmtree(folder)


def assert_alike(run_dir, other, tolerance):
    ours, theirs = results(run_dir), results(other)
    assert [entry["step"] for entry in ours] == [entry["step"] for entry in theirs]
    for mine, yours in zip(ours, theirs, strict=True):
        assert mine["loss"] == pytest.approx(yours["loss"], abs=tolerance)


@pytest.mark.parametrize(
    ("optimizer", "devices", "tolerance"),
    # Adam divides a gradient by its own size: a weight whose gradient is 0 up to rounding moves
    # by the rate of 1e-3, up or down, and the loss with some of the 1500 weights.
    [("sgd", 1, CLOSE), ("sgd", 4, CLOSE), ("adamw", 4, 1e-3)],
)
def test_a_run_resumes_with_another_number_of_replicas(
    data_dir, tmp_path, on_two_devices, optimizer, devices, tolerance
):
    stopped_at_4(on_two_devices(optimizer), tmp_path / "run")
    argv = [*ELASTIC, *(SGD if optimizer == "sgd" else [])]
    if devices > 1:
        argv.append(f"--virtual_devices={devices}")
    result = train(data_dir, tmp_path / "run", *argv)
    assert result.returncode == 0, result.stderr
    assert "Resuming from step 4" in result.stderr
    assert_alike(tmp_path / "run", on_two_devices(optimizer), tolerance)


def test_a_run_begun_on_one_device_resumes_on_two_by_the_statistics_of_the_whole_batch(
    data_dir, tmp_path
):
    argv = [*ELASTIC[1:], *SGD]  # without --norm
    result = train(data_dir, tmp_path / "one", *argv, "--jit_compile=auto", "--deterministic")
    assert result.returncode == 0, result.stderr
    stopped_at_4(tmp_path / "one", tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["norm"] == "batch"
    # As if it had been begun with XLA, which a norm over several replicas cannot resume with.
    text = (tmp_path / "run" / "run.json").read_text()
    text = text.replace('"jit_compile": false', '"jit_compile": true')
    (tmp_path / "run" / "run.json").write_text(text)
    result = train(data_dir, tmp_path / "run", *argv, "--jit_compile=auto", "--virtual_devices=2")
    assert result.returncode == 0, result.stderr
    assert "Resuming from step 4" in result.stderr
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (run["norm"], run["num_replicas"], run["jit_compile"]) == ("sync_batch", 2, False)
    assert_alike(tmp_path / "run", tmp_path / "one", CLOSE)


def test_two_workers_resume_stop_together_and_one_resumes(data_dir, tmp_path, on_two_devices):
    stopped_at_4(on_two_devices("sgd"), tmp_path / "run")
    argv = [*ELASTIC, *SGD]
    metadata = tmp_path / "run/run.json"
    before = metadata.stat()
    workers = start_workers(2, data_dir, tmp_path / "run", *argv)
    # Written once all workers have restored, and before the first step is even traced.
    wait_until(workers[0], lambda: metadata.stat().st_mtime_ns != before.st_mtime_ns)
    workers[1].send_signal(signal.SIGTERM)
    outputs = [worker.communicate()[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [143, 143], outputs
    chief, other = (stop_line(output) for output in outputs)
    assert "as another worker was asked to" in chief
    assert other.startswith("Stopped by SIGTERM at step ")
    assert chief.split("step ")[1].split(",")[0] == other.split("step ")[1].split(";")[0]
    result = train(data_dir, tmp_path / "run", *argv)
    assert result.returncode == 0, result.stderr
    assert_alike(tmp_path / "run", on_two_devices("sgd"), CLOSE)


def test_workers_that_see_different_checkpoints_stop_and_remove_none(
    data_dir, tmp_path, on_two_devices
):
    places = [{"cwd": tmp_path / name} for name in ("0", "1")]
    for place in places:
        shutil.copytree(on_two_devices("sgd"), place["cwd"] / "run")
    for kind in ("checkpoints", "best"):  # what a folder that is not shared looks like to the other
        shutil.rmtree(tmp_path / "1" / "run" / kind)
    argv = [*ELASTIC, *SGD, "--keep_checkpoints=1"]
    before = checksums(tmp_path / "0" / "run")
    workers = start_workers(2, data_dir, "run", *argv, places=places)
    outputs = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [2, 2], outputs
    for output in outputs:
        assert (
            "The workers do not see the same checkpoint in run/checkpoints: worker 0: step 12; "
            "worker 1: none. Give all workers one shared folder as --run_dir, and start again.\n"
        ) in output
    assert checksums(tmp_path / "0" / "run") == before


def test_a_second_job_on_the_same_folder_is_refused_and_the_first_continues(data_dir, tmp_path):
    first = start(data_dir, tmp_path, "--steps=100000", "--eval_every=50000")
    wait_for(first, tmp_path / "lease.json")
    second = train(data_dir, tmp_path, "--steps=100000", "--eval_every=50000")
    assert second.returncode == 2
    assert second.stderr.splitlines()[-1].startswith(
        f"--run_dir={tmp_path} is being written by process {first.pid} on "
    )
    assert first.poll() is None
    first.kill()
    first.communicate()


def test_a_finished_run_whose_best_weights_are_damaged_says_so_and_evaluates_the_last(
    data_dir, tmp_path, uninterrupted
):
    shutil.copytree(uninterrupted, tmp_path / "run")
    for path in (tmp_path / "run" / "best").glob("*/state.data*"):
        path.write_bytes(path.read_bytes()[:-1])
    result = train(data_dir, tmp_path / "run", *LONG)
    assert result.returncode == 0, result.stderr
    assert "is skipped: state.data-00000-of-00001 has bytes" in result.stderr
    assert "has no complete checkpoint: the last weights are evaluated." in result.stderr
