"""The accelerators: their memory, and how each is described to its compiler.

Figures are those of the makers' documents named in SOURCES, of chips as Google Cloud rents them,
noted in November 2026. Details of T4 and L4 are from memory. Nothing here was measured.
"""

import dataclasses
from collections.abc import Mapping

GIB = 2**30

SOURCES = (
    "https://cloud.google.com/tpu/docs/system-architecture-tpu-vm and the page of each version: "
    "peak, memory",
    "https://doi.org/10.1145/3360307 (Jouppi et al., 2020) and "
    "https://arxiv.org/abs/2304.01433 (Jouppi et al., 2023): clocks of TPU v2, v3 and v4; those of "
    "the later ones are peak / (operations per cycle of their matrix units)",
    "https://www.nvidia.com: data sheets of T4, V100 (SXM2 16 GB), A100 (SXM4), L4, H100 (SXM5), "
    "H200 (SXM5) and HGX B200: bandwidth",
    "https://github.com/openxla/xla, xla/backends/gpu/target_config/specs: processors, caches and "
    "limits of the GPUs; of T4 and L4 NVIDIA's architecture white papers (Turing, Ada)",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accelerator:
    """A chip that can be rented.

    Attributes:
        kind: "TPU" or "GPU".
        title: its name, for people.
        memory: bytes of the chip's memory, per replica.
        reserved: bytes of it that a program cannot have.
        replicas: of TensorFlow per chip.
        note: what to know before choosing it.
    """

    kind: str
    title: str
    memory: float
    reserved: float
    replicas: int = 1
    note: str = ""

    @property
    def usable(self) -> float:
        """Bytes of the memory that a program can have."""
        return self.memory - self.reserved


# What driver and TensorFlow keep of a GPU's memory: gpu_device.cc leaves 0.3 to 1.8 GiB by compute
# capability; the largest is taken.
GPU_RESERVE = 1.8 * GIB


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tpu(Accelerator):
    """A TPU.

    Attributes:
        topology: the smallest slice that its compiler knows.
        options: of that topology.
        clock: cycles per second.
        peak: operations per second of a replica's matrix units, which multiply in bfloat16.
    """

    kind: str = "TPU"
    topology: str
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    clock: float
    peak: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gpu(Accelerator):
    """A GPU.

    Attributes:
        device: its name, as its driver gives it.
        capability: compute capability.
        processors: streaming multiprocessors.
        float_units: float32 units of each processor.
        threads: most that a processor holds.
        shared_memory: bytes of each processor.
        block_memory: bytes of it that a block may take.
        cache: bytes of level 2.
        clock: cycles per second.
        bandwidth: bytes per second between memory and chip.
    """

    kind: str = "GPU"
    reserved: float = GPU_RESERVE
    device: str
    capability: tuple[int, int]
    processors: int
    float_units: int
    threads: int = 2048
    shared_memory: int
    block_memory: int
    cache: int
    clock: float
    bandwidth: float


# The compiler of libtpu 0.0.51 names the usable memory when a program does not fit.
_TPUS = {
    name: Tpu(
        title=f"TPU {name}",
        topology=f"{name}:{slice_}",
        replicas=replicas,
        memory=memory * GIB,
        reserved=reserved * GIB,
        peak=peak * 1e12,
        clock=clock * 1e9,
    )
    for name, slice_, replicas, memory, reserved, peak, clock in (
        ("v2", "2x2", 2, 8, 0.52, 22.5, 0.7),
        ("v3", "2x2", 2, 16, 0.52, 61.5, 0.94),
        ("v4", "2x2x1", 1, 32, 1.25, 275, 1.05),
        ("v5e", "1x1", 1, 16, 0.25, 197, 1.5),
        ("v5p", "1x1x1", 1, 95.73, 0, 459, 1.75),
        ("v6e", "1x1", 1, 32, 0.76, 918, 1.75),
    )
}
# Both cores of a v4 are one replica.
_TPUS["v4"] = dataclasses.replace(_TPUS["v4"], options={"chip_config_name": "megacore"})
_TPUS["v6e"] = dataclasses.replace(
    _TPUS["v6e"], note="TensorFlow is not supported there, see docs/tpu.md."
)

_GPUS = {
    "t4": Gpu(
        title="NVIDIA T4 16 GB",
        device="Tesla T4",
        capability=(7, 5),
        processors=40,
        float_units=64,
        threads=1024,
        shared_memory=65536,
        block_memory=65536,
        cache=4 * 2**20,
        clock=1.59e9,
        memory=15.6e9,
        bandwidth=320e9,
    ),
    "v100": Gpu(
        title="NVIDIA V100 SXM2 16 GB",
        device="Tesla V100-SXM2-16GB",
        capability=(7, 0),
        processors=80,
        float_units=64,
        shared_memory=98304,
        block_memory=98304,
        cache=6 * 2**20,
        clock=1.53e9,
        memory=16935682048,
        bandwidth=900e9,
    ),
    "a100-40": Gpu(
        title="NVIDIA A100 SXM4 40 GB",
        device="NVIDIA A100-SXM4-40GB",
        capability=(8, 0),
        processors=108,
        float_units=64,
        shared_memory=167936,
        block_memory=166912,
        cache=40 * 2**20,
        clock=1.41e9,
        memory=42331013120,
        bandwidth=1555e9,
    ),
    "l4": Gpu(
        title="NVIDIA L4 24 GB",
        device="NVIDIA L4",
        capability=(8, 9),
        processors=58,
        float_units=128,
        threads=1536,
        shared_memory=102400,
        block_memory=101376,
        cache=48 * 2**20,
        clock=2.04e9,
        memory=23.6e9,
        bandwidth=300e9,
    ),
    "h100": Gpu(
        title="NVIDIA H100 SXM5 80 GB",
        device="NVIDIA H100 80GB HBM3",
        capability=(9, 0),
        processors=132,
        float_units=128,
        shared_memory=233472,
        block_memory=232448,
        cache=50 * 2**20,
        clock=1.98e9,
        memory=84942979072,
        bandwidth=3350e9,
    ),
    "b200": Gpu(
        title="NVIDIA B200 SXM6 180 GB",
        device="NVIDIA B200",
        capability=(10, 0),
        processors=148,
        float_units=128,
        shared_memory=233472,
        block_memory=232448,
        cache=132644864,
        clock=1.965e9,
        memory=191514411008,
        bandwidth=7700e9,
    ),
}
_GPUS["a100-80"] = dataclasses.replace(
    _GPUS["a100-40"],
    title="NVIDIA A100 SXM4 80 GB",
    device="NVIDIA A100-SXM4-80GB",
    memory=85100068864,
    bandwidth=2039e9,
)
_GPUS["h200"] = dataclasses.replace(
    _GPUS["h100"],
    title="NVIDIA H200 SXM5 141 GB",
    device="NVIDIA H200 141GB HBM3e",
    memory=151397597184,
    bandwidth=4800e9,
)

ACCELERATORS: Mapping[str, Tpu | Gpu] = {**_TPUS, **_GPUS}
