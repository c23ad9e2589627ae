"""The arithmetic that is chosen, on each kind of device."""

import os
import subprocess
import sys

import pytest

from tests.devices import strategy_of
from trainer.distributed import arithmetic, strategies
from trainer.errors import InputError


def choose_precision(precision="auto", deterministic=False, rank=2):
    return arithmetic.choose_precision(
        precision, strategy_of(1), deterministic=deterministic, rank=rank
    )


def choose_xla(jit_compile="auto", number=1, deterministic=False, collective=""):
    return arithmetic.choose_xla(
        jit_compile, strategy_of(number), deterministic=deterministic, collective=collective
    )


@pytest.fixture
def able(monkeypatch):
    """Gives the CPU bfloat16, and takes what may limit it from the environment."""
    for name in arithmetic.LIMITS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(arithmetic, "_instructions", lambda: ["fpu", "avx512_bf16"])
    monkeypatch.setattr(arithmetic, "computes_bfloat16", lambda rank: True)


@pytest.mark.usefixtures("able")
@pytest.mark.parametrize("rank", [2, 3])
def test_a_cpu_with_bfloat16_takes_it_and_says_why(rank):
    assert choose_precision(rank=rank) == ("bfloat16", "this CPU has avx512_bf16")


@pytest.mark.usefixtures("able")
def test_a_cpu_whose_instructions_do_not_tell_takes_float32(monkeypatch):
    monkeypatch.setattr(arithmetic, "_instructions", lambda: ["fpu", "avx512f", "avx512_vnni"])
    expected = ("float32", "this CPU is not known to have avx512_bf16")
    assert choose_precision() == expected
    monkeypatch.setattr(arithmetic, "_instructions", lambda: [])
    assert choose_precision() == expected


def test_the_instructions_are_those_that_linux_names(tmp_path, monkeypatch):
    cpu = tmp_path / "cpuinfo"
    monkeypatch.setattr(arithmetic, "CPU_INFO", cpu)
    assert arithmetic._instructions() == []
    cpu.write_text("processor\t: 0\nflags\t\t: fpu avx512_bf16\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    assert arithmetic._instructions()[-2:] == ["fpu", "avx512_bf16"]
    cpu.write_text("processor\t: 0\nFeatures\t: fp asimd bf16\n")  # of another make
    assert arithmetic._instructions() == []


@pytest.mark.usefixtures("able")
@pytest.mark.parametrize(
    ("name", "limit", "none"),
    [
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE", "all"),
        ("DNNL_MAX_CPU_ISA", "AVX2", "DEFAULT"),
        ("TF_ENABLE_ONEDNN_OPTS", "0", "1"),
    ],
)
def test_a_cpu_that_onednn_may_not_use_whole_takes_float32(monkeypatch, name, limit, none):
    monkeypatch.setenv(name, none)
    assert choose_precision()[0] == "bfloat16"
    monkeypatch.setenv(name, limit)
    assert choose_precision() == (
        "float32",
        f"{name}={limit} limits what oneDNN may use of this CPU",
    )


@pytest.mark.usefixtures("able")
def test_a_cpu_that_does_not_compute_what_it_has_takes_float32(monkeypatch):
    monkeypatch.setattr(arithmetic, "computes_bfloat16", lambda rank: rank == 2)
    assert choose_precision(rank=2)[0] == "bfloat16"
    assert choose_precision(rank=3) == (
        "float32",
        "this CPU has avx512_bf16, but TensorFlow does not compute with it",
    )


@pytest.mark.usefixtures("able")
def test_what_must_not_depend_on_the_machine_takes_float32(monkeypatch):
    assert choose_precision(deterministic=True) == (
        "float32",
        "with --deterministic every CPU takes it",
    )
    monkeypatch.setattr(strategies, "worker_of", lambda strategy: (1, 2))
    assert choose_precision() == ("float32", "the CPUs of several workers may differ")


def test_a_precision_that_is_given_is_taken_without_a_reason(monkeypatch):
    monkeypatch.setattr(arithmetic, "computes_bfloat16", lambda rank: True)
    for precision in arithmetic.POLICIES:
        assert choose_precision(precision) == (precision, "")


def test_bfloat16_that_a_cpu_does_not_compute_is_refused(monkeypatch):
    monkeypatch.setattr(arithmetic, "computes_bfloat16", lambda rank: False)
    with pytest.raises(InputError) as error:
        choose_precision("bfloat16")
    assert str(error.value) == ("bfloat16 cannot be computed by this CPU; use --precision=float32.")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="oneDNN is limited on x86 under Linux")
def test_whether_a_cpu_computes_bfloat16_is_tried():
    program = (
        "from trainer.distributed import arithmetic\n"
        "print(*(arithmetic.computes_bfloat16(rank) for rank in (2, 3)))"
    )
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "1", "ONEDNN_MAX_CPU_ISA": "SSE41"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


@pytest.mark.parametrize(
    ("kind", "capability", "expected"),
    [
        ("TPU", (0, 0), ("bfloat16", "this TPU multiplies it in hardware")),
        ("GPU", (8, 0), ("bfloat16", "this GPU multiplies it in hardware")),
        *(
            ("GPU", early, ("float16", "this GPU multiplies it in hardware, and not bfloat16"))
            for early in ((7, 0), (7, 5))
        ),
        ("GPU", (6, 1), ("float32", "this GPU multiplies nothing shorter in hardware")),
    ],
)
def test_an_accelerator_takes_what_it_multiplies(monkeypatch, kind, capability, expected):
    monkeypatch.setattr(strategies, "device_kind", lambda strategy: kind)
    monkeypatch.setattr(arithmetic, "_gpu_capability", lambda: capability)
    assert choose_precision() == expected


def test_xla_is_for_gpus_unless_a_flag_says_so(monkeypatch):
    assert [choose_xla(given) for given in ("auto", "true", "false")] == [False, True, False]
    monkeypatch.setattr(strategies, "device_kind", lambda strategy: "GPU")
    assert [choose_xla(given) for given in ("auto", "true", "false")] == [True, True, False]
    assert not choose_xla(deterministic=True)
    assert not choose_xla(number=2, collective="--norm=sync_batch")
    assert choose_xla(number=1, collective="--norm=sync_batch")


def test_on_a_tpu_the_strategy_compiles_and_nothing_within_it(monkeypatch):
    monkeypatch.setattr(strategies, "device_kind", lambda strategy: "TPU")
    assert not choose_xla("true", 2, collective="--norm=sync_batch")


@pytest.mark.parametrize(
    ("number", "kinds", "obstacle"),
    [
        (1, {"deterministic": True}, "--deterministic"),
        (2, {"collective": "--norm=sync_batch"}, "--norm=sync_batch on several replicas"),
    ],
)
def test_xla_where_it_cannot_be_is_refused(number, kinds, obstacle):
    with pytest.raises(InputError) as error:
        choose_xla("true", number, **kinds)
    assert str(error.value) == (
        f"--jit_compile=true does not go with {obstacle}; use --jit_compile=auto."
    )
