"""The arithmetic of a training step: in which precision, and whether XLA compiles it."""

import functools
import itertools
import math
import time
from collections.abc import Callable, Sequence

import tensorflow as tf

from trainer.distributed import strategies
from trainer.errors import InputError

WIDEST = 16  # filters of the step that is timed: wider networks choose as this one does
POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


def choose_arithmetic(
    precision: str,
    jit_compile: str,
    strategy: tf.distribute.Strategy,
    *,
    deterministic: bool,
    collective: str = "",
    rank: int = 2,
    filters: int = 16,
) -> tuple[str, bool]:
    """Returns (precision, whether to compile with XLA), `auto` being replaced by a choice.

    On accelerators the choice is known: bfloat16 on TPUs, and on GPUs that multiply it in
    hardware (compute capability 8 and later); XLA on both. CPUs differ by an order of magnitude in
    either direction, on images and volumes (`rank` 2 and 3), and by the channels of the first level
    (`filters`): with 8, bfloat16 can take twice as long as float32 where with 16 it takes two
    thirds. So there a small training step of that rank and width is timed in each form. Several
    workers must not choose differently, nor may a deterministic run depend on a clock: on CPUs both
    take float32 and no XLA.

    Raises:
        InputError: if a CPU is asked for bfloat16 that has none, or XLA where it cannot be:
            operations are `deterministic` (it has no such gradient of max-pooling), or the
            forward pass has a `collective` of several replicas, by the flag that asks for it
            (it cannot be inside XLA's program, but on TPUs).
    """
    kind = strategies.device_kind(strategy)
    if kind == "TPU":  # whose strategy compiles all of a replica's step, collectives included
        return ("bfloat16" if precision == "auto" else precision), False
    obstacle = "--deterministic" if deterministic else ""
    if collective and strategy.num_replicas_in_sync > 1:
        obstacle = f"{collective} on several replicas"
    if obstacle and jit_compile == "true":
        raise InputError(f"--jit_compile=true does not go with {obstacle}; use --jit_compile=auto.")
    measurable = kind == "CPU" and strategies.worker_of(strategy)[1] == 1 and not deterministic
    seconds = functools.partial(_time_small_step, rank=rank, filters=min(filters, WIDEST))
    if precision == "auto":
        if measurable:
            slow, fast = (seconds(p, False) for p in ("float32", "bfloat16"))
            precision = "bfloat16" if fast < slow else "float32"
        else:
            capability = _gpu_capability() if kind == "GPU" else (0, 0)
            precision = "bfloat16" if has_bfloat16(kind, capability) else "float32"
    elif precision == "bfloat16" and kind == "CPU" and not _computes(seconds, jit_compile):
        raise InputError(
            "--precision=bfloat16 cannot be computed by this CPU; use --precision=auto."
        )
    if obstacle:
        use_jit = False
    elif jit_compile == "auto":
        if measurable:
            compiled, plain = (seconds(precision, jit) for jit in (True, False))
            use_jit = compiled < plain
        else:
            use_jit = kind != "CPU"
    else:
        use_jit = jit_compile == "true"
    return precision, use_jit


def has_bfloat16(kind: str, capability: tuple[int, int] = (0, 0)) -> bool:
    """Returns whether a `GPU` of a compute capability, or a `TPU`, has bfloat16 in hardware."""
    return kind == "TPU" or (kind == "GPU" and capability >= (8, 0))


def _gpu_capability() -> tuple[int, int]:
    gpu = tf.config.list_physical_devices("GPU")[0]
    return tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))


def _computes(seconds: Callable[..., float], jit_compile: str) -> bool:
    return math.isfinite(seconds("bfloat16", jit_compile == "true", repeats=1))


def _time_small_step(
    precision: str, jit_compile: bool, rank: int, filters: int, repeats: int = 3
) -> float:
    """Returns the seconds of two levels of a U-Net of convolutions and fused batch norm.

    They go forward and backward. Infinity where the CPU, or what oneDNN may use of it, has no such
    convolution.
    """
    dtype = tf.as_dtype(precision)
    shape = {2: (8, 128, 128), 3: (2, 24, 24, 24)}[rank]
    images = tf.random.stateless_normal((*shape, filters), (0, 0))
    widths = (filters, filters, 2 * filters, 2 * filters)
    kernels = [
        tf.random.stateless_normal((*[3] * rank, before, after), (0, number)) / before**0.5
        for number, (before, after) in enumerate(itertools.pairwise((filters, *widths)))
    ]

    @tf.function(jit_compile=jit_compile, autograph=False)
    def small_step(images: tf.Tensor, kernels: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(kernels)
            x = tf.cast(images, dtype)
            for number, (kernel, width) in enumerate(zip(kernels, widths, strict=True)):
                if number == len(widths) // 2:
                    x = tf.nn.max_pool(x, 2, 2, "SAME")
                x = tf.nn.convolution(x, tf.cast(kernel, dtype), 1, "SAME")
                normalized, *_ = tf.compat.v1.nn.fused_batch_norm(
                    tf.reshape(x, (x.shape[0], -1, 1, width)), tf.ones(width), tf.zeros(width)
                )
                x = tf.nn.relu(tf.reshape(normalized, x.shape))
            loss = tf.reduce_mean(tf.square(tf.cast(x, tf.float32)))
        return tape.gradient(loss, kernels)  # all: TensorFlow leaves out what nobody takes

    try:
        small_step(images, kernels)
    except (tf.errors.AbortedError, tf.errors.UnimplementedError):
        return math.inf
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        small_step(images, kernels)[0].numpy()  # waits for the step
        seconds.append(time.perf_counter() - start)
    return min(seconds)
