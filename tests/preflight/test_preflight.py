"""Preflight's figures, of programs and networks small enough to work out by hand."""

import importlib.metadata
import json

import keras
import pytest
from tensorflow.compiler.xla import xla_data_pb2
from tensorflow.compiler.xla.service import hlo_pb2

from trainer import config, models
from trainer.config import flags
from trainer.errors import InputError
from trainer.preflight import __main__ as preflight
from trainer.preflight import advice, arithmetic, compilation, estimate, lowering, report
from trainer.preflight.accelerators import ACCELERATORS, GIB


def instruction(opcode, *, cycles=0, op_name="", shape=(8,), called=(), limit=None):
    """Returns an instruction of bfloat16 whose cycles the TPU's compiler has estimated."""
    found = hlo_pb2.HloInstructionProto(
        opcode=opcode,
        shape=array(*shape),
        metadata=xla_data_pb2.OpMetadata(op_name=op_name),
        called_computation_ids=called,
    )
    if cycles:
        settings = {"window_config": {"estimated_cycles": str(cycles)}}
        found.backend_config = json.dumps(settings).encode()
    if limit is not None:
        found.literal.s32s.append(limit)
    return found


def array(*dims):
    return xla_data_pb2.ShapeProto(element_type=xla_data_pb2.BF16, dimensions=dims)


def program(*computations):
    """Returns the module of computations 1, 2, …, of which the first is entered."""
    return hlo_pb2.HloModuleProto(
        entry_computation_id=1,
        computations=[
            hlo_pb2.HloComputationProto(id=number, instructions=instructions)
            for number, instructions in enumerate(computations, start=1)
        ],
    )


def times_of(module):
    """Returns name → cycles of a program, on a chip of one cycle per second."""
    return {one.name: one.seconds for one in estimate.estimate(module, clock=1.0)}


def test_choices_are_the_rows_of_the_table():
    rules = {name: rule for name, _, rule in config.walk(config.Target())}
    assert set(rules["accelerator"]["choices"]) == set(ACCELERATORS)


def test_a_step_takes_its_compilers_cycles_the_costliest_operation_first():
    module = program(
        [
            instruction("parameter"),
            instruction("copy", cycles=600, op_name="gradient_tape/activation_1/ReluGrad"),
            instruction("fusion", cycles=3000, op_name="conv2d_3/conv2d_3_1/Conv2D", called=[2]),
        ],
        [instruction("convolution", cycles=9999)],  # inside a fusion, whose cycles count
    )
    first, second = estimate.estimate(module, clock=1.5e9)
    assert first == estimate.Operation("conv2d_3 Conv2D", "bf16[8]", 2e-6)
    assert second == estimate.Operation("activation_1 ReluGrad", "bf16[8]", 0.4e-6)


def test_the_body_of_a_loop_counts_as_often_as_it_runs():
    module = program(
        [instruction("while", called=[2, 3])],
        [instruction("add", cycles=100, op_name="while/activation/Relu")],
        [instruction("constant", limit=5), instruction("compare")],
    )
    assert times_of(module) == {"activation Relu": 500}


def test_a_loop_of_unknown_length_counts_once_and_is_named(caplog):
    module = program(
        [instruction("while", called=[2, 3])],
        [instruction("add", cycles=100, op_name="Relu")],
        [instruction("compare")],
    )
    assert times_of(module) == {"Relu": 100}
    assert "does not say how often" in caplog.text


def test_of_a_conditional_the_longest_branch_counts():
    module = program(
        [instruction("conditional", called=[2, 3])],
        [instruction("add", cycles=10, op_name="short"), instruction("call", called=[4])],
        [instruction("add", cycles=10, op_name="other"), instruction("add", op_name="none")],
        [instruction("add", cycles=1, op_name="called")],
    )
    assert times_of(module) == {"short": 10, "called": 1}


def test_what_has_one_name_is_one_operation_with_the_largest_array_that_it_writes():
    both = instruction("fusion", cycles=2, op_name="conv2d/Cast", called=[2])
    both.shape.CopyFrom(xla_data_pb2.ShapeProto(tuple_shapes=[array(3), array(2, 4)]))
    module = program([instruction("copy", cycles=1, op_name="conv2d/Cast", shape=(4,)), both], [])
    (only,) = estimate.estimate(module, clock=1.0)
    assert only == estimate.Operation("conv2d Cast", "bf16[2,4]", 3)


def test_a_fusion_without_a_name_has_that_of_the_last_one_inside():
    module = program(
        [instruction("fusion", cycles=7, called=[2]), instruction("copy", cycles=1)],
        [instruction("add", op_name="first"), instruction("add", op_name="last")],
    )
    assert times_of(module) == {"last": 7, "copy": 1}


def test_the_arithmetic_of_a_network_is_that_of_its_convolutions_in_three_passes():
    images = keras.Input((None, None, 2))
    x = keras.layers.Conv2D(4, 3, padding="same")(images)
    x = keras.layers.Activation("relu")(x)
    x = keras.layers.Conv2DTranspose(3, 2, strides=2)(x)
    x = keras.layers.Conv2D(5, 3, strides=2, padding="valid")(x)
    network = keras.Model(images, x)
    # 4×4 pixels to 4×4, each of them to four, and 8×8 to 3×3.
    products = 16 * 9 * 2 * 4 + 16 * 4 * 4 * 3 + 9 * 9 * 3 * 5
    assert arithmetic.training_flops(network, (4, 4, 2), 1) == 3 * 2 * products
    assert arithmetic.training_flops(network, (4, 4, 2), 7) == 7 * 3 * 2 * products


def test_a_layer_whose_arithmetic_is_not_known_is_named():
    images = keras.Input((8, 8, 2))
    network = keras.Model(images, keras.layers.Dense(3)(images))
    with pytest.raises(TypeError, match="Dense"):
        arithmetic.training_flops(network, (8, 8, 2), 1)


@pytest.mark.parametrize("name", models.MODELS)
def test_the_arithmetic_of_every_model_is_known(name):
    model = models.MODELS[name]((None, None, 2), 4, 1, depth=1)
    assert arithmetic.training_flops(model, (16, 16, 2), 3) > 0


def trials_of(largest, start, multiple=1):
    """Returns the batch found where `largest` images fit, and those tried."""
    tried = []

    def figures_of(batch_size):
        tried.append(batch_size)
        return {
            "fits": batch_size <= largest,
            "batch_size": batch_size,
            "memory_gib": {"total": None},
            "usable_memory_gib": 15.75,
            "images_per_second_estimate": None,
            "cached": False,
            "compile_seconds": 1.0,
        }

    return preflight.largest_batch(figures_of, start, multiple), tried


@pytest.mark.parametrize(
    ("largest", "start", "multiple", "found", "tried"),
    [
        (45, 8, 1, 32, [8, 16, 32, 64]),
        (45, 256, 1, 32, [256, 128, 64, 32]),
        (20, 54, 6, 12, [54, 24, 12]),  # halves are rounded down to multiples
        (1, 6, 6, 6, [6]),  # the smallest does not fit
        (0, 3, 1, 1, [3, 1]),
    ],
)
def test_a_batch_is_doubled_or_halved_to_the_largest_that_fits(
    largest, start, multiple, found, tried
):
    assert trials_of(largest, start, multiple) == (found, tried)


def advise(name, total, *, filters=64, precision="bfloat16"):
    accelerator = ACCELERATORS[name]
    return list(advice.advise(accelerator, precision=precision, filters=filters, total=total))


def test_nothing_is_advised_where_nothing_is_sure_to_be_better():
    assert advise("v5e", 12 * GIB) == []
    assert advise("v5e", 12 * GIB, filters=12) == []
    assert advise("h100", 60 * GIB) == []
    assert advise("t4", 10 * GIB, precision="float32", filters=12)[1:] == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ("v5e", 12 * GIB, 64, "float32"),
            "--precision=bfloat16 halves the activations in memory.",
        ),
        (
            ("t4", 10 * GIB, 64, "float32"),
            "--precision=float16 halves the activations in memory.",
        ),
        (
            ("v100", 10 * GIB, 64, "bfloat16"),
            "This GPU's matrix units multiply float16 and not bfloat16; use --precision=float16.",
        ),
        (
            ("h100", 60 * GIB, 12, "bfloat16"),
            "--filters=12 is not a multiple of 8, by which this GPU's matrix units multiply; 16 "
            "fills them.",
        ),
        (
            ("v5e", 3.15 * GIB, 64, "bfloat16"),
            "The step takes 20% of the memory; --find_batch doubles --batch_size while it fits.",
        ),
    ],
)
def test_advice_is_given_where_it_is_sure(arguments, line):
    name, total, filters, precision = arguments
    assert advise(name, total, filters=filters, precision=precision) == [line]


def parsed(*arguments):
    return flags.parse(config.Preflight, ["preflight", *arguments])


def test_the_flags_of_training_are_those_of_preflight():
    settings = parsed("--accelerator=h100", "--chips=4", "--filters=64", "--batch_size=32")
    assert settings.target.accelerator == "h100"
    assert settings.job == config.Job(
        data=config.Data(batch_size=32), model=config.Model(filters=64)
    )
    assert preflight.batch_per_replica(settings, ACCELERATORS["h100"]) == 8


def test_a_chip_of_two_cores_has_two_replicas():
    settings = parsed("--accelerator=v3", "--chips=4", "--batch_size=32")
    assert preflight.batch_per_replica(settings, ACCELERATORS["v3"]) == 4


def test_chips_that_do_not_divide_the_batch_are_named():
    settings = parsed("--chips=3", "--batch_size=32", "--accumulate_steps=2")
    with pytest.raises(InputError) as error:
        preflight.batch_per_replica(settings, ACCELERATORS["v5e"])
    assert str(error.value) == (
        "--batch_size=32 does not divide among 3 replicas (--chips=3) × --accumulate_steps=2; use "
        "a multiple of 6."
    )


def test_an_accelerator_that_is_not_in_the_table_is_refused_with_a_near_one():
    with pytest.raises(InputError, match="did you mean h100?"):
        parsed("--accelerator=h10")


def test_help_names_the_command():
    text = flags.describe(config.Preflight, "trainer.preflight.__main__")
    assert text.startswith("python -m trainer.preflight [--flag=value …]")
    assert "--find_batch" in text
    assert "--accumulate_steps" in text


def test_a_compiler_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(InputError) as error:
        compilation.check_installed(ACCELERATORS["v5e"])
    assert str(error.value) == (
        "TPU v5e's compiler is not installed (jax, jaxlib, libtpu); install the extra preflight: "
        "pip install 'unet-trainer[preflight]'."
    )
    with pytest.raises(InputError, match="extra preflight-gpu"):
        compilation.check_installed(ACCELERATORS["h100"])


@pytest.mark.parametrize(
    ("report_text", "gib"),
    [
        ("Ran out of memory in memory space hbm. Used 31.50G of 15.75G hbm. Exceeded", 31.5),
        ("the total memory required for HLO temporaries (600.00G) exceeds available", 600.0),
        ("Ran out of memory", None),
    ],
)
def test_a_compilers_report_says_how_much_was_needed(report_text, gib):
    compiled = compilation.Compiled(error=report_text)
    assert compiled.total == (None if gib is None else gib * GIB)
    figures = report.figures(config.Job(), ACCELERATORS["v5e"], 1, lowered(), compiled)
    assert figures["fits"] is False
    assert figures["memory_gib"]["total"] == gib
    assert figures["step_ms_estimate"] is None
    need = "more" if gib is None else f"{gib} GiB"
    assert preflight.too_large(figures).startswith(
        f"--batch_size=16 does not fit: 16 images per replica need {need}, its compiler says, and "
        "TPU v5e has 15.75 GiB; "
    )


def test_the_cache_is_where_the_users_caches_are(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert compilation.default_cache() == "/somewhere/unet-trainer/preflight"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert compilation.default_cache().endswith("/.cache/unet-trainer/preflight")


def lowered():
    """A step of 4 TFLOP on 16 images, with 1 GiB of weights and 2 of the optimizer's."""
    return lowering.Lowered(
        program=b"",
        batch_size=16,
        flops=4 * 10**12,
        precision="bfloat16",
        image=(256, 256, 1),
        sizes={"weights": GIB, "optimizer": 2 * GIB, "average": 0, "batch": 0},
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
