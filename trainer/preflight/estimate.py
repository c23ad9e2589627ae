"""Estimates the time of a compiled step, operation by operation, and what limits each."""

import collections
import dataclasses
import re
from collections.abc import Iterator, Sequence

from trainer.preflight import hlo
from trainer.preflight.accelerators import Accelerator, Gpu, Tpu, peak_of

# A GPU's kernel takes about this long to start, however little it does.
LAUNCH_SECONDS = 2e-6


@dataclasses.dataclass(frozen=True)
class Operation:
    """What one operation of the network costs; all are estimates.

    Attributes:
        name: layer and operation, with `gradient` where it is the backward pass.
        shape: the largest array that it writes.
        seconds: per step.
        flops: in matrix units.
        bytes: read and written in the chip's memory.
        limit: "memory" or "arithmetic", if it takes at most twice what bandwidth or matrix units
            at their best would; else "neither": vector units, unfilled tiles, starting.
    """

    name: str
    shape: str
    seconds: float
    flops: float
    bytes: float
    limit: str


def estimate(module: hlo.Module, accelerator: Tpu | Gpu, layers: Sequence[str]) -> list[Operation]:
    """Returns the operations of a compiled step, the costliest first.

    On TPUs the time is the compiler's own, cycles over the clock. On GPUs it is that of a roofline:
    of each kernel, the longer of its arithmetic at the peak and its traffic at full bandwidth, and
    at least LAUNCH_SECONDS.

    Args:
        module: the optimised program.
        accelerator: that it was compiled for.
        layers: names of the network's layers.
    """
    groups: dict[str, list[_Cost]] = collections.defaultdict(list)
    for computation, instruction, times in module.executed():
        cost = _cost(module, computation, instruction, times, accelerator)
        if cost.seconds:
            op_name = _op_name(module, instruction) or instruction.opcode
            groups[_name(op_name, layers)].append(cost)
    operations = [_sum(name, group, accelerator) for name, group in groups.items()]
    return sorted(operations, key=lambda operation: operation.seconds, reverse=True)


@dataclasses.dataclass(frozen=True)
class _Cost:
    """Of one instruction: seconds in all, of matrix units alone, what it moves and writes."""

    seconds: float
    arithmetic: float
    flops: float
    bytes: float
    largest: hlo.Shape


def _cost(
    module: hlo.Module,
    computation: str,
    instruction: hlo.Instruction,
    times: int,
    accelerator: Tpu | Gpu,
) -> _Cost:
    traffic = _traffic(module, computation, instruction)
    products = list(_matrix_operations(module, computation, instruction))
    arithmetic = sum(flops / peak_of(accelerator, dtype) for flops, dtype in products)
    if isinstance(accelerator, Tpu):
        seconds = instruction.cycles / accelerator.clock
    elif traffic or arithmetic:
        seconds = max(arithmetic, traffic / accelerator.bandwidth, LAUNCH_SECONDS)
    else:
        seconds = 0.0
    return _Cost(
        seconds * times,
        arithmetic * times,
        sum(flops for flops, _ in products) * times,
        traffic * times,
        max(instruction.shapes, key=lambda shape: shape.size, default=hlo.Shape("token", ())),
    )


def _sum(name: str, group: Sequence[_Cost], accelerator: Accelerator) -> Operation:
    seconds = sum(cost.seconds for cost in group)
    arithmetic = sum(cost.arithmetic for cost in group)
    traffic = sum(cost.bytes for cost in group)
    memory = traffic / accelerator.bandwidth
    if max(memory, arithmetic) < 0.5 * seconds:
        limit = "neither"
    else:
        limit = "memory" if memory >= arithmetic else "arithmetic"
    largest = max((cost.largest for cost in group), key=lambda shape: shape.size)
    flops = sum(cost.flops for cost in group)
    return Operation(name, str(largest), seconds, flops, traffic, limit)


def _traffic(module: hlo.Module, computation: str, instruction: hlo.Instruction) -> int:
    """Returns the bytes of an instruction's operands and results in the chip's memory."""
    if instruction.opcode.endswith("-done"):
        return 0  # counted where it starts
    shapes = [*module.operands(computation, instruction), *instruction.shapes]
    return sum(shape.padded_size for shape in shapes if not shape.on_chip)


def _matrix_operations(
    module: hlo.Module, computation: str, instruction: hlo.Instruction
) -> Iterator[tuple[int, str]]:
    """Yields (operations, XLA's type) of the convolutions and products inside an instruction."""
    inside = [(computation, instruction)]
    while inside:
        place, found = inside.pop()
        if found.opcode == "fusion":
            for name in found.called:
                inside += [(name, one) for one in module.computations[name].values()]
            continue
        is_cudnn = found.opcode == "custom-call" and "__cudnn$conv" in found.text
        operands = module.operands(place, found)
        if found.opcode == "convolution" or is_cudnn:
            yield hlo.convolution_flops(found, operands), operands[0].dtype
        elif found.opcode == "dot":
            yield _dot_flops(found, operands), operands[0].dtype


def _dot_flops(instruction: hlo.Instruction, operands: Sequence[hlo.Shape]) -> int:
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.text)
    count = 2
    for axis in contracted[1].split(",") if contracted else ():
        count *= operands[0].dims[int(axis)] if axis else 1
    for side in instruction.shapes[0].dims:
        count *= side
    return count


def _op_name(module: hlo.Module, instruction: hlo.Instruction) -> str:
    """Returns the framework's name of an instruction; of a fusion without, the last one inside."""
    inside = [
        one.op_name
        for name in (instruction.called if instruction.opcode == "fusion" else ())
        for one in module.computations[name].values()
    ]
    return instruction.op_name or next((name for name in reversed(inside) if name), "")


def _name(op_name: str, layers: Sequence[str]) -> str:
    """Returns layer and operation of TensorFlow's name, in the network's own words."""
    scopes = op_name.split("/")
    gradient = scopes[0] == "gradient_tape"
    scopes = scopes[1:] if gradient else scopes
    if len(scopes) > 1 and re.sub(r"(_\d+)+$", "", scopes[0]) == "unet":
        # Within the network TensorFlow numbers the uses of a layer: conv2d_3_1 is conv2d_3.
        used = re.sub(r"_\d+$", "", scopes[1])
        scopes = [used if used in layers else scopes[1], *scopes[2:]]
    return " ".join(scope for scope in scopes[:2] if scope) + (" gradient" if gradient else "")
