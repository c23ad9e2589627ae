"""The runner of exported steps, of a step that jax itself made: one weight, trained by hand."""

import importlib.util
import json
import pathlib
import shutil
import subprocess
import sys
import zipfile

import jax
import numpy as np
import pytest
from jax import export

from benchmarks import run_exported
from trainer import config
from trainer.models import build
from trainer.training import losses

for_pytorch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="takes the extra bench, which CI leaves out"
)


def descend(images, rate, weight, count):
    """Returns loss, slope, and the new weight and count, of (weight · images - 1)²."""
    error = weight * images - 1
    slope = 2 * (error * images).mean()
    return (error**2).mean(), slope, weight - rate * slope, count + 1


def write(path, *, rate=0.25, estimate=None, **changes):
    """Writes a step of two images and a weight of 3; `changes` are those of its description."""
    jax.config.update("jax_enable_x64", True)
    inputs = {
        "images": ((2,), "float32", {"constant": 1.0}),
        "rate": ((), "float32", {"values": rate}),
        "weight": ((), "float32", {"constant": 3.0}),
        "count": ((), "int64", {"constant": 0}),
    }
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype, _ in inputs.values()]
    network = {"model": "unet", "filters": 4, "depth": 1, "norm": "batch", "precision": "bfloat16"}
    network |= {"image": [16, 16, 3], "classes": 3, "parameters": 1}
    header = {
        "format": 1,
        "title": "a weight",
        "accelerator": "NVIDIA L4",
        "batch_size": 2,
        "flops": 10**9,
        "network": network,
        "settings": {},
        "figures": ["loss", "gradient_norm"],
        "inputs": [
            {"name": name, "shape": shape, "dtype": dtype, "draw": draw}
            for name, (shape, dtype, draw) in inputs.items()
        ],
        "updated": [2, 3],
        "estimate": estimate,
    }
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("step.json", json.dumps(header | changes))
        program = export.export(jax.jit(descend))(*shapes).mlir_module_serialized
        archive.writestr("step.mlirbc", program)
    return str(path)


def command(*arguments, cwd, status=0):
    """Runs the command from a copy of its folder, where nothing of the package can be imported."""
    folder = pathlib.Path(run_exported.__file__).parent
    copy, leave_out = cwd / "benchmarks", shutil.ignore_patterns("__pycache__")
    shutil.copytree(folder, copy, ignore=leave_out, dirs_exist_ok=True)
    program = (
        "import runpy, sys; sys.modules['trainer'] = sys.modules['tensorflow'] = None;"
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, "benchmarks/run_exported.py", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )
    assert result.returncode == status, result.stderr
    return result.stdout, result.stderr


def test_a_step_is_run_on_from_its_own_results(tmp_path):
    header, program = run_exported.read(write(tmp_path / "step"))
    step = run_exported.compile_step(header, program)
    take = run_exported.turns(header, step, run_exported.draw(header["inputs"], 0))
    # Of w = 3 the loss is 4, and each step halves w - 1.
    assert [take(steps)["loss"] for steps in (1, 1, 2)] == [4, 1, 1 / 16]


def test_inputs_are_drawn_as_they_say():
    draws = ({"normal": [5, 2]}, {"integers": [0, 3]}, {"constant": 7}, {"values": [1, 2]})
    shapes = ((1000,), (1000,), (2, 2), (2,))
    inputs = [
        {"shape": shape, "dtype": "float32", "draw": draw}
        for shape, draw in zip(shapes, draws, strict=True)
    ]
    normal, integers, constant, values = run_exported.draw(inputs, 0)
    assert (normal.mean(), normal.std()) == (pytest.approx(5, abs=0.3), pytest.approx(2, abs=0.3))
    assert set(integers) == {0, 1, 2}
    assert constant.tolist() == [[7, 7], [7, 7]]
    assert (values.tolist(), values.dtype) == ([1, 2], np.float32)
    again = run_exported.draw(inputs, 0)
    assert all((one == other).all() for one, other in zip([normal, integers], again, strict=False))


def test_the_command_needs_nothing_of_the_package(tmp_path):
    path = write(tmp_path / "step", estimate={"step_ms": 1e-6, "memory_gib": 1.0})
    text, _ = command(
        path, "--rounds=3", "--steps=1", "--warmup=1", "--peak_tflops=1", "--json=j", cwd=tmp_path
    )
    found = json.loads((tmp_path / "j").read_text(encoding="utf-8"))
    row = found["rows"]["exported"]
    ms = row["ms"]["median"]
    assert row["ms"]["q1"] <= ms <= row["ms"]["q3"]
    assert row["images_per_second"] == pytest.approx(2000 / ms)
    assert row["mfu"] == pytest.approx(1e9 / (ms * 1e9))  # 1 GFLOP, of 1 TFLOP/s
    assert row["loss"] == [4, 4 / 4**4]
    assert text.startswith("a weight, lowered for NVIDIA L4\ncpu; jax ")
    assert "× the 1 of preflight" in text
    assert "× the 1e-06 of preflight" in text


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({}, ["--rounds=0"], "--rounds=0 is less than 1; use 1 or more."),
        ({}, ["--pytorch=fast"], "--pytorch=fast is not of eager and compiled; use those."),
        ({"format": 2}, [], "it has format 2, and 1 is read; export the step again."),
        ({"rate": 0.0}, [], "the loss was 4.0 after the first step and is 4.0 after the last"),
        ({"rate": 1e30}, [], "is nan after the last, so it does not train"),
    ],
)
def test_what_cannot_be_run_is_one_line(changes, arguments, message, tmp_path):
    path = write(tmp_path / "step", **changes)
    text, errors = command(path, *arguments, cwd=tmp_path, status=2)
    assert text == ""
    assert message in errors.splitlines()[-1]


def test_a_file_that_is_no_step_is_one_line(tmp_path):
    (tmp_path / "step").write_text("no zip")
    _, errors = command("step", cwd=tmp_path, status=2)
    assert errors.splitlines()[-1] == (
        "run_exported.py: error: step is not of this release's python -m trainer.preflight "
        "--export=FILE: File is not a zip file; export the step again."
    )
    with pytest.raises(OSError, match="nowhere"):
        run_exported.read(str(tmp_path / "nowhere"))


@for_pytorch
@pytest.mark.parametrize(
    ("image", "classes", "norm"), [((16, 16, 3), 2, "batch"), ((8, 8, 8, 1), 3, "instance")]
)
def test_pytorch_takes_its_turns_with_the_same_network(image, classes, norm, tmp_path):
    rank = len(image) - 1
    model = build.build_model(
        config.Model(filters=4, depth=1, norm=norm), image[-1], classes, rank=rank
    )
    network = {"model": "unet", "filters": 4, "depth": 1, "norm": norm, "precision": "float32"}
    parameters = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    network |= {"image": image, "classes": classes, "parameters": parameters}
    path = write(tmp_path / "step", network=network)
    short = ("--rounds=2", "--steps=1", "--warmup=1")
    text, _ = command(path, "--pytorch=eager", *short, "--json=j", cwd=tmp_path)
    assert "PyTorch, eager" in text
    row = json.loads((tmp_path / "j").read_text(encoding="utf-8"))["rows"]["PyTorch, eager"]
    assert 0 < row["loss"][1] < row["loss"][0] < 3
    other = write(tmp_path / "step", network=network | {"parameters": 1})
    _, errors = command(other, "--pytorch=eager", cwd=tmp_path, status=2)
    assert f"has {parameters} parameters, and the exported one 1" in errors.splitlines()[-1]


@for_pytorch
def test_pytorch_does_not_run_on_another_device_than_jax(tmp_path):
    from benchmarks import pytorch_step

    header, _ = run_exported.read(write(tmp_path / "step"))
    assert pytorch_step.why_not(header, "cpu") == ""
    for platform in ("tpu", *(() if torch_has_a_gpu() else ("gpu",))):
        assert pytorch_step.why_not(header, platform).startswith(
            f"jax runs on a {platform}, and PyTorch "
        )


def torch_has_a_gpu():
    import torch

    return torch.cuda.is_available()


@for_pytorch
def test_pytorch_takes_no_step_that_it_does_not_know(tmp_path):
    path = write(tmp_path / "step", settings={"filters": 4, "ema": 0.9, "activation": "swish"})
    _, errors = command(path, "--pytorch=eager", cwd=tmp_path, status=2)
    assert errors.splitlines()[-1].endswith(
        "PyTorch's step knows no --activation=swish, --ema=0.9; export one without, or leave "
        "--pytorch out."
    )


@for_pytorch
@pytest.mark.parametrize("classes", [2, 3])
def test_pytorch_has_the_same_loss(classes):
    import torch

    from benchmarks import pytorch_unet

    generator = np.random.default_rng(0)
    logits = generator.normal(size=(2, 4, 4, 1 if classes == 2 else classes)).astype(np.float32)
    labels = generator.integers(0, classes, (2, 4, 4)).astype(np.int32)
    valid = np.ones(labels.shape, np.float32)
    terms = losses.LOSSES["ce_dice"]
    values = losses.sums(terms, labels, logits, valid) / losses.weights(terms, labels, valid)
    found = pytorch_unet.ce_dice(
        torch.tensor(logits).movedim(-1, 1), torch.tensor(labels, dtype=torch.int64)
    )
    assert found.item() == pytest.approx(float(sum(values)), rel=1e-4)
