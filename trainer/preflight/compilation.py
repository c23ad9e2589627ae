"""Has a program compiled in a process of its own, and keeps what came of it."""

import dataclasses
import functools
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import Any

from trainer import json_text
from trainer.errors import InputError
from trainer.preflight import hlo
from trainer.preflight.accelerators import Gpu, Tpu

# What each kind needs, and the extra that brings it.
NEEDS = {
    "TPU": (("jax", "libtpu"), "preflight"),
    "GPU": (("jax", "jax_cuda12_plugin"), "preflight-gpu"),
}

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TPU_SKIP_MDS_QUERY": "1",  # there is no metadata server to ask
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no TPU is used that another process could hold
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",  # there is no driver to check
}


# By which users change what compilers do.
COMPILER_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
    """What the compiler said.

    Attributes:
        flops: floating-point operations of the program as it was written.
        memory: bytes of `argument`, `output`, `alias`, `temp` and `generated_code`; None if the
            program does not fit into the chip.
        cost: of TPUs, the compiler's own count of `flops` and `bytes`.
        error: the compiler's report when the program does not fit.
        compiler: version of each package.
        seconds: that the compilation took.
        cached: whether it was read from the cache.
        folder: where it is cached.
    """

    flops: float
    memory: dict[str, int] | None = None
    cost: dict[str, float] = dataclasses.field(default_factory=dict)
    error: str = ""
    compiler: dict[str, str] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    cached: bool = False
    folder: str = ""

    @property
    def total(self) -> int | None:
        """Bytes that the program needs at once; None if only the compiler's report knows."""
        if self.memory is None:
            return _required(self.error)
        outputs = self.memory["output"] - self.memory["alias"]
        return sum(self.memory[name] for name in ("argument", "temp", "generated_code")) + outputs

    @functools.cached_property
    def module(self) -> hlo.Module:
        """The optimised program."""
        return hlo.parse(pathlib.Path(self.folder, "optimized.txt").read_text(encoding="utf-8"))


def check_installed(accelerator: Tpu | Gpu) -> None:
    """Raises InputError unless the accelerator's compiler is installed."""
    modules, extra = NEEDS[accelerator.kind]
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"{accelerator.title}'s compiler is not installed ({', '.join(missing)}); "
            f"install the extra {extra}: pip install 'unet-trainer[{extra}]'."
        )


def compile_program(program: bytes, accelerator: Tpu | Gpu, cache_dir: str) -> Compiled:
    """Compiles a serialized HLO module for one device, or finds it compiled.

    Args:
        program: the module.
        accelerator: the device.
        cache_dir: folder of what has been compiled; the user's own if empty.
    """
    cache = os.path.abspath(cache_dir or default_cache())
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: os.path.join(folder, name) for name in ("program", "answer", "request")}
        pathlib.Path(paths["program"]).write_bytes(program)
        flags = {name: os.environ[name] for name in COMPILER_FLAGS if name in os.environ}
        request = {**paths, "target": _target(accelerator), "flags": flags, "cache": cache}
        pathlib.Path(paths["request"]).write_text(json_text.dumps(request), encoding="utf-8")
        environment = {**os.environ, **ENVIRONMENT}
        if accelerator.kind == "GPU":
            environment["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_gpu_flags()])
        process = subprocess.run(
            [sys.executable, "-m", "trainer.preflight.compile", paths["request"]],
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if process.returncode or not os.path.exists(paths["answer"]):
            raise RuntimeError(
                f"The compiler of {accelerator.title} ended with status {process.returncode}:\n"
                + "\n".join(process.stderr.splitlines()[-30:])
            )
        answer = json.loads(pathlib.Path(paths["answer"]).read_text(encoding="utf-8"))
    found = json.loads(pathlib.Path(answer["folder"], "answer.json").read_text(encoding="utf-8"))
    return Compiled(**found, **answer)


def default_cache() -> str:
    """Returns the folder of what has been compiled, as the XDG rules name it."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(home, "unet-trainer", "preflight")


def _gpu_flags() -> list[str]:
    flags = ["--xla_gpu_autotune_level=0"]  # to time cuDNN's kernels would need the device
    has_toolkit = importlib.util.find_spec("nvidia") is not None
    toolkit = importlib.util.find_spec("nvidia.cuda_nvcc") if has_toolkit else None
    if toolkit and toolkit.submodule_search_locations:  # before a ptxas of the machine, of any age
        flags.append(f"--xla_gpu_cuda_data_dir={toolkit.submodule_search_locations[0]}")
    return flags


def _target(accelerator: Tpu | Gpu) -> dict[str, Any]:
    """Returns what `jax.experimental.topologies.get_topology_desc` takes."""
    if isinstance(accelerator, Tpu):
        return {
            "platform": "tpu",
            "topology_name": accelerator.topology,
            **accelerator.options,
        }
    return {
        "platform": "cuda",
        "topology_name": "one",
        "topology": "1x1x1",
        "target_config": _describe_gpu(accelerator),
    }


def _describe_gpu(gpu: Gpu) -> str:
    """Returns XLA's description of a GPU, a `GpuTargetConfigProto` as text."""
    major, minor = gpu.capability
    return f"""
        gpu_device_info {{
          threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
          shared_memory_per_core: {gpu.shared_memory} threads_per_core_limit: {gpu.threads}
          core_count: {gpu.processors} fpus_per_core: {gpu.float_units}
          block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
          memory_bandwidth: {gpu.bandwidth:.0f} l2_cache_size: {gpu.cache}
          clock_rate_ghz: {gpu.clock / 1e9:.3f} device_memory_size: {gpu.memory:.0f}
          shared_memory_per_block_optin: {gpu.block_memory}
          cuda_compute_capability {{ major: {major} minor: {minor} }}
          registers_per_core_limit: 65536 registers_per_block_limit: 65536
        }}
        platform_name: "CUDA"
        dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
        device_description_str: "{gpu.device}"
    """


def _required(report: str) -> int | None:
    """Returns the bytes that a compiler's report of too little memory says are needed."""
    found = re.search(r"[Uu]sed ([\d.]+)([KMGT]) of|temporaries \(([\d.]+)([KMGT])\)", report)
    if not found:
        return None
    number, unit = (found[1], found[2]) if found[1] else (found[3], found[4])
    return int(float(number) * 1024 ** ("KMGT".index(unit) + 1))
