"""What preflight says: figures for programs, and the same as text for people."""

from collections.abc import Sequence
from typing import Any

from trainer import config
from trainer.preflight import advice, estimate
from trainer.preflight.accelerators import GIB, Accelerator, Gpu, Tpu
from trainer.preflight.compilation import Compiled
from trainer.preflight.lowering import Lowered

TOP = 10

QUALITY = {
    "TPU": "Times are the TPU compiler's own estimate (cycles / clock); nobody has compared them "
    "with a TPU here. Input from the host, and sums over replicas, are not in them.",
    "GPU": "A GPU's compiler does not say how long a step takes. The memory that cuDNN takes to "
    "work in is not known without the device.",
}


def figures(
    job: config.Job,
    accelerator: Tpu | Gpu,
    chips: int,
    lowered: Lowered,
    compiled: Compiled,
) -> dict[str, Any]:
    """Returns the figures of a step; None where they are unknown.

    Args:
        job: the settings.
        accelerator: the chip.
        chips: among which the batch is divided.
        lowered: the program of a replica.
        compiled: what its compiler said.
    """
    total = compiled.total
    fits = compiled.memory is not None and total is not None and total <= accelerator.usable
    found = {
        **_head(accelerator, chips, lowered),
        "compiler": compiled.compiler,
        "compile_seconds": compiled.seconds,
        "cached": compiled.cached,
        "fits": fits,
        "memory_gib": _memory(lowered, compiled),
        "tflop": lowered.flops / 1e12,
        **dict.fromkeys(("step_ms_estimate", "images_per_second_estimate", "mfu_estimate")),
        "gb_accessed": None,
        "top_ops": [],
        "advice": [],
    }
    if not fits:
        return found
    if isinstance(accelerator, Tpu):
        found |= _times(accelerator, found["batch_size"], lowered, compiled)
        # The compiler counts the body of a loop once.
        if job.optimization.accumulate_steps == 1 and compiled.bytes_accessed is not None:
            found["gb_accessed"] = compiled.bytes_accessed / 1e9
    assert total is not None
    lines = advice.advise(
        accelerator, precision=lowered.precision, filters=job.model.filters, total=total
    )
    return found | {"advice": list(lines)}


def _head(accelerator: Accelerator, chips: int, lowered: Lowered) -> dict[str, Any]:
    replicas = chips * accelerator.replicas
    return {
        "accelerator": accelerator.title,
        "kind": accelerator.kind,
        "note": accelerator.note,
        "chips": chips,
        "replicas": replicas,
        "batch_size": lowered.batch_size * replicas,
        "batch_size_per_replica": lowered.batch_size,
        "image": lowered.image,
        "precision": lowered.precision,
        "chip_memory_gib": accelerator.memory / GIB,
        "usable_memory_gib": accelerator.usable / GIB,
    }


def _memory(lowered: Lowered, compiled: Compiled) -> dict[str, float | None]:
    memory = compiled.memory
    return {
        "arguments": memory["argument"] / GIB if memory else None,
        "temporary": memory["temp"] / GIB if memory else None,
        "total": compiled.total / GIB if compiled.total is not None else None,
        **{name: size / GIB for name, size in lowered.sizes.items()},
    }


def _times(
    accelerator: Tpu, batch_size: int, lowered: Lowered, compiled: Compiled
) -> dict[str, Any]:
    operations = estimate.estimate(compiled.module, accelerator.clock)
    seconds = sum(operation.seconds for operation in operations)
    return {
        "step_ms_estimate": 1e3 * seconds,
        "images_per_second_estimate": batch_size / seconds,
        "mfu_estimate": lowered.flops / (seconds * accelerator.peak),
        "peak_tflops": accelerator.peak / 1e12,
        "top_ops": [
            {
                "name": operation.name,
                "share": operation.seconds / seconds,
                "ms_estimate": 1e3 * operation.seconds,
                "shape": operation.shape,
            }
            for operation in operations[:TOP]
        ],
    }


def text(found: dict[str, Any], job: config.Job) -> str:
    """Returns the lines for people about a step that fits, from its `figures`."""
    batch = f"batch {found['batch_size']}"
    if found["replicas"] > 1:
        batch += f" ({found['batch_size_per_replica']} per replica)"
    compiler = " ".join(f"{name} {version}" for name, version in found["compiler"].items())
    spent = "read from the cache" if found["cached"] else f"{found['compile_seconds']:.0f} s"
    step = step_title(job, found["image"], found["precision"])
    lines = [
        f"{found['accelerator']} × {found['chips']}: {step}, {batch}",
        f"compiled for it by {compiler}: {spent}",
        *([found["note"]] if found["note"] else []),
        "",
        *_memory_lines(found),
        "",
        f"{'arithmetic':<28}{found['tflop']:8.2f} TFLOP of convolutions",
    ]
    if found["step_ms_estimate"] is not None:
        lines += [*_time_lines(found), "", *_top_lines(found["top_ops"])]
    lines += ["", QUALITY[found["kind"]], *(f"Advice: {line}" for line in found["advice"])]
    return "\n".join(lines)


def step_title(job: config.Job, image: Sequence[int], precision: str) -> str:
    """Returns the network, its sizes, the image's, (H, W, C), and the precision, in words."""
    depth = len(job.model.levels(rank=len(image) - 1)) - 1
    size = "×".join(map(str, image))
    return f"{job.model.title}, {job.model.filters} filters, depth {depth}, {size}, {precision}"


def _memory_lines(found: dict[str, Any]) -> list[str]:
    memory, usable = found["memory_gib"], found["usable_memory_gib"]
    total = memory["total"]
    kept = {name: memory[name] for name in ("weights", "optimizer", "average", "batch")}
    rest = total - memory["temporary"] - sum(kept.values())
    rows = {**kept, "activations, temporary": memory["temporary"], "program, padding": rest}
    return [
        f"{'fits':<28}{_size(total)} of {usable:.2f} GiB ({total / usable:.1%})",
        *(f"  {name:<26}{_size(size)}" for name, size in rows.items() if size >= 0.001 * total),
    ]


def _size(gib: float) -> str:
    return f"{gib:8.2f} GiB" if gib >= 0.1 else f"{1024 * gib:8.2f} MiB"


def _time_lines(found: dict[str, Any]) -> list[str]:
    traffic = found["gb_accessed"]
    return [
        *([f"{'memory traffic':<28}{traffic:8.1f} GB"] if traffic is not None else []),
        f"{'step, estimate':<28}{found['step_ms_estimate']:8.1f} ms",
        f"{'images/s, estimate':<28}{found['images_per_second_estimate']:8.0f}",
        f"{'MFU, estimate':<28}{found['mfu_estimate']:8.1%} of {found['peak_tflops']:.0f} TFLOP/s",
    ]


def _top_lines(operations: Sequence[dict[str, Any]]) -> list[str]:
    width = max(len(one["name"]) for one in operations)
    return [
        f"{'costliest operations':<{width}}  share       ms  largest result",
        *(
            f"{one['name']:<{width}} {one['share']:6.1%} {one['ms_estimate']:8.2f}  {one['shape']}"
            for one in operations
        ),
    ]
