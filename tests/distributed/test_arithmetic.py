"""The arithmetic that is chosen, on each kind of device."""

import functools
import itertools
import math

import pytest

from tests.devices import strategy_of
from trainer.distributed import arithmetic, strategies
from trainer.errors import InputError


def choose(precision="auto", jit_compile="auto", number=1, **kinds):
    kinds = {"deterministic": False, **kinds}
    return arithmetic.choose_arithmetic(precision, jit_compile, strategy_of(number), **kinds)


def test_arithmetic_that_is_given_is_taken():
    assert choose("float16", "true") == ("float16", True)


def test_a_deterministic_run_does_not_depend_on_a_clock(monkeypatch):
    monkeypatch.setattr(arithmetic, "_time_small_step", lambda: None)  # calling it would raise
    assert choose(deterministic=True) == ("float32", False)


def test_the_faster_arithmetic_is_chosen_on_a_cpu(monkeypatch):
    seconds = {("float32", False): 3, ("bfloat16", False): 2, ("bfloat16", True): 1}
    monkeypatch.setattr(arithmetic, "_time_small_step", lambda *key, **kinds: seconds[key])
    assert choose() == ("bfloat16", True)
    assert choose(number=2, collective="--norm=sync_batch") == ("bfloat16", False)
    assert choose(number=1, collective="--norm=sync_batch") == ("bfloat16", True)


def test_the_arithmetic_is_chosen_by_a_step_of_the_data_s_rank_and_the_network_s_width(monkeypatch):
    # XLA and bfloat16 are faster on wide networks of images, and slower otherwise.
    seconds = {("bfloat16", False): 2, ("bfloat16", True): 1, ("float32", False): 3}
    others = {("float32", False): 1, ("float32", True): 10, ("bfloat16", False): 2}

    def times(precision, jit_compile, rank, filters):
        return (seconds if (rank, filters) == (2, 16) else others)[precision, jit_compile]

    monkeypatch.setattr(arithmetic, "_time_small_step", times)
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
        assert arithmetic._time_small_step(precision, jit_compile, rank, 4, repeats=1) > 0


def test_a_cpu_without_bfloat16_takes_float32_and_refuses_it_in_one_line(monkeypatch):
    def times(precision, jit_compile, rank, filters, repeats=3):
        return math.inf if precision == "bfloat16" else 1.0

    monkeypatch.setattr(arithmetic, "_time_small_step", times)
    choose = functools.partial(
        arithmetic.choose_arithmetic,
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
