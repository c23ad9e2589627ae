"""Strategies, and one clear line for each thing that is missing."""

import inspect
import json
import types

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context

from tests.devices import strategy_of
from trainer.distributed import rendezvous, strategies, tracing
from trainer.errors import InputError, RetryableError


def test_auto_is_one_device_on_a_machine_without_accelerators():
    assert strategies._choose_strategy("", 0, 0) == "one_device"
    assert strategies._choose_strategy("", 1, 0) == "one_device"
    assert strategies._choose_strategy("", 8, 0) == "mirrored"
    assert strategies._choose_strategy("", 0, 2) == "mirrored"
    assert strategies._choose_strategy("local", 0, 0) == "tpu"


def test_auto_takes_the_workers_of_tf_config(monkeypatch):
    config = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    assert strategies._choose_strategy("", 0, 0) == "multi_worker"
    assert strategies._choose_strategy("local", 0, 0) == "tpu"


def test_a_machine_of_several_can_compute_alone(monkeypatch):
    config = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    assert strategies.worker_of(strategies.connect_alone("auto")) == (0, 1)
    with pytest.raises(InputError, match=r"^--require=gpu:1: this worker would compute on a CPU,"):
        strategies.connect_alone("auto", require="gpu:1")


def test_the_check_of_several_replicas_splits_a_cpu_that_is_alone(monkeypatch):
    monkeypatch.setattr(strategies, "connect", lambda *given: given)
    assert strategies.connect_several("auto") == ("auto", "", 2)
    assert strategies.connect_several("auto", virtual_devices=3) == ("auto", "", 3)
    assert strategies.connect_several("mirrored") == ("mirrored", "", 0)


def test_mirrored_without_gpus_is_refused():
    with pytest.raises(RetryableError) as error:
        strategies.connect("mirrored")
    assert str(error.value) == (
        "--strategy=mirrored finds no GPU; use --strategy=one_device, or --virtual_devices=2 to "
        "try several replicas on the CPU."
    )


def test_several_workers_without_tf_config_are_refused(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.delenv("CLUSTER_SPEC", raising=False)
    with pytest.raises(InputError) as error:
        strategies.connect("multi_worker")
    assert str(error.value).startswith(
        "--strategy=multi_worker finds no TF_CONFIG in the environment; set it to"
    )


def test_sums_by_nccl_take_gpus(monkeypatch):
    config = {"cluster": {"chief": ["a:1"]}, "task": {"type": "chief", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    with pytest.raises(RetryableError) as error:
        strategies.connect("multi_worker", collectives="nccl")
    assert str(error.value) == (
        "--collectives=nccl finds no GPU, and sums between GPUs only; drop it."
    )


@pytest.mark.parametrize(
    ("gpus", "collectives", "expected"),
    [([], "auto", "AUTO"), (["/GPU:0"], "auto", "NCCL"), (["/GPU:0"], "ring", "RING")],
)
def test_workers_that_have_gpus_sum_by_nccl(monkeypatch, gpus, collectives, expected):
    config = {"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    made = []

    def strategy(resolver, communication_options):
        made.append(communication_options.implementation.name)
        return strategy_of(1)

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
    monkeypatch.setattr(strategies, "_grow_gpu_memory", lambda: None)
    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", strategy)
    strategies._multi_worker(rendezvous.TIMEOUTS, collectives)
    assert made == [expected]


def test_one_worker_alone_is_no_several_workers(monkeypatch):
    config = {"cluster": {"chief": ["a:1"]}, "task": {"type": "chief", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    assert strategies._choose_strategy("", 0, 0) == "one_device"


def test_tensorflow_still_has_what_it_has_no_public_name_for():
    # Of these only a job of several workers would find out; see `_leave_heartbeats_to_us`.
    made = context.context()
    taken = inspect.signature(made.configure_coordination_service).parameters
    ours = {"service_type", "service_leader", "heartbeat_timeout_in_ms", "coordinated_jobs"}
    assert ours <= set(taken)
    assert list(inspect.signature(made.abort_collective_ops).parameters) == ["code", "message"]
    job = context.coordination_config_pb2.CoordinatedJob(name="worker", num_tasks=2)
    assert (job.name, job.num_tasks) == ("worker", 2)


def test_one_process_is_the_chief_of_one():
    for number in (1, 2):
        assert strategies.worker_of(strategy_of(number)) == (0, 1)


def test_a_sum_over_one_worker_is_what_it_holds():
    array = np.arange(6).reshape(2, 3)
    assert strategies.sum_over_workers(strategy_of(2), array) is array


def test_sums_over_workers_of_one_shape_share_a_graph(monkeypatch, caplog):
    # Two replicas of one worker that takes itself for one of two: it counts once.
    monkeypatch.setattr(strategies, "worker_of", lambda strategy: (0, 2))
    traces = []

    def noting(function):
        def noted(value):
            traces.append((value.dtype.name, value.shape.num_elements()))
            return function(value)

        return tracing.for_each_shape(noted)

    monkeypatch.setattr(strategies, "tracing", types.SimpleNamespace(for_each_shape=noting))
    strategies._summation.cache_clear()
    for k in range(20):
        for array in (np.array([k, 2], np.int32), np.ones((k % 2 + 1, 3))):
            np.testing.assert_array_equal(strategies.sum_over_workers(strategy_of(2), array), array)
        assert strategies.agree(strategy_of(2), True, 3.0) == (True, 1.5)
        strategies.wait_for_workers(strategy_of(2))
    strategies._summation.cache_clear()
    # int32 [2]; float64 [1, 3] and [2, 3]; float32 [2] and [1].
    assert sorted(traces) == sorted(
        [("int32", 2), ("float64", 3), ("float64", 6), ("float32", 2), ("float32", 1)]
    )
    assert "retracing" not in caplog.text


def test_the_kind_of_the_devices_is_known():
    assert strategies.device_kind(strategy_of(1)) == "CPU"
    assert strategies.device_kind(strategy_of(2)) == "CPU"


def test_cpus_are_split_once(cpus):
    assert len(cpus) == 4
    strategies._split_cpu(4)
    assert len(tf.config.list_logical_devices("CPU")) == 4


@pytest.mark.parametrize(  # a CPU tells on some machines
    "device", ["/job:localhost/replica:0/task:0/device:GPU:0", "/job:w/task:1/device:TPU:7"]
)
def test_a_device_that_is_not_there_tells_no_memory(device):
    assert strategies.peak_bytes(device) is None


@pytest.mark.parametrize(
    ("told", "peak"),
    [({"current": 1, "peak": 3}, 3), ({"current": 1}, None), ({}, None), (None, None)],
)
def test_a_device_is_asked_by_its_short_name_and_may_tell_nothing(monkeypatch, told, peak):
    asked = []
    monkeypatch.setattr(
        tf.config.experimental, "get_memory_info", lambda name: asked.append(name) or told
    )
    assert strategies.peak_bytes("/job:worker/replica:0/task:1/device:GPU:1") == peak
    assert asked == ["GPU:1"]
