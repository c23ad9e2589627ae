"""Each preset, opened; each benchmark, started."""

import importlib.util
import json

import pytest

from tests.devices import strategy_of
from tests.jobs import ROOT, command
from tests.shards import write_data
from trainer import config
from trainer.checkpointing import open_run
from trainer.config import flags
from trainer.models import build
from trainer.training import optimizers

SMALL = ["--filters=2", "--depth=1", "--batch_size=4", "--crop=32"]
SMALL += ["--jit_compile=false", "--precision=float32"]


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "configs").iterdir()))
def test_each_preset_opens_a_run_with_its_settings_when_made_small(tmp_path, name):
    sizes = {"train": [(40, 40)] * 8, "val": [(40, 40)], "test": [(40, 40)]}
    manifest = write_data(tmp_path, sizes)
    preset = (ROOT / "configs" / name).read_text()
    length = ["--epochs=1"] if "--epochs" in preset else ["--steps=2"]
    argv = [f"--flagfile={ROOT / 'configs' / name}", f"--data_dir={tmp_path}", *SMALL, *length]
    argv += [f"--run_dir={tmp_path / 'run'}", "--warmup_steps=0", "--strategy=one_device"]
    job = flags.parse(config.Job, ["trainer.task", *argv])
    opened = open_run.open_run(job, strategy_of(1), manifest, "data")
    build.build_model(job.model, manifest.channels, manifest.num_classes)
    optimizers.optimizer_of(job.optimization, opened["total_steps"], opened["precision"])
    assert opened["total_steps"] == 2
    for line in preset.splitlines():
        flag, _, value = line.removeprefix("--").partition("=")
        overridden = any(f"--{flag}=" in given for given in argv)
        if line.startswith("--") and not overridden:
            setting = opened["settings"][flag]
            assert str(setting) == str(type(setting)(value)), flag


@pytest.mark.slow
def test_the_tpu_preset_says_in_one_line_that_there_is_no_tpu():
    result = command("trainer.task", "--flagfile=configs/tpu-v5e.cfg")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("--strategy=tpu --tpu=local finds no TPU (")


@pytest.mark.slow
@pytest.mark.long
def test_the_step_benchmark_prints_a_row_for_each_contender(tmp_path):
    argv = ["--filters=2", "--depth=1", "--crop=16", "--rounds=2", f"--json={tmp_path / 'j'}"]
    result = command("benchmarks.step", *argv, "--xla")
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "j").read_text())["rows"]
    expected = {"ours, graph, float32", "ours, XLA, float32"}
    if importlib.util.find_spec("torch"):
        expected |= {f"PyTorch, {how}, channels-last, float32" for how in ("eager", "compiled")}
    assert set(rows) == expected
    figures = ["s/step", "CPU s/step", "steps/s", "images/s", "peak MB"]
    for name, row in rows.items():
        assert list(row) == figures
        assert row["s/step"]["q1"] <= row["s/step"]["median"] <= row["s/step"]["q3"]
        assert row["peak MB"] > 100
        assert any(line.startswith(name) for line in result.stdout.splitlines())
    assert all(figure in result.stdout for figure in figures)


@pytest.mark.slow
@pytest.mark.long
def test_the_benchmark_of_replicas_prints_a_row_for_each_form_and_how_far_batch_is(tmp_path):
    argv = ["--filters=2", "--depth=1", "--crop=16", "--rounds=2", "--warmup=1", "--noxla"]
    result = command("benchmarks.replicas", *argv, f"--json={tmp_path / 'j'}")
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "j").read_text())["rows"]
    assert list(rows) == ["batch", "sync_batch", "sync_batch, Keras' own"]
    last = result.stdout.splitlines()[-1]
    assert last == "2 replicas (1 worker, CPU) differ from one in 3 of 3 figures."


@pytest.mark.slow
@pytest.mark.long
def test_the_input_benchmark_prints_a_row_for_each_augmentation(tmp_path):
    argv = ["--crop=32", "--batches=1", "--rounds=1", f"--json={tmp_path / 'j'}"]
    result = command("benchmarks.input", *argv)
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "j").read_text())["rows"]
    assert list(rows) == ["none", "flip", "standard", "strong"]
    for name, row in rows.items():
        assert list(row) == ["images/s", "CPU ms/image", "first batch s", "peak MB"]
        assert min(row["images/s"]["median"], row["CPU ms/image"]["median"]) > 0
        assert row["peak MB"] > 100
        assert any(line.startswith(f"{name} ") for line in result.stdout.splitlines())


@pytest.mark.slow
@pytest.mark.long
def test_the_input_benchmark_reads_from_folder_bucket_and_copies_by_turns(tmp_path):
    argv = ["--bucket", "--turns=1", "--augment=none", "--crop=32", "--batches=1", "--rounds=1"]
    result = command("benchmarks.input", *argv, f"--json={tmp_path / 'j'}")
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "j").read_text())["rows"]
    assert list(rows) == ["none", "none, bucket", "none, copies"]
    assert rows["none"].pop("% of local") is None
    for row in rows.values():
        assert min(figure["median"] for name, figure in row.items() if name != "peak MB") > 0
    refused = command("benchmarks.input", "--augment=no")
    assert refused.returncode == 2
    assert refused.stderr == "--augment=no is not one of none, flip, standard, strong.\n"
