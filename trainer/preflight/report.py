"""What preflight says: as text for people, as JSON for programs."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from trainer import config
from trainer.preflight.accelerators import GIB, Accelerator, Gpu, Tpu, peak_of
from trainer.preflight.compilation import Compiled
from trainer.preflight.estimate import Operation
from trainer.preflight.lowering import Lowered
from trainer.preflight.memory import Padding
from trainer.preflight.scaling import Scaling

TOP = 10
TYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}

QUALITY = {
    "TPU": "Times are the TPU compiler's own estimate (cycles / clock); nobody has compared them "
    "with a TPU here. Input from the host is not in them.",
    "GPU": "Times are a roofline: each kernel at peak arithmetic or full bandwidth; published runs "
    "reached 41 to 61 % of it with matrix units, 112 % without (docs/preflight.md). cuDNN's "
    "workspaces and input from the host are not in them.",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Findings:
    """All that was found out about a step that fits.

    Attributes:
        job: the settings.
        accelerator: the chip.
        chips: among which the batch is divided.
        lowered: the program.
        compiled: what its compiler said.
        padding: waste in its memory.
        operations: what it does, the costliest first.
        scalings: the chips that were asked for, then more.
        advice: lines.
    """

    job: config.Job
    accelerator: Tpu | Gpu
    chips: int
    lowered: Lowered
    compiled: Compiled
    padding: Padding
    operations: Sequence[Operation]
    scalings: Sequence[Scaling]
    advice: Sequence[str]

    @property
    def step_seconds(self) -> float:
        """Estimate of a replica's step, without the sums over all replicas."""
        return sum(operation.seconds for operation in self.operations)

    @property
    def gigabytes(self) -> float:
        """Read and written per step; of a TPU its compiler's count."""
        traffic = sum(operation.bytes for operation in self.operations)
        return self.compiled.cost.get("bytes", traffic) / 1e9

    @property
    def mfu(self) -> float:
        """Share of the chip's peak that the network's own arithmetic takes."""
        peak = peak_of(self.accelerator, TYPES[self.lowered.precision])
        return self.lowered.flops / (self.step_seconds * peak)

    @property
    def epoch_hours(self) -> float:
        """Of the training split, on the chips that were asked for."""
        return self.lowered.num_examples / self.scalings[0].images_per_second / 3600


def as_json(found: Findings) -> dict[str, Any]:
    """Returns the figures of a step that fits."""
    lowered, here = found.lowered, found.scalings[0]
    return {
        **_head(found.accelerator, found.chips, found.compiled, lowered),
        "fits": True,
        "memory_gib": {
            **_memory(found.compiled),
            **{name: size / GIB for name, size in lowered.sizes.items()},
            "padding": (found.padding.arguments + found.padding.temporary) / GIB,
        },
        "step_ms_estimate": 1e3 * found.step_seconds,
        "images_per_second_estimate": here.images_per_second,
        "mfu_estimate": found.mfu,
        "tflop": found.lowered.flops / 1e12,
        "tflop_compiled": found.compiled.flops / 1e12,
        "gb_accessed": found.gigabytes,
        "top_ops": [
            {
                "name": operation.name,
                "share": operation.seconds / found.step_seconds,
                "ms_estimate": 1e3 * operation.seconds,
                "limited_by": operation.limit,
                "shape": operation.shape,
            }
            for operation in found.operations[:TOP]
        ],
        "all_reduce": {
            "bytes_per_step": lowered.reduced,
            "chips": [
                {
                    "chips": scaling.chips,
                    "ms_estimate": 1e3 * scaling.reduce_seconds,
                    "images_per_second_estimate": scaling.images_per_second,
                    "efficiency_estimate": scaling.efficiency,
                }
                for scaling in found.scalings
            ],
        },
        "epoch_hours_estimate": found.epoch_hours,
        "advice": list(found.advice),
    }


def as_json_without_room(
    accelerator: Accelerator, chips: int, compiled: Compiled, lowered: Lowered
) -> dict[str, Any]:
    """Returns the figures of a step that does not fit; what only a compiled one has is null."""
    return {
        **_head(accelerator, chips, compiled, lowered),
        "fits": False,
        "memory_gib": _memory(compiled),
        "step_ms_estimate": None,
        "images_per_second_estimate": None,
        "mfu_estimate": None,
        "tflop": lowered.flops / 1e12,
        "tflop_compiled": compiled.flops / 1e12,
        "gb_accessed": None,
        "top_ops": [],
        "advice": [],
    }


def _head(
    accelerator: Accelerator, chips: int, compiled: Compiled, lowered: Lowered
) -> dict[str, Any]:
    return {
        "accelerator": accelerator.title,
        "chips": chips,
        "replicas": chips * accelerator.replicas,
        "batch_size": lowered.batch_size * chips * accelerator.replicas,
        "batch_size_per_replica": lowered.batch_size,
        "precision": lowered.precision,
        "chip_memory_gib": accelerator.memory / GIB,
        "usable_memory_gib": accelerator.usable / GIB,
        "compiler": compiled.compiler,
        "compile_seconds": compiled.seconds,
        "note": accelerator.note,
    }


def _memory(compiled: Compiled) -> dict[str, float | None]:
    memory = compiled.memory
    return {
        "arguments": memory["argument"] / GIB if memory else None,
        "temporary": memory["temp"] / GIB if memory else None,
        "total": compiled.total / GIB if compiled.total is not None else None,
    }


def as_text(found: Findings) -> str:
    """Returns the lines for people."""
    return "\n".join(
        [*_title(found), "", *_memory_lines(found), "", *_time_lines(found), ""]
        + [*_top_lines(found), "", *_scaling_lines(found), ""]
        + [QUALITY[found.accelerator.kind], *(f"Advice: {line}" for line in found.advice)]
    )


def _title(found: Findings) -> list[str]:
    job, lowered, accelerator = found.job, found.lowered, found.accelerator
    replicas = found.chips * accelerator.replicas
    compiler = " ".join(f"{name} {version}" for name, version in found.compiled.compiler.items())
    spent = "read from the cache" if found.compiled.cached else f"{found.compiled.seconds:.0f} s"
    return [
        f"{accelerator.title} × {found.chips}: {job.model.model}, {job.model.filters} filters, "
        f"depth {job.model.depth}, {job.data.crop}×{job.data.crop}×{lowered.channels}, "
        f"{lowered.precision}, batch {lowered.batch_size * replicas}"
        + (f" ({lowered.batch_size} per replica)" if replicas > 1 else ""),
        f"compiled for it by {compiler}: {spent}",
        *([accelerator.note] if accelerator.note else []),
    ]


def _memory_lines(found: Findings) -> list[str]:
    memory, total = found.compiled.memory, found.compiled.total
    assert memory is not None
    assert total is not None
    waste, sizes = found.padding, found.lowered.sizes
    outputs = memory["output"] - memory["alias"]
    rows = [
        *((name, sizes[name]) for name in ("weights", "optimizer", "average", "batch")),
        ("padding of these", waste.arguments),
        ("activations, temporary", memory["temp"] - waste.temporary),
        ("padding of these, estimate", waste.temporary),
        ("results, program", outputs + memory["generated_code"]),
    ]
    share = total / found.accelerator.usable
    return [
        f"{'fits':<28}{_size(total)} of {found.accelerator.usable / GIB:.2f} GiB ({share:.1%})",
        *(f"  {name:<26}{_size(size)}" for name, size in rows if size >= 0.001 * total),
    ]


def _size(number: float) -> str:
    return f"{number / GIB:8.2f} GiB" if number >= 0.1 * GIB else f"{1024 * number / GIB:8.2f} MiB"


def _time_lines(found: Findings) -> list[str]:
    peak = peak_of(found.accelerator, TYPES[found.lowered.precision])
    here = found.scalings[0]
    hours = f"{found.epoch_hours:.2f}" if found.epoch_hours >= 0.01 else "< 0.01"
    return [
        f"{'step, estimate':<28}{1e3 * found.step_seconds:8.1f} ms"
        + (
            f" + {1e3 * here.reduce_seconds:.1f} ms to sum gradients" if here.reduce_seconds else ""
        ),
        f"{'images/s, estimate':<28}{here.images_per_second:8.0f}",
        f"{'MFU, estimate':<28}{found.mfu:8.1%} of {peak / 1e12:.0f} TFLOP/s",
        f"{'arithmetic':<28}{found.lowered.flops / 1e12:8.2f} TFLOP of convolutions; "
        f"{found.compiled.flops / 1e12:.2f} of all that is computed",
        f"{'memory traffic':<28}{found.gigabytes:8.1f} GB",
        f"{'hours per epoch, estimate':<28}{hours:>8} "
        f"({3600 * found.epoch_hours:.1f} s for {found.lowered.num_examples} images)",
    ]


def _top_lines(found: Findings) -> list[str]:
    width = max(len(operation.name) for operation in found.operations[:TOP])
    return [
        f"{'costliest operations':<{width}}  share       ms  limited by          largest result",
        *(
            f"{operation.name:<{width}} {operation.seconds / found.step_seconds:6.1%} "
            f"{1e3 * operation.seconds:8.2f}  {operation.limit:<19} {operation.shape}"
            for operation in found.operations[:TOP]
        ),
    ]


def _scaling_lines(found: Findings) -> list[str]:
    lowered = found.lowered
    return [
        f"{lowered.reduced / 1e6:.1f} MB summed over all replicas per step, in "
        f"{lowered.collectives} sums; estimates for the same batch on each chip:",
        "  chips  sum, ms   images/s  efficiency",
        *(
            f"  {scaling.chips:5d} {1e3 * scaling.reduce_seconds:8.2f} "
            f"{scaling.images_per_second:10.0f} {scaling.efficiency:10.1%}"
            for scaling in found.scalings
        ),
    ]
