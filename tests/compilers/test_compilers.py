"""Preflight with the accelerators' own compilers: `make test-preflight`."""

import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys

import pytest

from benchmarks import run_exported
from tests.shards import write_balls
from trainer import config
from trainer.config import flags
from trainer.data.dataset import schema
from trainer.data.dataset.schema import Grid

SMALL = ("--filters=8", "--depth=2", "--crop=32")
INSTALLED = {
    "TPU": importlib.util.find_spec("libtpu") is not None,
    "GPU": importlib.util.find_spec("jax_cuda12_plugin") is not None,
}
for_tpu = pytest.mark.skipif(not INSTALLED["TPU"], reason="takes the extra preflight")
for_gpu = pytest.mark.skipif(
    not INSTALLED["GPU"], reason="takes the extra preflight-gpu, which CI leaves out"
)


def preflight_process(*arguments, status=0):
    """Runs the command."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)  # the tests' own; users see less
    process = subprocess.run(
        [sys.executable, "-m", "trainer.preflight", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert process.returncode == status, process.stderr
    return process


def preflight(cache, *arguments, status=0):
    """Runs the command; returns its figures, what it printed, and what it said on stderr."""
    path = cache / "figures.json"
    process = preflight_process(
        f"--compiled_dir={cache}", f"--json={path}", *arguments, status=status
    )
    return json.loads(path.read_text(encoding="utf-8")), process.stdout, process.stderr


def assert_whole(figures):
    assert figures["fits"] is True
    memory = figures["memory_gib"]
    assert 0 < memory["total"] < figures["usable_memory_gib"] <= figures["chip_memory_gib"]
    assert memory["weights"] + memory["optimizer"] < memory["arguments"] + 1e-3
    assert figures["tflop"] > 0
    if figures["kind"] == "GPU":
        assert figures["step_ms_estimate"] is None
        return
    assert 0 < figures["mfu_estimate"] < 1
    step = figures["step_ms_estimate"]
    assert figures["images_per_second_estimate"] == pytest.approx(
        1000 * figures["batch_size"] / step
    )
    top = figures["top_ops"]
    assert len(top) == 10
    assert all(op["ms_estimate"] == pytest.approx(op["share"] * step) for op in top)
    assert [op["share"] for op in top] == sorted((op["share"] for op in top), reverse=True)


@for_tpu
def test_the_default_configuration_fits_a_v5e(tmp_path):
    path = tmp_path / "step.zip"
    figures, text, _ = preflight(tmp_path, "--accelerator=v5e", f"--export={path}")
    assert_whole(figures)
    estimate = run_exported.read(str(path))[0]["estimate"]
    assert estimate["step_ms"] == figures["step_ms_estimate"]
    assert estimate["memory_gib"] == figures["memory_gib"]["total"]
    assert (figures["precision"], figures["batch_size"]) == ("bfloat16", 8)
    assert figures["gb_accessed"] > 0
    assert text.startswith("TPU v5e × 1: unet, 16 filters, depth 4, 256×256×3, bfloat16, batch 8")
    assert "step, estimate" in text


@for_tpu
@pytest.mark.parametrize("model", ["unet", "residual_unet", "attention_unet"])
def test_each_model_fits_a_v5e(model, tmp_path):
    figures, _, _ = preflight(tmp_path, f"--model={model}", *SMALL)
    assert_whole(figures)
    names = " ".join(op["name"] for op in figures["top_ops"])
    assert "conv" in names or "normalization" in names


@for_tpu
@pytest.mark.parametrize("name", ["v2", "v3", "v4", "v5p", "v6e"])
def test_the_other_tpus_take_the_training_step_too(name, tmp_path):
    figures, text, _ = preflight(tmp_path, f"--accelerator={name}", *SMALL, "--depth=1")
    assert_whole(figures)
    assert figures["replicas"] == (2 if name in ("v2", "v3") else 1)
    assert ("TensorFlow is not supported there" in text) == (name == "v6e")


@for_tpu
def test_the_step_of_volumes_goes_through_a_tpus_compiler(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    write_balls(data, {"train": [(8, 16, 16)] * 2, "val": [(8, 16, 16)]})
    arguments = ("--filters=8", "--depth=3", "--strides=1,2,2/2/2", "--norm=instance")
    arguments += ("--model=residual_encoder_unet", "--deep_supervision", "--loss=ce_batch_dice")
    figures, text, _ = preflight(
        tmp_path, f"--data_dir={data}", "--crop=8,16,16", "--batch_size=2", *arguments
    )
    assert_whole(figures)
    assert figures["image"] == [8, 16, 16, 1]
    assert "8 filters, depth 3, 8×16×16×1, bfloat16, batch 2" in text
    assert any("3d" in op["name"] or "normalization" in op["name"] for op in figures["top_ops"])


@for_tpu
def test_a_plan_has_the_largest_batch_that_fits_and_the_steps_of_its_time(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    manifest = write_balls(data, {"train": [(8, 16, 16)] * 40, "val": [(8, 16, 16)]})
    grids = (Grid((8, 16, 16), (1.0, 1.0, 1.0), 40),)
    schema.write_manifest(dataclasses.replace(manifest, grids=grids), str(data))
    result = subprocess.run(
        [sys.executable, "-m", "trainer.plan", f"--data_dir={data}", "--accelerator=v5e"]
        + ["--minutes=1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "Batch 4: fits." in result.stderr  # a twentieth of 40 volumes of two crops each
    job = flags.parse(config.Job, ["trainer.task", f"--flagfile={data}/plan.cfg"])
    assert (job.data.batch_size, job.data.crop) == (4, (4, 16, 16))
    assert job.optimization.steps > 1000
    assert "examples a second by the estimate of the compiler" in (data / "plan.cfg").read_text()


@for_tpu
def test_a_program_is_compiled_once_and_found_again(tmp_path):
    arguments = (*SMALL, "--depth=1", "--ema=0.9", "--accumulate_steps=2", "--norm=sync_batch")
    first, text, _ = preflight(tmp_path, *arguments)
    again, text_again, _ = preflight(tmp_path, *arguments)
    assert "read from the cache" not in text
    assert "read from the cache" in text_again
    assert again == {**first, "cached": True}
    assert first["memory_gib"]["average"] > 0


@for_tpu
def test_the_parts_of_a_batch_are_counted_one_by_one(tmp_path):
    small = (*SMALL, "--depth=1")
    part, _, _ = preflight(tmp_path, *small, "--batch_size=2")
    whole, _, _ = preflight(tmp_path, *small, "--batch_size=8", "--accumulate_steps=4")
    assert 2 < whole["step_ms_estimate"] / part["step_ms_estimate"] < 8


@for_tpu
def test_a_batch_is_halved_until_it_fits(tmp_path):
    # Each image takes 1.5 kB, and the batch is computed in a million parts.
    tiny = ("--filters=8", "--depth=1", "--crop=8", "--accumulate_steps=1000000")
    figures, text, errors = preflight(tmp_path, *tiny, "--batch_size=16000000", "--find_batch")
    assert (figures["fits"], figures["batch_size"]) == (True, 8000000)
    assert "batch 8000000\n" in text
    assert re.findall(r"batch (\d+): .* GiB, (fits|does not fit)", errors) == [
        ("16000000", "does not fit"),
        ("8000000", "fits"),
    ]


@for_tpu
def test_a_batch_far_too_large_does_not_fit_and_takes_one_line(tmp_path):
    figures, text, errors = preflight(
        tmp_path, *SMALL, "--depth=1", "--batch_size=8000000", status=3
    )
    assert figures["fits"] is False
    assert figures["memory_gib"]["total"] > figures["usable_memory_gib"] == 15.75
    assert figures["step_ms_estimate"] is None
    assert text == ""
    (line,) = errors.splitlines()
    assert line.startswith("--batch_size=8000000 does not fit: ")


@for_gpu
@pytest.mark.parametrize(
    ("name", "precision"), [("t4", "float16"), ("h100", "bfloat16"), ("h100", "float32")]
)
def test_a_small_step_fits_a_gpu_in_each_precision(name, precision, tmp_path):
    arguments = (f"--accelerator={name}", f"--precision={precision}", *SMALL)
    figures, text, _ = preflight(tmp_path, *arguments)
    assert_whole(figures)
    assert figures["precision"] == precision
    assert "estimate" not in text
