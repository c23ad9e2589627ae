"""What XLA compiles of a step: fixed shapes, no host, no float64, and once."""

import collections
import os
import re

import keras
import pytest
import tensorflow as tf
from tensorflow.python.distribute import cross_device_utils, mirrored_strategy
from tensorflow.python.eager.polymorphic_function import compiler_ir
from tensorflow.python.framework import ops
from tensorflow.python.ops import control_flow_util

from tests.devices import strategy_of
from tests.jobs import SMALL, command, start, wait_for
from tests.shards import write_data
from trainer import models
from trainer.data.dataset import schema
from trainer.data.input import pipeline
from trainer.evaluate import eval_step
from trainer.models import channel_packing
from trainer.training import losses, optimizers, train_step

# What would call the host out of a program, as HLO and its custom calls name it.
HOST = re.compile(r"\b(infeed|outfeed|send|recv|[\w.]*callback[\w.]*)\b", re.IGNORECASE)


@pytest.fixture
def mixed_bfloat16():
    keras.mixed_precision.set_global_policy("mixed_bfloat16")


def build(norm="batch", ema=True):
    model = models.build_unet((None, None, 1), 4, depth=2, norm=norm)
    average = keras.models.clone_model(model) if ema else None
    schedule = optimizers.build_schedule("cosine", 1e-3, 100, 10)
    optimizer = optimizers.build_optimizer("adamw", schedule, 1e-4)
    optimizer.build(model.trainable_variables)
    return model, average, optimizer


def assert_static(program):
    assert "ENTRY" in program
    assert "f64" not in program
    assert "<=" not in program  # as in f32[<=8,32], a dimension with a bound
    assert not re.search(r"\[\?|,\?", program)
    assert "dynamic-reshape" not in program
    assert "set-dimension-size" not in program
    assert not HOST.search(program), HOST.search(program)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["batch", "group", "instance"])
def test_the_training_step_is_one_program_of_fixed_shapes(norm, mixed_bfloat16):
    model, average, optimizer = build(norm)
    step = train_step.step_of_one_replica(
        model,
        optimizer,
        losses.LOSSES["ce_dice"],
        tf.ones(2),
        clip_norm=1.0,
        accumulate_steps=2,
        average=average,
        average_decay=0.99,
    )
    program = step.experimental_get_compiler_ir(*train_step.batch_spec(4, (32, 32), 1))(stage="hlo")
    assert "bf16[2,32,32,4]" in program
    assert_static(program)


def loop_of(number, norm="batch", scaled=False, **settings):
    """Returns the loop over steps of `number` replicas, and batches for it."""
    strategy = strategy_of(number)
    with strategy.scope():
        model, average, optimizer = build(norm)
        if scaled:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
            optimizer.build(model.trainable_variables)
    loop = train_step.train_loop(
        strategy,
        model,
        optimizer,
        losses.LOSSES["ce_dice"],
        tf.ones(2),
        clip_norm=1.0,
        average=average,
        average_decay=0.99,
        **settings,
    )
    parts = ("images", "labels", "valid")
    specs = zip(parts, train_step.batch_spec(4, (32, 32), 1), strict=True)
    data = tf.data.Dataset.from_tensors({key: tf.zeros(x.shape, x.dtype) for key, x in specs})
    return loop, iter(strategy.distribute_datasets_from_function(lambda context: data))


def in_the_loop(loop, batches):
    """Returns the operations, by type, of a loop over steps, outside XLA."""
    graph = loop.get_concrete_function(batches, tf.constant(1)).graph.as_graph_def()
    bodies = [
        collections.Counter(node.op for node in function.node_def)
        for function in graph.library.function
        if "while_body" in function.signature.name
    ]
    return next(body for body in bodies if body["IteratorGetNext"])  # not of a batch's parts


# Fetching and timing a batch, waiting for it, calling the program, counting and noting its figures.
LOOP = {
    *("IteratorGetNext", "Timestamp", "Identity", "NoOp", "StatefulPartitionedCall"),
    *("AddV2", "Sub", "Maximum", "Cast", "Const", "TensorListSetItem"),
}


@pytest.mark.slow
def test_the_whole_step_of_one_device_is_in_its_program():
    outside = in_the_loop(*loop_of(1, jit_compile=True))
    assert set(outside) <= LOOP
    assert outside["StatefulPartitionedCall"] == 1
    assert outside.total() < 50
    assert in_the_loop(*loop_of(1))["AssignVariableOp"] > 50  # which would be seen


@pytest.fixture
def posing_as_gpus(monkeypatch):
    """Makes TensorFlow put the sums of two CPUs into an XLA program, as it does those of GPUs.

    So the program can be looked at, though it cannot run.
    """
    extended, all_reduce = mirrored_strategy.MirroredExtended, cross_device_utils.collective_ops

    def use_merge_call(self):
        return not control_flow_util.GraphOrParentsInXlaContext(ops.get_default_graph())

    real = all_reduce.all_reduce_v2
    hint = {"communication_hint": "auto"}  # that of CPUs is a ring, which XLA refuses
    monkeypatch.setattr(extended, "_use_merge_call", use_merge_call)
    monkeypatch.setattr(
        all_reduce, "all_reduce_v2", lambda *args, **kinds: real(*args, **{**kinds, **hint})
    )


def all_reduces(program):
    """Returns (sum's shape, channel, groups of replicas) of each, in the program's order."""
    found = re.findall(r"= (\S+) all-reduce\(.*channel_id=(\d+), replica_groups=(\S+),", program)
    assert len(found) == len(re.findall(r"\ball-reduce", program))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("norm", "settings", "number"),
    [
        # Twelve norms forward and backward, the weights of the loss, and the gradients.
        ("sync_batch", {}, 2 * 12 + 2),
        ("group", {"accumulate_steps": 2, "scaled": True}, 2),
    ],
)
def test_the_whole_step_of_several_gpus_is_in_their_programs(
    posing_as_gpus, monkeypatch, norm, settings, number
):
    steps, within = [], train_step._loop_within
    monkeypatch.setattr(
        train_step,
        "_loop_within",
        lambda strategy, step: steps.append(step) or within(strategy, step),
    )
    settings |= {"jit_compile": True, "collectives_in_xla": True}
    loop, batches = loop_of(2, norm, **settings)
    outside = in_the_loop(loop, batches)
    assert set(outside) <= LOOP
    assert outside["StatefulPartitionedCall"] == 2  # one for each replica
    programs = []

    @tf.function
    def once(batches):
        def step(batch):
            program = steps[0].get_concrete_function(batch)
            programs.append(program)
            return program(batch)

        return strategy_of(2).run(step, (next(batches),))

    once.get_concrete_function(batches)
    ours, theirs = (
        all_reduces(
            compiler_ir.from_concrete_function(program)(
                stage="hlo", device_name=f"/job:localhost/replica:0/task:0/device:CPU:{replica}"
            )
        )
        for replica, program in enumerate(programs)
    )
    assert len(ours) == number
    assert {groups for _, _, groups in ours} == {"{{0,1}}"}
    assert len({channel for _, channel, _ in ours}) == number
    assert ours == theirs  # or replicas would wait for each other


@pytest.mark.slow
def test_the_training_step_of_volumes_is_one_program_of_fixed_shapes():
    model = models.build_unet((None, None, None, 1), 4, rank=3, depth=2)
    sgd = keras.optimizers.SGD(0.1)
    sgd.build(model.trainable_variables)
    step = train_step.step_of_one_replica(model, sgd, losses.LOSSES["ce_dice"], tf.ones(2))
    volumes = train_step.batch_spec(2, (8, 16, 12), 1)
    program = step.experimental_get_compiler_ir(*volumes)(stage="hlo")
    assert "f32[2,8,16,12,4]" in program
    assert_static(program)


@pytest.mark.slow
def test_the_evaluation_step_is_one_program_of_fixed_shapes(mixed_bfloat16):
    model, _, _ = build(ema=False)
    images = tf.TensorSpec((4, 64, 128, 1), tf.float32)
    forward = eval_step.forward_of_one_replica(model)
    program = forward.experimental_get_compiler_ir(images)(stage="hlo")
    assert "bf16[4,64,128,4]" in program
    assert_static(program)
    of_parts = eval_step.of_parts(channel_packing.predicting(model))
    forward = tf.function(lambda *inputs: of_parts(inputs), jit_compile=True, autograph=False)
    sizes = tf.TensorSpec((4, 2), tf.int32)
    program = forward.experimental_get_compiler_ir(images, sizes)(stage="hlo")
    assert "bf16[4,64,128,4]" in program
    assert_static(program)


def test_the_audit_finds_what_it_looks_for():
    @tf.function(jit_compile=True)
    def wide(x):
        return tf.reduce_sum(tf.cast(x, tf.float64))

    @tf.function(jit_compile=True)
    def bounded(x):
        return tf.where(x > 0)

    for function in (wide, bounded):
        program = function.experimental_get_compiler_ir(tf.TensorSpec((8,), tf.float32))
        with pytest.raises(AssertionError):
            assert_static(program(stage="hlo"))
    assert HOST.search("custom_call_target=xla_python_cpu_callback")


def test_a_batch_that_is_not_full_has_the_shape_of_those_that_are(tmp_path):
    manifest = write_data(tmp_path, {"train": [(40, 40)], "val": [(40, 40)] * 5})
    batches = pipeline.evaluation_batches(
        str(tmp_path), manifest, "val", stride=4, batch_size=2, normalize="image", tile=1024
    )
    shapes = [tuple(batch["images"].shape) for batch in batches]
    assert shapes == [(2, 64, 64, 1)] * 3


@pytest.mark.slow
def test_one_trace_serves_100_steps_a_short_last_loop_and_a_resumed_stream(data_dir):
    strategy = strategy_of(2)
    manifest = schema.read_manifest(data_dir)
    with strategy.scope():
        model = models.build_unet((None, None, 1), 4, depth=2, norm="none")
        optimizer = keras.optimizers.SGD(0.01)
        optimizer.build(model.trainable_variables)
    loop = train_step.train_loop(strategy, model, optimizer, losses.LOSSES["ce_dice"], tf.ones(2))

    def stream_from(step):
        return iter(
            strategy.distribute_datasets_from_function(
                lambda context: pipeline.training_stream(
                    data_dir,
                    manifest,
                    batch_size=2,
                    crop=(16, 16),
                    seed=0,
                    augment="standard",
                    normalize="image",
                    start_step=step,
                    num_streams=2,
                    shuffle_block=64,
                    num_replicas=2,
                )
            )
        )

    batches = stream_from(0)
    for number in (33, 33, 33, 1):
        assert loop(batches, tf.constant(number))["loss"].shape == number
    assert loop(stream_from(50), tf.constant(5))["loss"].shape == 5
    assert loop.experimental_get_tracing_count() == 1


@pytest.mark.slow
def test_xla_compiles_the_step_once_in_100_steps_of_a_resumed_run(data_dir, tmp_path):
    argv = ["--steps=104", "--checkpoint_every=4", "--eval_every=52", "--steps_per_loop=7"]
    begun = start(data_dir, tmp_path / "run", *argv)
    wait_for(begun, tmp_path / "run" / "checkpoints" / "00000004" / "commit.json")
    begun.kill()
    begun.communicate()
    flags = [f"--data_dir={data_dir}", f"--run_dir={tmp_path}/run", *SMALL, *argv]
    flags.append("--jit_compile=true")
    dump = {"XLA_FLAGS": f"--xla_dump_to={tmp_path}/dump --xla_dump_hlo_as_text"}
    result = command("trainer.task", *flags, environment=dump)
    assert result.returncode == 0, result.stderr
    assert "Resuming from step " in result.stderr
    programs = {name for name in os.listdir(tmp_path / "dump") if "before_optimizations" in name}
    assert len([name for name in programs if "whole" in name]) == 1, programs
