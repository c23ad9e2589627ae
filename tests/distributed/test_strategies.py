"""Strategies, and one clear line for each thing that is missing."""

import functools
import inspect
import itertools
import json
import math
import types

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context

from tests.devices import strategy_of
from trainer.distributed import strategies, tracing
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


def choose(precision="auto", jit_compile="auto", number=1, **kinds):
    kinds = {"deterministic": False, **kinds}
    return strategies.choose_arithmetic(precision, jit_compile, strategy_of(number), **kinds)


def test_arithmetic_that_is_given_is_taken():
    assert choose("float16", "true") == ("float16", True)


def test_a_deterministic_run_does_not_depend_on_a_clock(monkeypatch):
    monkeypatch.setattr(strategies, "_time_small_step", lambda: None)  # calling it would raise
    assert choose(deterministic=True) == ("float32", False)


def test_the_faster_arithmetic_is_chosen_on_a_cpu(monkeypatch):
    seconds = {("float32", False): 3, ("bfloat16", False): 2, ("bfloat16", True): 1}
    monkeypatch.setattr(strategies, "_time_small_step", lambda *key, **kinds: seconds[key])
    assert choose() == ("bfloat16", True)
    assert choose(number=2, collective="--norm=sync_batch") == ("bfloat16", False)
    assert choose(number=1, collective="--norm=sync_batch") == ("bfloat16", True)


def test_the_arithmetic_is_chosen_by_a_step_of_the_data_s_rank_and_the_network_s_width(monkeypatch):
    # XLA and bfloat16 are faster on wide networks of images, and slower otherwise.
    seconds = {("bfloat16", False): 2, ("bfloat16", True): 1, ("float32", False): 3}
    others = {("float32", False): 1, ("float32", True): 10, ("bfloat16", False): 2}

    def times(precision, jit_compile, rank, filters):
        return (seconds if (rank, filters) == (2, 16) else others)[precision, jit_compile]

    monkeypatch.setattr(strategies, "_time_small_step", times)
    assert choose(rank=3, filters=16) == ("float32", False)
    assert choose(rank=2, filters=8) == ("float32", False)
    assert choose(rank=2, filters=16) == ("bfloat16", True)
    assert choose(rank=2, filters=64) == ("bfloat16", True)  # by 16, which take less long


def test_on_a_tpu_the_strategy_compiles_and_nothing_within_it(monkeypatch):
    monkeypatch.setattr(strategies, "device_kind", lambda strategy: "TPU")
    assert choose("bfloat16", "true", 2, collective="--norm=sync_batch") == ("bfloat16", False)


@pytest.mark.parametrize(
    ("number", "kinds", "obstacle"),
    [
        (1, {"deterministic": True}, "--deterministic"),
        (2, {"collective": "--norm=sync_batch"}, "--norm=sync_batch on several replicas"),
    ],
)
def test_xla_where_it_cannot_be_is_refused(number, kinds, obstacle):
    with pytest.raises(InputError) as error:
        choose("float32", "true", number, **kinds)
    assert str(error.value) == (
        f"--jit_compile=true does not go with {obstacle}; use --jit_compile=auto."
    )


@pytest.mark.slow
def test_the_small_step_can_be_timed_in_each_form():
    for precision, jit_compile, rank in itertools.product(
        ("float32", "bfloat16"), (False, True), (2, 3)
    ):
        assert strategies._time_small_step(precision, jit_compile, rank, 4, repeats=1) > 0


def test_a_cpu_without_bfloat16_takes_float32_and_refuses_it_in_one_line(monkeypatch):
    def times(precision, jit_compile, rank, filters, repeats=3):
        return math.inf if precision == "bfloat16" else 1.0

    monkeypatch.setattr(strategies, "_time_small_step", times)
    choose = functools.partial(
        strategies.choose_arithmetic,
        strategy=strategy_of(1),
        deterministic=False,
        collective="",
    )
    assert choose("auto", "false") == ("float32", False)
    with pytest.raises(InputError) as error:
        choose("bfloat16", "false")
    assert str(error.value) == (
        "--precision=bfloat16 cannot be computed by this CPU; use --precision=auto."
    )


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
