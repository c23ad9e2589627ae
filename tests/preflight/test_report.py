"""What preflight says of a step, of figures that are worked out by hand."""

import dataclasses

import pytest

from tests.preflight.programs import instruction, program
from trainer import config
from trainer.preflight import compilation, lowering, report
from trainer.preflight.accelerators import ACCELERATORS, GIB


def lowered():
    """A step of 4 TFLOP on 16 images, with 1 GiB of weights and 2 of the optimizer's."""
    return lowering.Lowered(
        program=b"",
        batch_size=16,
        flops=4 * 10**12,
        precision="bfloat16",
        image=(256, 256, 1),
        sizes={"weights": GIB, "optimizer": 2 * GIB, "average": 0, "batch": 0},
        inputs=(),
        num_classes=2,
        parameters=GIB // 4,
    )


@pytest.fixture
def compiled(tmp_path):
    """What a compiler says of it: 7 GiB, 8 GB moved, 30 ms for a convolution and 10 for a ReLU."""
    module = program(
        [
            instruction("fusion", cycles=45_000_000, op_name="conv2d/Conv2D", called=[2]),
            instruction("fusion", cycles=15_000_000, op_name="activation/Relu", called=[2]),
        ],
        [],
    )
    (tmp_path / compilation.PROGRAM).write_bytes(module.SerializeToString())
    arguments = {"argument": 3 * GIB, "output": 3 * GIB, "alias": 3 * GIB}
    return compilation.Compiled(
        memory={**arguments, "temp": 4 * GIB, "generated_code": 0},
        bytes_accessed=8e9,
        compiler={"libtpu": "1"},
        seconds=9.0,
        folder=str(tmp_path),
    )


def test_the_json_holds_what_programs_are_promised(compiled):
    figures = report.figures(config.Job(), ACCELERATORS["v5e"], 2, lowered(), compiled)
    assert figures["fits"] is True
    assert (figures["accelerator"], figures["chips"]) == ("TPU v5e", 2)
    assert (figures["batch_size"], figures["batch_size_per_replica"]) == (32, 16)
    assert figures["chip_memory_gib"] == 16
    memory_gib = figures["memory_gib"]
    assert [memory_gib[key] for key in ("arguments", "temporary", "total")] == [3, 4, 7]
    assert [memory_gib[key] for key in ("weights", "optimizer")] == [1, 2]
    assert figures["step_ms_estimate"] == pytest.approx(40)  # 60 million cycles at 1.5 GHz
    assert figures["images_per_second_estimate"] == pytest.approx(800)
    assert figures["mfu_estimate"] == pytest.approx(100 / 197)  # 4 TFLOP in 40 ms
    assert (figures["tflop"], figures["gb_accessed"]) == (4, 8)
    first, second = figures["top_ops"]
    assert (first["name"], first["share"]) == ("conv2d Conv2D", pytest.approx(0.75))
    assert second["ms_estimate"] == pytest.approx(10)
    assert figures["advice"] == [
        "The step takes 44% of the memory; --find_batch doubles --batch_size while it fits."
    ]


def test_of_a_step_that_does_not_fit_only_the_memory_is_known():
    compiled = compilation.Compiled(error="Used 31.50G of 15.75G hbm.")
    figures = report.figures(config.Job(), ACCELERATORS["v5e"], 1, lowered(), compiled)
    assert figures["fits"] is False
    assert figures["memory_gib"]["total"] == 31.5
    assert figures["memory_gib"]["temporary"] is None
    assert figures["step_ms_estimate"] is None


def test_what_a_gpus_compiler_takes_may_still_be_too_large(compiled):
    figures = report.figures(config.Job(), ACCELERATORS["t4"], 1, lowered(), compiled)
    assert figures["fits"] is True  # 7 GiB of 12.73
    larger = dataclasses.replace(compiled, memory={**compiled.memory, "temp": 13 * GIB})
    figures = report.figures(config.Job(), ACCELERATORS["t4"], 1, lowered(), larger)
    assert figures["fits"] is False


def test_what_a_compiler_does_not_say_is_null(compiled):
    estimates = ("step_ms_estimate", "images_per_second_estimate", "mfu_estimate", "gb_accessed")
    gpu = report.figures(config.Job(), ACCELERATORS["h100"], 1, lowered(), compiled)
    assert gpu["fits"] is True
    assert [gpu[key] for key in estimates] == [None] * 4
    assert gpu["top_ops"] == []
    # A TPU's compiler counts the memory traffic of a loop's body once.
    job = config.Job(optimization=config.Optimization(accumulate_steps=2))
    tpu = report.figures(job, ACCELERATORS["v5e"], 1, lowered(), compiled)
    assert tpu["step_ms_estimate"] is not None
    assert tpu["gb_accessed"] is None


def test_the_text_says_what_is_an_estimate_and_how_good_it_is(compiled):
    figures = report.figures(config.Job(), ACCELERATORS["v5e"], 2, lowered(), compiled)
    lines = report.text(figures, config.Job()).splitlines()
    assert lines[:2] == [
        "TPU v5e × 2: unet, 16 filters, depth 4, 256×256×1, bfloat16, batch 32 (16 per replica)",
        "compiled for it by libtpu 1: 9 s",
    ]
    assert [line.split() for line in lines if "estimate" in line][:3] == [
        ["step,", "estimate", "40.0", "ms"],
        ["images/s,", "estimate", "800"],
        ["MFU,", "estimate", "50.8%", "of", "197", "TFLOP/s"],
    ]
    assert ["weights", "1.00", "GiB"] in [line.split() for line in lines]
    assert ["activations,", "temporary", "4.00", "GiB"] in [line.split() for line in lines]
    assert report.QUALITY["TPU"] in lines
    assert lines[-1].startswith("Advice: The step takes 44% of the memory")


def test_the_text_of_a_gpu_has_no_times(compiled):
    figures = report.figures(config.Job(), ACCELERATORS["h100"], 1, lowered(), compiled)
    lines = report.text(figures, config.Job()).splitlines()
    assert report.QUALITY["GPU"] in lines
    assert not [line for line in lines if "estimate" in line]
