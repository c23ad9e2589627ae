"""The accelerators: what each can do at best, and how it is described to its compiler.

Figures are those of the makers' documents named in SOURCES, of chips as Google Cloud rents them,
noted in November 2026. The peaks, bandwidths and links of NVIDIA's chips were first noted from
memory; all but the links of T4 and L4 (their PCIe) then compared with CHECKED_AGAINST. Details of
T4 and L4, and the links of TPU v2 and v3, are still from memory. Nothing here was measured.
"""

import dataclasses
from collections.abc import Mapping

GIB = 2**30

SOURCES = (
    "https://cloud.google.com/tpu/docs/system-architecture-tpu-vm and the page of each version: "
    "peak, memory, bandwidth, interconnect",
    "https://doi.org/10.1145/3360307 (Jouppi et al., 2020) and "
    "https://arxiv.org/abs/2304.01433 (Jouppi et al., 2023): clocks of TPU v2, v3 and v4; those of "
    "the later ones are peak / (operations per cycle of their matrix units)",
    "https://www.nvidia.com: data sheets of T4, V100 (SXM2 16 GB), A100 (SXM4), L4, H100 (SXM5), "
    "H200 (SXM5) and HGX B200; peaks without sparsity",
    "https://github.com/openxla/xla, xla/backends/gpu/target_config/specs: processors, caches and "
    "limits of the GPUs; of T4 and L4 NVIDIA's architecture white papers (Turing, Ada)",
    "https://cloud.google.com/compute/docs/gpus/gpu-network-bandwidth: network of GPU machines",
)

CHECKED_AGAINST = (
    "https://glennklockwood.com/garden/processors: A100, h100 and B200, quoting NVIDIA's data "
    "sheets and white papers: A100 312 and TF32 156 TFLOP/s, 1.555 and 2.039 TB/s, 300 GB/s "
    "each way; H100 989.4, 494.7, 3.35 TB/s, 900 GB/s both ways; HGX B200 2250, 1100, 8 TB/s at "
    "most (HGX: 7.7), 900 GB/s each way",
    "https://www.saulelectric.com/nvidia-h200.html: H200 4.8 TB/s, 450 GB/s each way",
    "https://jingchaozhang.github.io/A100-white-paper: 300, 600 and 900 GB/s both ways of V100, "
    "A100 and H100",
    "https://developer.nvidia.com/programming-tensor-cores-cuda-9-0: V100 125 TFLOP/s; "
    "https://grokipedia.opelly.me/articles/nvidia-tesla-v100: float32 15.7; "
    "https://sysrqmts.com/es/gpus/compare/nvidia-tesla-t4-vs-nvidia-tesla-v100-sxm3-32-gb: T4 "
    "65.13, 8.141, 320 GB/s, and V100's 897 GB/s",
    "https://store.sourcecode.com/en-us/bg-bucket-compare/125/9820: L4 300 GB/s, TF32 120 TFLOP/s "
    "with sparsity, half of it without; its 121 in bfloat16 is 58 processors × 1024 operations × "
    "2.04 GHz",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accelerator:
    """A chip that can be rented.

    Attributes:
        kind: "TPU" or "GPU".
        title: its name, for people.
        memory: bytes of the chip's memory, per replica.
        usable: bytes of it that a program can have.
        peak: operations per second in matrix units, of bfloat16 and of other types that have
            another rate, per replica.
        bandwidth: bytes per second between memory and chip, per replica.
        replicas: of TensorFlow per chip.
        interconnect: bytes per second that one replica sends, over all its links to others.
        host_chips: chips that the interconnect joins; more of them talk over the network.
        network: bytes per second that such a group sends over the network.
        note: what to know before choosing it.
    """

    kind: str
    title: str
    memory: float
    usable: float
    peak: Mapping[str, float]
    bandwidth: float
    interconnect: float
    replicas: int = 1
    host_chips: int = 8
    network: float = 0.0
    note: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tpu(Accelerator):
    """A TPU.

    Attributes:
        topology: the smallest slice that its compiler knows.
        options: of that topology.
        clock: cycles per second.
    """

    kind: str = "TPU"
    topology: str
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    clock: float


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
    """

    kind: str = "GPU"
    device: str
    capability: tuple[int, int]
    processors: int
    float_units: int
    threads: int = 2048
    shared_memory: int
    block_memory: int
    cache: int
    clock: float


# What the driver and TensorFlow keep of a GPU's memory: gpu_device.cc leaves 0.3 to 1.8 GiB by
# compute capability; the largest is taken.
GPU_RESERVE = 1.8 * GIB

# The limits named by the compiler of libtpu 0.0.51 when a program does not fit.
_TPUS = {
    "v2": Tpu(
        title="TPU v2",
        topology="v2:2x2",
        memory=8 * GIB,
        usable=7.48 * GIB,
        peak={"bf16": 22.5e12},
        bandwidth=350e9,
        clock=0.7e9,
        replicas=2,
        interconnect=125e9,
        host_chips=256,
    ),
    "v3": Tpu(
        title="TPU v3",
        topology="v3:2x2",
        memory=16 * GIB,
        usable=15.48 * GIB,
        peak={"bf16": 61.5e12},
        bandwidth=450e9,
        clock=0.94e9,
        replicas=2,
        interconnect=164e9,
        host_chips=1024,
    ),
    "v4": Tpu(
        title="TPU v4",
        topology="v4:2x2x1",
        options={"chip_config_name": "megacore"},  # both cores of a chip are one replica
        memory=32 * GIB,
        usable=30.75 * GIB,
        peak={"bf16": 275e12},
        bandwidth=1200e9,
        clock=1.05e9,
        interconnect=300e9,
        host_chips=4096,
    ),
    "v5e": Tpu(
        title="TPU v5e",
        topology="v5e:1x1",
        memory=16 * GIB,
        usable=15.75 * GIB,
        peak={"bf16": 197e12},
        bandwidth=819e9,
        clock=1.5e9,
        interconnect=200e9,
        host_chips=256,
    ),
    "v5p": Tpu(
        title="TPU v5p",
        topology="v5p:1x1x1",
        memory=95.73 * GIB,
        usable=95.73 * GIB,
        peak={"bf16": 459e12},
        bandwidth=2765e9,
        clock=1.75e9,
        interconnect=600e9,
        host_chips=8960,
    ),
    "v6e": Tpu(
        title="TPU v6e",
        topology="v6e:1x1",
        memory=32 * GIB,
        usable=31.24 * GIB,
        peak={"bf16": 918e12},
        bandwidth=1638e9,
        clock=1.75e9,
        interconnect=400e9,
        host_chips=256,
        note="TensorFlow does not run there.",
    ),
}

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
        usable=15.6e9 - GPU_RESERVE,
        peak={"f16": 65e12, "bf16": 8.1e12, "f32": 8.1e12},
        bandwidth=320e9,
        interconnect=16e9,
        host_chips=4,
        network=12.5e9,
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
        usable=16935682048 - GPU_RESERVE,
        peak={"f16": 125e12, "bf16": 15.7e12, "f32": 15.7e12},
        bandwidth=900e9,
        interconnect=150e9,
        network=12.5e9,
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
        usable=42331013120 - GPU_RESERVE,
        peak={"bf16": 312e12, "f16": 312e12, "f32": 156e12},
        bandwidth=1555e9,
        interconnect=300e9,
        network=12.5e9,
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
        usable=23.6e9 - GPU_RESERVE,
        peak={"bf16": 121e12, "f16": 121e12, "f32": 60e12},
        bandwidth=300e9,
        interconnect=32e9,
        network=12.5e9,
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
        usable=84942979072 - GPU_RESERVE,
        peak={"bf16": 989e12, "f16": 989e12, "f32": 494e12},
        bandwidth=3350e9,
        interconnect=450e9,
        network=125e9,
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
        usable=191514411008 - GPU_RESERVE,
        peak={"bf16": 2250e12, "f16": 2250e12, "f32": 1100e12},
        bandwidth=7700e9,
        interconnect=900e9,
        network=400e9,
    ),
}
_GPUS["a100-80"] = dataclasses.replace(
    _GPUS["a100-40"],
    title="NVIDIA A100 SXM4 80 GB",
    device="NVIDIA A100-SXM4-80GB",
    memory=85100068864,
    usable=85100068864 - GPU_RESERVE,
    bandwidth=2039e9,
)
_GPUS["h200"] = dataclasses.replace(
    _GPUS["h100"],
    title="NVIDIA H200 SXM5 141 GB",
    device="NVIDIA H200 141GB HBM3e",
    memory=151397597184,
    usable=151397597184 - GPU_RESERVE,
    bandwidth=4800e9,
    network=400e9,
)

ACCELERATORS: Mapping[str, Tpu | Gpu] = {**_TPUS, **_GPUS}


def peak_of(accelerator: Accelerator, dtype: str) -> float:
    """Returns operations per second in matrix units for values of XLA's type `dtype`.

    float32 is multiplied in TF32 on GPUs that have it, and in bfloat16 on TPUs, as TensorFlow does
    unless told otherwise.
    """
    return accelerator.peak.get(dtype, accelerator.peak["bf16"])
