"""What each worker must compute on (--require), so that no job silently falls back to a CPU."""

import ctypes
import dataclasses
import re
from collections.abc import Callable
from typing import Any

from trainer.errors import InputError, RetryableError

FORM = re.compile(r"(cpu|gpu|tpu)(?::([1-9]\d{0,5}))?")
DRIVER = "libcuda.so.1"
TENSORFLOWS_PART = (
    "the driver finds one, but TensorFlow does not: it lacks CUDA's libraries, and its lines above "
    "say which; use the image's target gpu, or pip install tensorflow[and-cuda]"
)


@dataclasses.dataclass(frozen=True)
class Devices:
    """Devices of one worker.

    Attributes:
        kind: cpu, gpu or tpu; cores of a TPU count as TensorFlow counts them.
        number: of them; None if it does not matter, or is not known yet.
    """

    kind: str
    number: int | None

    def __str__(self) -> str:
        """Says it in words."""
        plural = "" if self.number in (None, 1) else "s"
        return f"{self.number or 'a'} {self.kind.upper()}{plural}"


def parse(text: str) -> Devices | None:
    """Returns what `--require` asks for; None if it is empty.

    Raises:
        InputError: it has another form.
    """
    if not text:
        return None
    found = FORM.fullmatch(text)
    if found is None:
        raise InputError(
            f"--require={text} is not a kind of device and how many each worker has; write gpu, "
            "gpu:8, tpu:4 or cpu."
        )
    return Devices(found[1], int(found[2]) if found[2] else None)


def check(text: str, found: Devices) -> None:
    """Refuses to compute on other devices than `--require` asks for.

    Args:
        text: of the flag.
        found: what this worker computes on.

    Raises:
        RetryableError: some are missing, as on a machine with a fault; another one may have them.
        InputError: they are of another kind, or too many, which another start would find again.
    """
    asked = parse(text)
    if asked is None:
        return
    words = f"--require={text}: this worker would compute on {found}"
    if asked.kind != found.kind:
        gpu = asked.kind == "gpu"
        remedy = why_no_gpu() if gpu else "hide the GPUs by CUDA_VISIBLE_DEVICES=-1"
        raise InputError(f"{words}, not on {asked}; {remedy}.")
    if asked.number is None or found.number is None or asked.number == found.number:
        return
    if found.number < asked.number:
        raise RetryableError(
            f"{words} only; use a machine that has them all, and a --strategy that uses them."
        )
    raise InputError(
        f"{words}; write --require={found.kind}:{found.number}, or hide the others by "
        "CUDA_VISIBLE_DEVICES."
    )


def why_no_gpu(load: Callable[[str], Any] = ctypes.CDLL) -> str:
    """Returns why TensorFlow finds no GPU, and what helps, by asking NVIDIA's driver itself."""
    try:
        driver = load(DRIVER)
    except OSError:
        return (
            f"NVIDIA's driver, {DRIVER}, is not found: on a machine with GPUs its folder must be "
            "in LD_LIBRARY_PATH (/usr/local/nvidia/lib64 on Vertex AI and GKE)"
        )
    status = driver.cuInit(0)
    if status:
        return f"NVIDIA's driver does not start: cuInit returns {status}; see nvidia-smi there"
    number = ctypes.c_int(0)
    driver.cuDeviceGetCount(ctypes.byref(number))
    if not number.value:
        return "NVIDIA's driver finds none; see nvidia-smi and CUDA_VISIBLE_DEVICES there"
    return TENSORFLOWS_PART
