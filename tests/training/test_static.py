"""What XLA compiles of a step: fixed shapes, no host, no float64, and once."""

import collections
import os
import re

import keras
import pytest
import tensorflow as tf

from tests.devices import strategy_of
from tests.jobs import SMALL, command, start, wait_for
from tests.shards import write_data
from trainer import models
from trainer.data.dataset import schema
from trainer.data.input import pipeline
from trainer.evaluate import eval_step
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
@pytest.mark.parametrize("norm", ["batch", "group"])
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


def in_the_loop(jit_compile):
    """Returns the operations, by type, of the loop over steps on one device, outside XLA."""
    strategy = strategy_of(1)
    with strategy.scope():
        model, average, optimizer = build()
    loop = train_step.train_loop(
        strategy,
        model,
        optimizer,
        losses.LOSSES["ce_dice"],
        tf.ones(2),
        clip_norm=1.0,
        average=average,
        average_decay=0.99,
        jit_compile=jit_compile,
    )
    images, labels, valid = train_step.batch_spec(4, (32, 32), 1)
    spec = {"images": images, "labels": labels, "valid": valid}
    batches = iter(
        tf.data.Dataset.from_tensors({k: tf.zeros(s.shape, s.dtype) for k, s in spec.items()})
    )
    graph = loop.get_concrete_function(batches, tf.constant(1)).graph.as_graph_def()
    body = next(f for f in graph.library.function if "while_body" in f.signature.name)
    return collections.Counter(node.op for node in body.node_def)


# Fetching and timing a batch, waiting for it, calling the program, counting and noting its figures.
LOOP = {
    *("IteratorGetNext", "Timestamp", "Identity", "NoOp", "StatefulPartitionedCall"),
    *("AddV2", "Sub", "Maximum", "Cast", "Const", "TensorListSetItem"),
}


@pytest.mark.slow
def test_the_whole_step_of_one_device_is_in_its_program():
    outside = in_the_loop(jit_compile=True)
    assert set(outside) <= LOOP
    assert outside["StatefulPartitionedCall"] == 1
    assert outside.total() < 50
    assert in_the_loop(jit_compile=False)["AssignVariableOp"] > 50  # which would be seen


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
