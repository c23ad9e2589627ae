"""The exported step: jax, without the package, trains as TensorFlow does."""

import numpy as np
import pytest

from benchmarks import run_exported
from tests.compilers.test_compilers import preflight_process
from trainer import config
from trainer.config import flags
from trainer.preflight import lowering, step_file
from trainer.preflight.accelerators import ACCELERATORS
from trainer.training import train_step

SMALL = ("--filters=4", "--depth=1", "--crop=16", "--batch_size=4")


def train_by_both(tmp_path, monkeypatch, *arguments, steps=3):
    """Takes steps from the same weights, by TensorFlow and by jax of the file.

    Returns:
        The losses of both; and by the name of each variable, its values at first, at the end by
        TensorFlow, and at the end by jax.
    """
    built = []
    build = train_step.step_of_one_replica

    def keep(model, optimizer, *rest, average=None, **named):
        step = build(model, optimizer, *rest, average=average, **named)
        layers = (model, optimizer, *([average] if average else []))
        built.append((step, [v.value for layer in layers for v in layer.variables]))
        return step

    monkeypatch.setattr(train_step, "step_of_one_replica", keep)
    job = flags.parse(config.Job, ["trainer.task", *SMALL, *arguments])
    accelerator = ACCELERATORS["h100"]
    path = str(tmp_path / "step.zip")
    step_file.write(path, job, accelerator, 1, lowering.lower(job, accelerator, 4, 1), None)
    header, program = run_exported.read(path)
    arrays = run_exported.draw(header["inputs"], seed=1)

    ((ours, known),) = built
    traced = ours.get_concrete_function(*train_step.batch_spec(4, (16, 16), 3))
    of_handle = {id(variable.handle): variable for variable in (*traced.variables, *known)}
    variables = {
        number: of_handle[id(tensor)]
        for number, tensor in enumerate(traced.captured_inputs, start=3)
        if id(tensor) in of_handle
    }
    for number, variable in variables.items():
        variable.assign(arrays[number])
    expected = [float(ours(*arrays[:3])[0]) for _ in range(steps)]

    state = {number: arrays[number] for number in header["updated"]}
    rest = {number: one for number, one in enumerate(arrays) if number not in state}
    step, found = run_exported.compile_step(header, program), []
    for _ in range(steps):
        figures, state = step(state, rest)
        found.append(float(figures[0]))
    names = [one["name"] for one in header["inputs"]]
    return (
        (expected, found),
        {
            names[number]: (arrays[number], variables[number].numpy(), np.asarray(array))
            for number, array in state.items()
        },
    )


def test_jax_takes_the_very_steps_of_tensorflow(tmp_path, monkeypatch):
    arguments = ("--precision=float32", "--optimizer=sgd", "--learning_rate=1", "--clip_norm=0.3")
    (expected, found), variables = train_by_both(tmp_path, monkeypatch, *arguments)
    assert found == pytest.approx(expected, rel=1e-4)
    for name, (first, by_tensorflow, by_jax) in variables.items():
        assert (first != by_tensorflow).any(), name
        np.testing.assert_allclose(by_jax, by_tensorflow, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--precision=float16", "--ema=0.9", "--dropout=0.2", "--norm=instance"),
        ("--precision=bfloat16", "--accumulate_steps=2", "--schedule=constant"),
    ],
)
def test_jax_trains_as_tensorflow_does_in_two_bytes(arguments, tmp_path, monkeypatch):
    (expected, found), _ = train_by_both(tmp_path, monkeypatch, *arguments)
    assert found == pytest.approx(expected, rel=0.02)
    assert found[-1] != found[0]


def test_the_command_exports_without_the_chips_compiler(tmp_path):
    path = tmp_path / "step.zip"
    path.write_text("of someone else")
    command = ("--accelerator=l4", f"--export={path}", *SMALL)
    refused = preflight_process(*command, status=2).stderr.splitlines()
    assert refused == [
        f"--export={path} exists, and no such command wrote it; move it away, or name another file."
    ]
    path.unlink()
    preflight_process(*command)
    text = preflight_process(*command).stdout  # in place of the first
    header, _ = run_exported.read(str(path))
    assert header["title"] == "unet, 4 filters, depth 1, 16×16×3, bfloat16, batch 4"
    assert header["settings"] == {"filters": 4, "depth": 1}
    assert [one["name"] for one in header["inputs"][:4]] == [
        "images",
        "labels",
        "valid",
        "constant",
    ]
    if header["estimate"] is None:
        assert f"{path} is written; NVIDIA L4 24 GB's compiler is not installed" in text
