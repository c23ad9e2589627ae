"""Preflight's arithmetic, on programs and figures small enough to work out by hand."""

import dataclasses
import importlib.util
import types

import keras
import pytest
import tensorflow as tf

from trainer import config, models
from trainer.config import flags
from trainer.errors import InputError
from trainer.preflight import __main__ as preflight
from trainer.preflight import (
    advice,
    arithmetic,
    batch,
    compilation,
    estimate,
    hlo,
    lowering,
    memory,
    report,
    scaling,
)
from trainer.preflight.accelerators import ACCELERATORS, GIB
from trainer.training import losses, train_step

# A step of a TPU: a 3×3 convolution whose 64 channels fill half of the 128 lanes, and a loop.
TPU_PROGRAM = """HloModule a_step, is_scheduled=true

%body (state: (s32[], f32[8])) -> (s32[], f32[8]) {
  %state = (s32[]{:T(128)}, f32[8]{0:T(128)}) parameter(0)
  %half = f32[8]{0:T(128)} get-tuple-element(%state), index=1
  %twice = f32[8]{0:T(128)} add(%half, %half), metadata={op_name="twice"}, \
    backend_config={"window_config":{"estimated_cycles":"100"}}
  %one = s32[]{:T(128)} get-tuple-element(%state), index=0
  ROOT %pair = (s32[]{:T(128)}, f32[8]{0:T(128)}) tuple(%one, %twice)
}

%fused (p0: bf16[2,4,4,64], p1: bf16[3,3,64,64]) -> bf16[2,4,4,64] {
  %p0 = bf16[2,4,4,64]{3,0,2,1:T(8,128)(2,1)} parameter(0)
  %p1 = bf16[3,3,64,64]{3,2,1,0:T(8,128)(2,1)} parameter(1)
  ROOT %convolution.1 = bf16[2,4,4,64]{3,0,2,1:T(8,128)(2,1)} convolution(%p0, %p1), \
    window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f
}

ENTRY %main (images: bf16[2,4,4,64], kernel: bf16[3,3,64,64]) -> bf16[2,4,4,64] {
  %images = bf16[2,4,4,64]{3,0,2,1:T(8,128)(2,1)} parameter(0)
  %kernel = bf16[3,3,64,64]{3,2,1,0:T(8,128)(2,1)} parameter(1)
  %start = (s32[]{:T(128)}, f32[8]{0:T(128)}) parameter(2)
  %fusion.1 = bf16[2,4,4,64]{3,0,2,1:T(8,128)(2,1)} fusion(%images, %kernel), kind=kOutput, \
    calls=%fused, metadata={op_type="Conv2D" op_name="unet_1/conv2d_3_1/convolution"}, \
    backend_config={"window_config":{"estimated_cycles":"3000"}}
  %while.1 = (s32[]{:T(128)}, f32[8]{0:T(128)}) while(%start), condition=%cond, body=%body, \
    backend_config={"known_trip_count":{"n":"5"}}
  ROOT %copy.1 = bf16[2,4,4,64]{3,0,2,1:T(8,128)(2,1)S(1)} copy(%fusion.1), \
    metadata={op_name="gradient_tape/unet_1/activation_1/ReluGrad"}, \
    backend_config={"window_config":{"estimated_cycles":"600"}}
}
"""

# A step of a GPU: cuDNN's gradient of a 3×3 convolution by its input, behind a command buffer.
GPU_PROGRAM = """HloModule a_step, is_scheduled=true

%command_buffer (p: bf16[2,4,4,8], q: bf16[8,3,3,16]) -> (bf16[2,4,4,16], u8[0]) {
  %p = bf16[2,4,4,8]{3,2,1,0} parameter(0)
  %q = bf16[8,3,3,16]{3,2,1,0} parameter(1)
  ROOT %cudnn-conv.1 = (bf16[2,4,4,16]{3,2,1,0}, u8[0]{0}) custom-call(%p, %q), \
    window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, \
    custom_call_target="__cudnn$convBackwardInput", \
    metadata={op_name="gradient_tape/unet_1/conv2d_1/convolution/Conv2DBackpropInput"}
}

ENTRY %main (p: bf16[2,4,4,8], q: bf16[8,3,3,16]) -> bf16[2,4,4,16] {
  %p.1 = bf16[2,4,4,8]{3,2,1,0} parameter(0)
  %q.1 = bf16[8,3,3,16]{3,2,1,0} parameter(1)
  %call.1 = (bf16[2,4,4,16]{3,2,1,0}, u8[0]{0}) call(%p.1, %q.1), to_apply=%command_buffer
  ROOT %out = bf16[2,4,4,16]{3,2,1,0} get-tuple-element(%call.1), index=0
}
"""

# Of a 3×3 kernel on 4×4 pixels, each side meets 3 + 4 + 3 pixels instead of 3 * 4.
PAIRS = 10 * 10


def shape(text):
    (found,) = hlo.parse_shapes(text)
    return found


def test_choices_are_the_rows_of_the_table():
    rules = {name: rule for name, _, rule in config.walk(config.Target())}
    assert set(rules["accelerator"]["choices"]) == set(ACCELERATORS)


def test_a_shape_knows_its_bytes_and_those_of_whole_tiles():
    one = shape("bf16[32,256,256,64]{3,0,2,1:T(8,128)(2,1)}")
    assert one.size == 2 * 32 * 256 * 256 * 64
    assert one.padded_size == 2 * one.size  # 64 channels in 128 lanes
    assert not one.on_chip
    two = shape("f32[5,3]{0,1:T(4,128)S(1)}")
    assert (two.size, two.padded_size) == (4 * 15, 4 * 128 * 4)  # 5 → 128, 3 → 4
    assert two.on_chip
    assert shape("f32[7]{0:T(1024)}").padded_size == 4 * 1024
    assert shape("f32[]").padded_size == shape("f32[]").size == 4
    assert str(two) == "f32[5,3]"


def test_tuples_are_read_whole():
    shapes = hlo.parse_shapes("(f32[2]{0:T(128)}, (bf16[3]{0}, token[]), /*index=2*/pred[4])")
    assert [str(one) for one in shapes] == ["f32[2]", "bf16[3]", "pred[4]"]


def test_what_runs_is_read_with_loops_and_without_the_insides_of_fusions():
    module = hlo.parse(TPU_PROGRAM)
    ran = {one.name: (one.cycles, times) for _, one, times in module.executed()}
    assert ran == {"fusion.1": (3000, 1), "twice": (100, 5), "copy.1": (600, 1)}


def test_a_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY computation"):
        hlo.parse("nothing")


def test_a_tpu_takes_its_compilers_cycles():
    tpu = ACCELERATORS["v5e"]
    layers = ["conv2d_3", "activation"]
    first, second, third = estimate.estimate(hlo.parse(TPU_PROGRAM), tpu, layers)
    assert first.name == "conv2d_3 convolution"
    assert first.seconds == pytest.approx(3000 / 1.5e9)
    assert first.flops == 2 * PAIRS * 2 * 64 * 64
    # Images and result take 16 pixels × 8 (2 filled up) × 128 lanes, the kernel 9 × 64 × 128.
    assert first.bytes == 2 * (2 * 16 * 8 * 128 + 9 * 64 * 128)
    assert first.limit == "neither"
    assert (second.name, second.seconds) == ("activation ReluGrad gradient", 600 / 1.5e9)
    assert (third.name, third.seconds) == ("twice", 500 / 1.5e9)


def test_a_gpu_takes_the_longer_of_arithmetic_and_traffic():
    gpu = ACCELERATORS["h100"]
    (only,) = estimate.estimate(hlo.parse(GPU_PROGRAM), gpu, ["conv2d"])
    assert only.name == "conv2d convolution gradient"
    assert only.flops == 2 * PAIRS * 2 * 8 * 16
    assert only.bytes == 2 * (2 * 16 * 8 + 9 * 8 * 16 + 2 * 16 * 16)
    assert only.seconds == estimate.LAUNCH_SECONDS
    slow = dataclasses.replace(gpu, peak={"bf16": only.flops / 3e-3})
    assert estimate.estimate(hlo.parse(GPU_PROGRAM), slow, [])[0].seconds == pytest.approx(3e-3)
    narrow = dataclasses.replace(gpu, bandwidth=only.bytes / 4e-3)
    (limited,) = estimate.estimate(hlo.parse(GPU_PROGRAM), narrow, [])
    assert limited.seconds == pytest.approx(4e-3)
    assert limited.limit == "memory"


@pytest.mark.parametrize(
    ("window", "kernel", "result", "pairs"),
    [
        ("size=2x2 stride=2x2", 2, 2, (2 * 2) ** 2),  # nothing overhangs
        # Of a transposed convolution: 4 values and the holes between them are 7 long, and a
        # kernel of 2 with one more on each side meets each value twice.
        ("size=2x2 pad=1_1x1_1 lhs_dilate=2x2", 2, 8, (2 * 4) ** 2),
        ("size=2x2 rhs_dilate=2x2", 2, 2, (2 * 2) ** 2),
    ],
)
def test_padding_and_holes_are_no_arithmetic(window, kernel, result, pairs):
    text = f"window={{{window}}}, dim_labels=b01f_01io->b01f"
    made = shape(f"f32[1,{result},{result},5]")
    one = hlo.Instruction("c", "convolution", (made,), (), text)
    operands = [shape("f32[1,4,4,3]"), shape(f"f32[{kernel},{kernel},3,5]")]
    assert hlo.convolution_flops(one, operands) == 2 * pairs * 3 * 5


def test_the_arithmetic_of_a_network_is_that_of_its_convolutions_forward_and_backward():
    images = keras.Input((None, None, 2))
    x = keras.layers.Conv2D(4, 3, padding="same")(images)
    x = keras.layers.Activation("relu")(x)
    x = keras.layers.Conv2DTranspose(3, 2, strides=2)(x)
    x = keras.layers.Conv2D(5, 3, strides=2, padding="valid")(x)
    network = keras.Model(images, x)
    # 4×4 pixels. A row of 4 meets 3 + 3 + 3 taps but for one at each end: 10, so 100 products.
    first = 2 * 100 * 2 * 4
    second = 2 * (16 * 4) * 4 * 3  # each pixel becomes four
    third = 2 * (3 * 3) ** 2 * 3 * 5  # 8×8 to 3×3, 9 taps each
    # Three passes, but nobody needs the gradient of the images.
    assert arithmetic.training_flops(network, (4, 4, 2), 1) == 2 * first + 3 * (second + third)
    assert arithmetic.training_flops(network, (4, 4, 2), 7) == 7 * (
        2 * first + 3 * (second + third)
    )


def test_a_layer_whose_arithmetic_is_not_known_is_named():
    images = keras.Input((8, 8, 2))
    network = keras.Model(images, keras.layers.Dense(3)(images))
    with pytest.raises(TypeError, match="Dense"):
        arithmetic.training_flops(network, (8, 8, 2), 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet", "residual_unet", "attention_unet"])
def test_the_arithmetic_is_what_xla_multiplies_where_nothing_is_packed(name):
    model = models.MODELS[name]((None, None, 2), 4, 1, depth=1)
    descent = keras.optimizers.SGD()
    descent.build(model.trainable_variables)
    step = train_step.step_of_one_replica(model, descent, losses.LOSSES["dice"], tf.ones(2))
    specs = train_step.batch_spec(3, 10, 2)
    module = hlo.parse(step.experimental_get_compiler_ir(*specs)(stage="hlo"))
    counted = sum(
        times * hlo.convolution_flops(one, module.operands(computation, one))
        for computation, one, times in module.executed()
        if one.opcode == "convolution"
    )
    # TensorFlow writes down the gradient of the images too, and XLA drops it unused.
    unused = 2 * 3 * (3 * 10 - 2) ** 2 * 2 * 4
    if name == "residual_unet":
        unused += 2 * 3 * 10**2 * 2 * 4  # that of the shortcut
    assert arithmetic.training_flops(model, (10, 10, 2), 3) == counted - unused


def test_padding_is_counted_where_most_memory_lives(tmp_path):
    (tmp_path / "optimized.txt").write_text(TPU_PROGRAM, encoding="utf-8")
    compiled = compilation.Compiled(
        flops=0.0,
        folder=str(tmp_path),
        memory={"argument": 0, "output": 0, "alias": 0, "temp": 8000, "generated_code": 0},
    )
    waste = memory.padding(compiled)
    # Images: 16 × 8 × 128 for 16 × 2 × 64; kernel: 9 × 64 × 128 for 9 × 64 × 64; two of f32 in 128.
    images, kernel = 2 * 16 * (8 * 128 - 2 * 64), 2 * 9 * 64 * 64
    assert waste.arguments == images + kernel + 4 * 127 + 4 * 120
    # The fusion's result lives, 2 × 64 of 8 × 128 in use: 7/8 of the temporary memory.
    assert waste.temporary == 7000
    assert str(waste.largest) == "bf16[2,4,4,64]"


def test_gradients_are_summed_in_rings():
    v5e, h100 = ACCELERATORS["v5e"], ACCELERATORS["h100"]
    assert scaling.reduce_seconds(v5e, 1, 10**9, 2) == 0
    # 8 chips send 2 × 7/8 GB at 200 GB/s, in 2 sums of 3 halvings.
    expected = 1.75e9 / 200e9 + 2 * 3 * scaling.LATENCY
    assert scaling.reduce_seconds(v5e, 8, 10**9, 2) == pytest.approx(expected)
    # 32 GPUs: inside hosts of 8, then 2 × 3/4 GB between 4 hosts at 125 GB/s; 5 halvings.
    expected = 1.75e9 / 450e9 + 1.5e9 / 125e9 + 2 * 5 * scaling.LATENCY
    assert scaling.reduce_seconds(h100, 32, 10**9, 2) == pytest.approx(expected)


def test_efficiency_is_what_summing_leaves():
    tpu = dataclasses.replace(ACCELERATORS["v5e"], interconnect=1.75e9)
    found = scaling.scale(tpu, 8, batch_size=4, step_seconds=3.0, reduced=10**9, collectives=0)
    assert found.reduce_seconds == pytest.approx(1.0)
    assert found.images_per_second == pytest.approx(8 * 4 / 4.0)
    assert found.efficiency == pytest.approx(0.75)


def count_trials(memory_of, start, usable, multiple=1):
    tried = []

    def measure(batch_size):
        tried.append(batch_size)
        total = memory_of(batch_size)
        return batch.Trial(batch_size, total <= usable, total)

    return batch.find_largest(measure, start, usable, multiple), tried


def test_the_largest_batch_is_found_on_a_line_with_few_compilations():
    # 100 + 2 per image: 450 images fill 1000. 8 gives a point, 16 the line, 450 the answer.
    found, tried = count_trials(lambda n: 100 + 2 * n, 8, 1000)
    assert tried[:3] == [8, 16, 450]
    assert found.batch_size == 450
    assert len(tried) <= 4


def test_the_largest_batch_is_a_multiple_and_within_a_sixteenth_of_what_fits():
    found, tried = count_trials(lambda n: 50 + n + n**2 // 200, 6, 1000, multiple=6)
    assert all(n % 6 == 0 for n in tried)
    assert found.fits
    largest = max(n for n in range(6, 1000, 6) if 50 + n + n**2 // 200 <= 1000)
    assert largest * 15 / 16 <= found.batch_size <= largest
    assert len(tried) <= batch.MOST_TRIALS


def test_a_larger_batch_may_need_less_memory():
    # By a tenth above 400: a plan of other tiles. 444 images fill 900 there.
    found, tried = count_trials(lambda n: (100 + 2 * n) * (0.9 if n > 400 else 1), 8, 900)
    assert 444 * 15 / 16 <= found.batch_size <= 450
    assert max(tried) < 500


def test_a_batch_that_starts_too_large_is_bisected():
    found, _ = count_trials(lambda n: 100 + 2 * n, 4096, 1000)
    assert 450 * 15 / 16 <= found.batch_size <= 450


def test_no_batch_fits_where_one_image_does_not():
    found, tried = count_trials(lambda n: 2000 + n, 4, 1000)
    assert found is None
    assert 1 in tried


@pytest.mark.parametrize(("slower_from", "said"), [(33, True), (1000, False)])
def test_of_the_batches_that_fit_the_fastest_is_named_where_the_largest_is_not(
    monkeypatch, caplog, slower_from, said
):
    # A quarter of a GiB per image: 63 images fill 15.75 GiB; 80 images/s instead of 100.
    def compiled_step(batch_size):
        total = batch_size * GIB // 4
        compiled = types.SimpleNamespace(
            memory={}, total=total, module=batch_size, cached=False, seconds=1.0
        )
        return types.SimpleNamespace(layers=()), compiled

    def operations(batch_size, accelerator, layers):
        seconds = batch_size / (100 if batch_size < slower_from else 80)
        return [estimate.Operation("conv", "", seconds, 0.0, 0.0, "memory")]

    monkeypatch.setattr(estimate, "estimate", operations)
    with caplog.at_level("INFO", logger="absl"):
        found = preflight.largest_batch(
            config.Preflight(), ACCELERATORS["v5e"], compiled_step, start=16
        )
    first, *_, last = caplog.messages
    assert first == "batch 16 per replica: 4.00 of 15.75 GiB, fits, 100 images/s by estimate (1 s)"
    assert found in (61, 62, 63)
    assert ("has 25% more images/s than the largest" in last) == said
    assert last.startswith("batch 32 per replica") == said


def give_advice(name, total, *, filters=64, precision="bfloat16", padding=None, efficiency=1.0):
    return advice.advise(
        config.Job(model=config.Model(filters=filters)),
        ACCELERATORS[name],
        precision=precision,
        total=total,
        padding=padding or memory.Padding(0, 0, None),
        scaling=scaling.Scaling(8, 0.0, 1.0, efficiency),
    )


def test_no_advice_where_nothing_is_sure():
    assert give_advice("v5e", 12 * GIB) == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            {"name": "v5e", "total": 3.15 * GIB},
            "The step takes 20% of the memory; --find_batch finds the largest --batch_size that "
            "fits.",
        ),
        (
            {"name": "v5e", "total": 12 * GIB, "precision": "float32"},
            "--precision=bfloat16 halves the activations in memory.",
        ),
        (
            {"name": "t4", "total": 10 * GIB, "precision": "float32"},
            "--precision=float16 halves the activations in memory and multiplies up to 8 times as "
            "fast.",
        ),
        (
            {"name": "v100", "total": 10 * GIB},
            "--precision=float16 multiplies up to 8 times as fast as bfloat16 there.",
        ),
        (
            {"name": "h100", "total": 60 * GIB, "filters": 12},
            "--filters=12 is not a multiple of 8, in which this GPU's matrix units compute; 16 "
            "costs no more.",
        ),
        (
            {"name": "v5e", "total": 12 * GIB, "efficiency": 0.7},
            "Summing the gradients takes 30% of the step on 8 chips; a larger --batch_size makes "
            "that less.",
        ),
        (
            {
                "name": "v5e",
                "total": 12 * GIB,
                "padding": memory.Padding(
                    0, 4 * GIB, shape("bf16[32,256,256,64]{3,0,2,1:T(8,128)(2,1)}")
                ),
            },
            "4.0 GiB of the memory is padding: the largest of it fills up the 64 channels of "
            "bf16[32,256,256,64] to 128; multiples of 128 channels have none.",
        ),
    ],
)
def test_advice_is_given_where_it_is_sure(arguments, line):
    assert give_advice(**arguments) == [line]


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


def test_a_compiler_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError) as error:
        compilation.check_installed(ACCELERATORS["v5e"])
    assert str(error.value) == (
        "TPU v5e's compiler is not installed (jax, libtpu); install the extra preflight: "
        "pip install 'unet-trainer[preflight]'."
    )
    with pytest.raises(InputError, match="extra preflight-gpu"):
        compilation.check_installed(ACCELERATORS["h100"])


@pytest.mark.parametrize(
    ("report", "gigabytes"),
    [
        ("Ran out of memory in memory space hbm. Used 31.50G of 15.75G hbm. Exceeded", 31.5),
        ("the total memory required for HLO temporaries (600.00G) exceeds available", 600.0),
        ("Ran out of memory", None),
    ],
)
def test_a_compilers_report_says_how_much_was_needed(report, gigabytes):
    compiled = compilation.Compiled(flops=0.0, error=report)
    assert compiled.total == (None if gigabytes is None else gigabytes * GIB)
    assert not preflight.fits(compiled, ACCELERATORS["v5e"])


def test_the_cache_is_where_the_users_caches_are(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert compilation.default_cache() == "/somewhere/unet-trainer/preflight"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert compilation.default_cache().endswith("/.cache/unet-trainer/preflight")


@pytest.fixture
def findings(tmp_path):
    """A step of 4 TFLOP that takes 40 ms, on 2 of 8 chips that sum 1.75 GB in 10 ms."""
    (tmp_path / "optimized.txt").write_text(TPU_PROGRAM, encoding="utf-8")
    operations = [
        estimate.Operation("conv2d convolution", "bf16[8]", 0.03, 3e12, 5e9, "arithmetic"),
        estimate.Operation("activation Relu", "bf16[8]", 0.01, 0.0, 3e9, "memory"),
    ]
    lowered = lowering.Lowered(
        program=b"",
        batch_size=16,
        flops=4e12,
        precision="bfloat16",
        channels=1,
        num_examples=2304,
        sizes={"weights": GIB, "optimizer": 2 * GIB, "average": 0, "batch": 0},
        reduced=10**9,
        collectives=2,
        layers=(),
    )
    memory_of = {"argument": 3 * GIB, "output": 3 * GIB, "alias": 3 * GIB}
    return report.Findings(
        job=config.Job(),
        accelerator=ACCELERATORS["v5e"],
        chips=2,
        lowered=lowered,
        compiled=compilation.Compiled(
            flops=5e12,
            folder=str(tmp_path),
            memory={**memory_of, "temp": 4 * GIB, "generated_code": 0},
            compiler={"libtpu": "1"},
        ),
        padding=memory.Padding(0, GIB, None),
        operations=operations,
        scalings=[scaling.Scaling(2, 0.01, 640.0, 0.8)],
        advice=["Do this."],
    )


def test_the_json_holds_what_programs_are_promised(findings):
    figures = report.as_json(findings)
    assert figures["fits"] is True
    assert (figures["accelerator"], figures["chips"]) == ("TPU v5e", 2)
    assert (figures["batch_size"], figures["batch_size_per_replica"]) == (32, 16)
    assert figures["chip_memory_gib"] == 16
    memory_gib = figures["memory_gib"]
    assert [memory_gib[key] for key in ("arguments", "temporary", "total")] == [3, 4, 7]
    assert [memory_gib[key] for key in ("weights", "optimizer", "padding")] == [1, 2, 1]
    assert figures["step_ms_estimate"] == pytest.approx(40)
    assert figures["images_per_second_estimate"] == 640
    assert figures["mfu_estimate"] == pytest.approx(100 / 197)  # 4 TFLOP in 40 ms
    assert (figures["tflop"], figures["tflop_compiled"], figures["gb_accessed"]) == (4, 5, 8)
    first, second = figures["top_ops"]
    assert (first["name"], first["share"]) == ("conv2d convolution", pytest.approx(0.75))
    assert second["ms_estimate"] == pytest.approx(10)
    assert figures["epoch_hours_estimate"] == pytest.approx(0.001)  # 2304 images in 3.6 s
    assert figures["advice"] == ["Do this."]


def test_the_text_says_what_is_an_estimate_and_how_good_it_is(findings):
    lines = report.as_text(findings).splitlines()
    assert lines[0] == (
        "TPU v5e × 2: unet, 16 filters, depth 4, 256×256×1, bfloat16, batch 32 (16 per replica)"
    )
    text = "\n".join(lines)
    for name in ("step", "images/s", "MFU", "hours per epoch"):
        assert f"{name}, estimate" in text
    assert "40.0 ms + 10.0 ms to sum gradients" in text
    assert "< 0.01 (3.6 s for 2304 images)" in text
    assert report.QUALITY["TPU"] in lines
    assert lines[-1] == "Advice: Do this."
    weights, temporary = (
        next(line for line in lines if name in line) for name in ("weights", "activations")
    )
    assert weights.split() == ["weights", "1.00", "GiB"]
    assert temporary.split() == ["activations,", "temporary", "3.00", "GiB"]


def test_a_fusion_without_a_name_has_that_of_what_is_inside():
    program = TPU_PROGRAM.replace('op_type="Conv2D" op_name="unet_1/conv2d_3_1/convolution"', "")
    program = program.replace(
        "dim_labels=b01f_01io->b01f", 'dim_labels=b01f_01io->b01f, metadata={op_name="inside"}'
    )
    first, *_ = estimate.estimate(hlo.parse(program), ACCELERATORS["v5e"], [])
    assert first.name == "inside"


def test_help_names_the_command():
    text = flags.describe(config.Preflight, "trainer.preflight.__main__")
    assert text.startswith("python -m trainer.preflight [--flag=value …]")
    assert "--find_batch" in text
    assert "--accumulate_steps" in text


def test_of_a_conditional_the_longer_branch_counts():
    module = hlo.parse(
        """HloModule a_step

%short (a: f32[8]) -> f32[8] {
  ROOT %a = f32[8]{0} parameter(0)
}

%long (b: f32[8]) -> f32[8] {
  %b = f32[8]{0} parameter(0)
  ROOT %twice = f32[8]{0} add(%b, %b)
}

ENTRY %main (yes: pred[], c: f32[8]) -> f32[8] {
  %yes = pred[] parameter(0)
  %c = f32[8]{0} parameter(1)
  ROOT %either = f32[8]{0} conditional(%yes, %c, %c), true_computation=%short, \
    false_computation=%long
}
"""
    )
    assert [one.name for _, one, _ in module.executed()] == ["twice"]
