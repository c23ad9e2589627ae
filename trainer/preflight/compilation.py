"""Compiles a program by an accelerator's own compiler, and caches the result.

The compiler has a process of its own, `python -m trainer.preflight.compilation REQUEST`, because
jax and TensorFlow, and the compilers of TPUs and GPUs, do not share one well, and because a
compiler that runs out of memory takes its process along.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

from trainer import json_text
from trainer.errors import InputError
from trainer.preflight import stablehlo
from trainer.preflight.accelerators import Gpu, Tpu

if TYPE_CHECKING:
    from tensorflow.compiler.xla.service import hlo_pb2

# What each kind's compiler consists of, and the extra that brings it.
PACKAGES = {
    "TPU": ("jax", "jaxlib", "libtpu"),
    "GPU": ("jax", "jaxlib", "jax-cuda12-plugin", "jax-cuda12-pjrt", "nvidia-cudnn-cu12"),
}
EXTRAS = {"TPU": "preflight", "GPU": "preflight-gpu"}

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

FIGURES = "compiled.json"
PROGRAM = "optimized.pb"
_COUNTER = re.compile(r"a_inference_\w+")  # in the program's name; differs between two lowerings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
    """What the compiler said.

    Attributes:
        memory: bytes of `argument`, `output`, `alias`, `temp` and `generated_code`; None if the
            program does not fit into the chip.
        bytes_accessed: by a TPU compiler's count, in which the body of a loop counts once.
        error: the compiler's report when the program does not fit.
        compiler: version of each package.
        seconds: that the compilation took.
        cached: whether it was read from the cache.
        folder: where it is cached.
    """

    memory: dict[str, int] | None = None
    bytes_accessed: float | None = None
    error: str = ""
    compiler: dict[str, str] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    cached: bool = False
    folder: str = ""

    @property
    def total(self) -> int | None:
        """Bytes that the program needs at once; None if not even the compiler's report says."""
        if self.memory is None:
            return _required(self.error)
        outputs = self.memory["output"] - self.memory["alias"]
        return sum(self.memory[name] for name in ("argument", "temp", "generated_code")) + outputs

    @functools.cached_property
    def module(self) -> "hlo_pb2.HloModuleProto":
        """The optimized program."""
        from tensorflow.compiler.xla.service import hlo_pb2

        return hlo_pb2.HloModuleProto.FromString(pathlib.Path(self.folder, PROGRAM).read_bytes())


def check_installed(accelerator: Tpu | Gpu) -> None:
    """Raises InputError unless the accelerator's compiler is installed."""
    if names := missing(accelerator):
        extra = EXTRAS[accelerator.kind]
        raise InputError(
            f"{accelerator.title}'s compiler is not installed ({', '.join(names)}); "
            f"install the extra {extra}: pip install 'unet-trainer[{extra}]'."
        )


def missing(accelerator: Tpu | Gpu) -> list[str]:
    """Returns the packages of the accelerator's compiler that are not installed."""
    return [name for name in PACKAGES[accelerator.kind] if not _is_installed(name)]


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def compile_program(program: bytes, accelerator: Tpu | Gpu, cache_dir: str) -> Compiled:
    """Compiles a serialized HLO module for one device, or finds it compiled.

    Args:
        program: the module.
        accelerator: the device.
        cache_dir: folder of what has been compiled; the user's own if empty.
    """
    with tempfile.TemporaryDirectory() as folder:
        request, answer = pathlib.Path(folder, "request"), pathlib.Path(folder, "answer")
        pathlib.Path(folder, "program").write_bytes(program)
        asked = {
            "kind": accelerator.kind,
            "target": _target(accelerator),
            "flags": {name: os.environ[name] for name in COMPILER_FLAGS if name in os.environ},
            "cache": os.path.abspath(cache_dir or default_cache()),
        }
        request.write_text(json_text.dumps(asked), encoding="utf-8")
        environment = {**os.environ, **ENVIRONMENT}
        if accelerator.kind == "GPU":
            environment["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_gpu_flags()])
        process = subprocess.run(
            [sys.executable, "-m", "trainer.preflight.compilation", folder],
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if process.returncode or not answer.exists():
            raise RuntimeError(
                f"The compiler of {accelerator.title} ended with status {process.returncode}:\n"
                + "\n".join(process.stderr.splitlines()[-30:])
            )
        found = json.loads(answer.read_text(encoding="utf-8"))
    figures = pathlib.Path(found["folder"], FIGURES).read_text(encoding="utf-8")
    return Compiled(**json.loads(figures), **found)


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


def answer(folder: str) -> None:
    """Answers a request, in the compiler's own process.

    Args:
        folder: has the `program` and the `request`, and is given the `answer`.
    """
    request = json.loads(pathlib.Path(folder, "request").read_text(encoding="utf-8"))
    program = pathlib.Path(folder, "program").read_bytes()
    versions = {name: importlib.metadata.version(name) for name in PACKAGES[request["kind"]]}
    key = _fingerprint(program, [request["target"], request["flags"], versions])
    place = pathlib.Path(request["cache"], key)
    figures = place / FIGURES
    cached = figures.exists()
    if not cached:
        place.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        result = _compile(program, request["target"], place / PROGRAM)
        result |= {"seconds": time.monotonic() - start, "compiler": versions}
        temporary = figures.with_suffix(f".{os.getpid()}")
        temporary.write_text(json_text.dumps(result), encoding="utf-8")
        temporary.replace(figures)  # last, so that an answer that is there is whole
    found = {"folder": str(place), "cached": cached}
    pathlib.Path(folder, "answer").write_text(json_text.dumps(found), encoding="utf-8")


def _fingerprint(program: bytes, settings: list[dict[str, Any]]) -> str:
    """Returns what programs that compile to the same have in common, and others have not."""
    from jax._src.lib import xla_client

    text = _COUNTER.sub("", xla_client.XlaComputation(program).as_hlo_text(True))
    whole = text + json_text.dumps(settings, sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()[:24]


def _compile(program: bytes, target: dict[str, Any], path: pathlib.Path) -> dict[str, Any]:
    """Compiles a serialized HLO module and writes the optimized one.

    Returns:
        `memory` in bytes; of a TPU `bytes_accessed`. Where the program does not fit: `error`, the
        compiler's report, alone.
    """
    import numpy as np
    from jax._src.lib import xla_client
    from jax.experimental import topologies
    from jaxlib import _jax

    device = topologies.get_topology_desc(**target).devices[0]
    options = xla_client.CompileOptions()
    options.num_replicas = options.num_partitions = 1
    options.device_assignment = xla_client.DeviceAssignment.create(np.array([[device.id]]))
    try:
        devices = _jax.DeviceList((device,))
        executable = device.client.compile(stablehlo.from_hlo(program), devices, options)
    except _jax.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "Ran out of memory" not in str(error):
            raise
        return {"error": str(error)}
    path.write_bytes(executable.hlo_modules()[0].as_serialized_hlo_module_proto())
    memory = executable.get_compiled_memory_stats()
    names = ("argument", "output", "alias", "temp", "generated_code")
    result = {"memory": {name: getattr(memory, f"{name}_size_in_bytes") for name in names}}
    if target["platform"] == "tpu":
        result["bytes_accessed"] = executable.cost_analysis()["bytes accessed"]
    return result


if __name__ == "__main__":
    answer(sys.argv[1])
