"""The arithmetic of a training step: in which precision, and whether XLA compiles it."""

import os
import pathlib

import tensorflow as tf

from trainer.distributed import strategies
from trainer.errors import InputError

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
# Linux's name of the instruction with which bfloat16 was faster than float32 for networks of every
# width, of images and of volumes; on a CPU without it, it took longer (docs/performance.md).
INSTRUCTION = "avx512_bf16"
CPU_INFO = pathlib.Path("/proc/cpuinfo")
# Variables by which a user keeps oneDNN from what a CPU has, and their values that do not.
LIMITS = {
    "TF_ENABLE_ONEDNN_OPTS": ("1", "TRUE"),
    "ONEDNN_MAX_CPU_ISA": ("ALL", "DEFAULT"),
    "DNNL_MAX_CPU_ISA": ("ALL", "DEFAULT"),
}


def choose_precision(
    precision: str,
    strategy: tf.distribute.Strategy,
    *,
    deterministic: bool,
    rank: int = 2,
) -> tuple[str, str]:
    """Returns (precision, why it is that one), `auto` being replaced by a choice.

    On accelerators it is bfloat16 where they multiply it in hardware: on TPUs, and on GPUs of
    compute capability 8 and later; on those of 7, such as V100 and T4, float16. On CPUs it is
    bfloat16 where they have INSTRUCTION and oneDNN may use it. Several workers must not choose
    differently, nor a deterministic run by the machine it is on: on CPUs both take float32.

    Args:
        precision: a key of POLICIES, or `auto`.
        strategy: the devices.
        deterministic: whether operations are.
        rank: number of spatial axes of the images.

    Returns:
        A key of POLICIES, and a clause; it is empty unless `precision` is `auto`.

    Raises:
        InputError: if a CPU is asked for bfloat16 that cannot compute it.
    """
    kind = strategies.device_kind(strategy)
    if precision == "auto":
        if kind != "CPU":
            return precision_of(kind, _gpu_capability() if kind == "GPU" else (0, 0))
        if strategies.worker_of(strategy)[1] > 1:
            return "float32", "the CPUs of several workers may differ"
        if deterministic:
            return "float32", "with --deterministic every CPU takes it"
        return _of_cpu(rank)
    if precision == "bfloat16" and kind == "CPU" and not computes_bfloat16(rank):
        raise InputError("bfloat16 cannot be computed by this CPU; use --precision=float32.")
    return precision, ""


def choose_xla(
    jit_compile: str, strategy: tf.distribute.Strategy, *, deterministic: bool, collective: str = ""
) -> bool:
    """Returns whether XLA compiles the step, where `auto` is: on GPUs.

    On CPUs oneDNN's kernels were faster in each step that was measured (docs/performance.md). A
    TPU's strategy compiles all of a replica's step, collectives included, and nothing within it.

    Args:
        jit_compile: `auto`, `true` or `false`.
        strategy: the devices.
        deterministic: whether operations are.
        collective: of several replicas in the forward pass that XLA cannot compile, by the flag
            that asks for it.

    Raises:
        InputError: if XLA is asked for where it cannot be: operations are deterministic (it has no
            such gradient of max-pooling), or several replicas have a collective.
    """
    kind = strategies.device_kind(strategy)
    if kind == "TPU":
        return False
    obstacle = "--deterministic" if deterministic else ""
    if collective and strategy.num_replicas_in_sync > 1:
        obstacle = f"{collective} on several replicas"
    if obstacle and jit_compile == "true":
        raise InputError(f"--jit_compile=true does not go with {obstacle}; use --jit_compile=auto.")
    wanted = kind == "GPU" if jit_compile == "auto" else jit_compile == "true"
    return wanted and not obstacle


def precision_of(kind: str, capability: tuple[int, int] = (0, 0)) -> tuple[str, str]:
    """Returns (precision, why) for a `TPU`, or a `GPU` of a compute capability."""
    if kind == "TPU" or capability >= (8, 0):
        return "bfloat16", f"this {kind} multiplies it in hardware"
    if capability >= (7, 0):
        return "float16", f"this {kind} multiplies it in hardware, and not bfloat16"
    return "float32", f"this {kind} multiplies nothing shorter in hardware"


def computes_bfloat16(rank: int) -> bool:
    """Returns whether this CPU, by what oneDNN may use of it, computes such a convolution."""
    try:
        with tf.device("/CPU:0"):
            image = tf.ones((1, *[4] * rank, 16), tf.bfloat16)
            kernel = tf.ones((*[3] * rank, 16, 16), tf.bfloat16)
            tf.nn.convolution(image, kernel, 1, "SAME")
    except (tf.errors.AbortedError, tf.errors.UnimplementedError):
        return False
    return True


def _of_cpu(rank: int) -> tuple[str, str]:
    for name, harmless in LIMITS.items():
        value = os.environ.get(name, "")
        if value and value.upper() not in harmless:
            return "float32", f"{name}={value} limits what oneDNN may use of this CPU"
    if INSTRUCTION not in _instructions():
        return "float32", f"this CPU is not known to have {INSTRUCTION}"
    if not computes_bfloat16(rank):
        return "float32", f"this CPU has {INSTRUCTION}, but TensorFlow does not compute with it"
    return "bfloat16", f"this CPU has {INSTRUCTION}"


def _instructions() -> list[str]:
    """Returns what Linux says of the first CPU; nothing elsewhere."""
    try:
        lines = CPU_INFO.read_text().splitlines()
    except OSError:
        return []
    return next((line.split() for line in lines if line.startswith("flags")), [])


def _gpu_capability() -> tuple[int, int]:
    gpu = tf.config.list_physical_devices("GPU")[0]
    return tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
