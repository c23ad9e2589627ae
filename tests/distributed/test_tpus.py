"""TPUs without one: what is said where none can be used, and what TPUStrategy makes of our loop."""

import collections
import os
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.tpu import tpu_system_metadata
from tensorflow.python.tpu.client import client

from trainer import models
from trainer.distributed import arithmetic, strategies, tpu_runtime, tpus
from trainer.errors import InputError, RetryableError
from trainer.evaluate import eval_step
from trainer.training import losses, optimizers, train_step


def test_the_chips_of_a_machine_are_known_by_their_pci_numbers(tmp_path):
    for name, vendor, device in (("0", "0x1ae0", "0x0063"), ("1", "0x8086", "0x0063")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(vendor + "\n")
        (tmp_path / name / "device").write_text(device + "\n")
    assert tpu_runtime.attached_chips(str(tmp_path)) == ["v5e"]
    assert tpu_runtime.attached_chips(str(tmp_path / "none")) == []


@pytest.mark.parametrize("accelerator", ["v2-8", "v3", "v4-8", "v5litepod-4", "v5p-8", "v5e", ""])
def test_versions_that_tensorflow_is_built_for_are_taken(accelerator):
    tpus.check_version("local", accelerator)


def test_the_client_that_knows_a_tpus_type_is_where_it_was():
    # A local TPU's knows nothing; that of a name is what would be asked.
    assert tpus._accelerator_type(tf.distribute.cluster_resolver.TPUClusterResolver("local")) == ""
    assert callable(client.Client.accelerator_type)
    assert callable(client.Client.api_available)


@pytest.mark.parametrize("accelerator", ["v6e-16", "tpu7x-8", "tpu7x"])
def test_newer_versions_are_refused(accelerator, monkeypatch):
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", accelerator)
    with pytest.raises(InputError) as error:
        strategies.connect("tpu", tpu="local")
    assert str(error.value) == (
        f"--tpu=local is a {accelerator}, and TensorFlow {tf.__version__} runs on TPUs up to v5e "
        "and v5p only; use one of those. On one machine outside Vertex AI, v6e is let pass with "
        "tensorflow-tpu from 2.19.1 (docs/tpu.md)."
    )


def test_v6e_is_let_pass_with_a_warning_on_one_machine_outside_vertex(monkeypatch, caplog):
    for accelerator in ("v6e", "v6e-1", "v6e-8"):
        caplog.clear()
        tpus.check_version("local", accelerator, "2.19.1")
        assert f"--tpu=local is a {accelerator}: Google's documents" in caplog.text
        with pytest.raises(InputError, match=r"TensorFlow 2\.18\.0 runs"):
            tpus.check_version("local", accelerator, "2.18.0")
    for variable, value in (
        ("TPU_WORKER_HOSTNAMES", "10.0.0.1,10.0.0.2"),
        ("CLOUD_ML_JOB_ID", "7"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            with pytest.raises(InputError):
                tpus.check_version("local", "v6e-8", "2.20.0")


def test_what_pjrt_needs_is_set_unless_it_is():
    environment = {"PJRT_DEVICE": "MINE", "TF_XLA_FLAGS": "--tf_mlir_enable_mlir_bridge=false"}
    tpu_runtime.set_variables(["v5e"], environment, "/lib/libtpu.so")
    assert environment.pop("TF_XLA_FLAGS").split() == [
        "--tf_mlir_enable_mlir_bridge=false",
        "--tf_mlir_enable_convert_control_to_data_outputs_pass=true",
        "--tf_mlir_enable_merge_control_flow_pass=true",
    ]
    assert environment == {
        "PJRT_DEVICE": "MINE",
        "NEXT_PLUGGABLE_DEVICE_USE_C_API": "true",
        "TF_PLUGGABLE_DEVICE_LIBRARY_PATH": "/lib/libtpu.so",
    }


@pytest.mark.parametrize(
    ("chips", "library"), [([], "/lib/libtpu.so"), (["v4"], "/x"), (["v5e"], None)]
)
def test_without_such_a_chip_or_tensorflow_for_it_nothing_is_set(chips, library):
    environment = {}
    tpu_runtime.set_variables(chips, environment, library)  # here TensorFlow is not for TPUs
    assert environment == {}


def test_tensorflow_knows_the_flags():
    flags = {"TF_XLA_FLAGS": " ".join(tpu_runtime.XLA_FLAGS)}
    compiled = "import tensorflow as tf; tf.function(lambda: tf.ones(1), jit_compile=True)()"
    subprocess.run([sys.executable, "-c", compiled], env={**os.environ, **flags}, check=True)


def test_the_files_of_chips_that_may_not_be_opened_are_named(tmp_path, monkeypatch):
    (tmp_path / "vfio").mkdir()
    for name in ("vfio/0", "vfio/vfio", "accel0"):
        (tmp_path / name).touch(mode=0o600)
    assert tpu_runtime.closed_devices(str(tmp_path)) == []
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may open all
    closed = tpu_runtime.closed_devices(str(tmp_path))
    assert closed == [f"{tmp_path}/accel0", f"{tmp_path}/vfio/0"]
    tpus.check_access([])
    with pytest.raises(InputError, match=rf"^--tpu=local: user \d+ may not open {closed[0]}, .*;"):
        tpus.check_access(closed)


def test_a_machine_without_a_chip_is_told_so():
    with pytest.raises(RetryableError) as error:
        strategies.connect("tpu")
    assert str(error.value) == (
        "--strategy=tpu --tpu=local finds no TPU (no chip is attached to this machine); run on a "
        "TPU VM with the tensorflow-tpu package, or name another --strategy."
    )


def test_a_tensorflow_that_is_not_built_for_tpus_is_named(monkeypatch):
    # TensorFlow's error is real.
    monkeypatch.setattr(tpu_runtime, "attached_chips", lambda: ["v5e"])
    with pytest.raises(InputError) as error:
        strategies.connect("tpu", tpu="local")
    assert type(error.value) is InputError  # no other start finds another
    assert str(error.value) == (
        f"--strategy=tpu --tpu=local finds a TPU, but TensorFlow {tf.__version__} as installed is "
        "not built for TPUs; install tensorflow-tpu in its place (docs/tpu.md)."
    )


def test_what_cannot_be_reached_is_one_line():
    line = tpus.explain("grpc://10.0.0.2:8470", "failed to connect\nmore", [])
    assert line.startswith(
        "--strategy=tpu --tpu=grpc://10.0.0.2:8470 cannot be reached or initialised (failed to "
        "connect);"
    )
    assert "\n" not in line


def test_a_tpu_computes_in_bfloat16_and_is_asked_for_no_xla_of_its_own():
    strategy = types.SimpleNamespace(
        extended=types.SimpleNamespace(worker_devices=["/device:TPU:0"])
    )
    assert arithmetic.choose_precision("auto", strategy, deterministic=False)[0] == "bfloat16"
    for jit_compile in ("auto", "true"):
        for collective in ("", "--norm=sync_batch"):
            assert not arithmetic.choose_xla(
                jit_compile, strategy, deterministic=False, collective=collective
            )


def strategy_of_cores(number):
    """Returns a TPUStrategy whose cores are the CPU devices of this machine.

    Of a TPU it asks nothing but what is made up here, until a function is run.
    """

    class Resolver(tf.distribute.cluster_resolver.TPUClusterResolver):
        __init__ = object.__init__

    host = "/job:localhost/replica:0/task:0/device"
    resolver = Resolver()
    resolver.get_tpu_system_metadata = lambda: tpu_system_metadata.TPUSystemMetadata(
        num_cores=number,
        num_hosts=1,
        num_of_cores_per_host=number,
        topology=None,
        devices=[types.SimpleNamespace(name=f"{host}:TPU:{core}") for core in range(number)],
    )
    assignment = types.SimpleNamespace(
        num_replicas=number,
        num_cores_per_replica=1,
        core_assignment=np.zeros((number, 1, 4), np.int32),
        topology=types.SimpleNamespace(serialized=lambda: b""),
        tpu_device=lambda replica, logical_core, job: f"{host}:CPU:{replica}",
        host_device=lambda replica=0, logical_core=0, job=None: f"{host}:CPU:0",
    )
    return tf.distribute.TPUStrategy(resolver, experimental_device_assignment=assignment)


@pytest.mark.slow
def test_tpu_strategy_takes_the_training_loop_and_the_host_only_feeds_it():
    """TensorFlow's own TPUStrategy traces the loop; it cannot be run without a TPU."""
    strategy = strategy_of_cores(2)
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        with strategy.scope():
            model = models.build_unet((None, None, 1), 4, depth=2)
            average = keras.models.clone_model(model)
            schedule = optimizers.build_schedule("cosine", 1e-3, 100)
            optimizer = optimizers.build_optimizer("adamw", schedule, 1e-4)
            optimizer.build(model.trainable_variables)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    loop = train_step.train_loop(
        strategy,
        model,
        optimizer,
        losses.LOSSES["ce_dice"],
        tf.ones(2),
        clip_norm=1.0,
        average=average,
        average_decay=0.9,
        timed=False,
    )
    batch = {"images": tf.zeros((2, 32, 32, 1)), "labels": tf.zeros((2, 32, 32), tf.int32)}
    data = tf.data.Dataset.from_tensors({**batch, "valid": tf.ones((2, 32, 32))}).repeat()
    iterator = iter(strategy.distribute_datasets_from_function(lambda context: data))
    graph = loop.get_concrete_function(iterator, tf.constant(3)).graph.as_graph_def()
    (body,) = (f for f in graph.library.function if f.signature.name.startswith("while_body"))
    on_tpu = [node for node in body.node_def if "_tpu_replicate" in node.attr]
    on_host = collections.Counter(
        node.op for node in body.node_def if "_tpu_replicate" not in node.attr
    )
    assert {"Conv2D", "Conv2DBackpropFilter", "CrossReplicaSum"} <= {node.op for node in on_tpu}
    assert on_host["IteratorGetNext"] == 2  # one for each replica
    # All that is left to the host is to feed, to count, and to keep two numbers a step.
    assert set(on_host) <= {
        *("IteratorGetNext", "TensorListSetItem", "AddV2", "Sub", "Cast", "Const", "Identity"),
        *("NoOp", "Pack", "Max", "TPUReplicatedInput", "TPUReplicatedOutput"),
        "TPUCompilationResult",
    }


@pytest.mark.slow
def test_tpu_strategy_takes_the_evaluation_step():
    strategy = strategy_of_cores(1)
    with strategy.scope():
        model = models.build_unet((None, None, 1), 4, depth=2)
    forward = eval_step.forward_step(strategy, model, gather_on="CPU:0")
    traced = tf.function(forward).get_concrete_function(tf.TensorSpec((2, 64, 128, 1)))
    assert traced.output_shapes == (2, 64, 128, 1)
