"""The time of a compiled step, operation by operation, as the TPU's compiler estimates it."""

import collections
import dataclasses
import json
import math
import re
from collections.abc import Iterator, Mapping

from absl import logging
from tensorflow.compiler.xla import xla_data_pb2
from tensorflow.compiler.xla.service import hlo_pb2

Computations = Mapping[int, hlo_pb2.HloComputationProto]

# Scopes of TensorFlow's names that all layers are in.
_OUTER = re.compile(r"(gradient_tape|while|unet)(_\d+)*")


@dataclasses.dataclass(frozen=True)
class Operation:
    """What one operation of the network costs.

    Attributes:
        name: layer and operation.
        shape: of the largest array that it writes.
        seconds: per step.
    """

    name: str
    shape: str
    seconds: float


def estimate(module: hlo_pb2.HloModuleProto, clock: float) -> list[Operation]:
    """Returns the operations of an optimized program, the costliest first.

    Args:
        module: the program.
        clock: cycles per second.
    """
    computations = {computation.id: computation for computation in module.computations}
    cycles: dict[str, int] = collections.defaultdict(int)
    arrays: dict[str, list[xla_data_pb2.ShapeProto]] = collections.defaultdict(list)
    for instruction, spent in _run(computations, module.entry_computation_id):
        name = _name(_op_name(computations, instruction) or instruction.opcode)
        cycles[name] += spent
        arrays[name] += _arrays(instruction.shape)
    operations = [
        Operation(name, _text(max(arrays[name], key=_size)), spent / clock)
        for name, spent in cycles.items()
    ]
    return sorted(operations, key=lambda operation: operation.seconds, reverse=True)


def _run(
    computations: Computations, entry: int, times: int = 1
) -> Iterator[tuple[hlo_pb2.HloInstructionProto, int]]:
    """Yields what a computation runs, with cycles; loops and branches are entered, fusions not.

    Of a conditional's branches the longest counts.
    """
    for instruction in computations[entry].instructions:
        called = instruction.called_computation_ids
        if instruction.opcode == "conditional":
            branches = [list(_run(computations, branch, times)) for branch in called]
            yield from max(branches, key=lambda branch: sum(spent for _, spent in branch))
        elif instruction.opcode in ("while", "call"):
            rounds = _rounds(computations, instruction) if instruction.opcode == "while" else 1
            for body in called:
                yield from _run(computations, body, times * rounds)
        elif spent := _cycles(instruction):
            yield instruction, times * spent


def _cycles(instruction: hlo_pb2.HloInstructionProto) -> int:
    """Returns the compiler's estimate; 0 where it has none, as of what only renames an array."""
    if not instruction.backend_config:
        return 0
    settings = json.loads(instruction.backend_config)
    return int(settings.get("window_config", {}).get("estimated_cycles", 0))


def _rounds(computations: Computations, loop: hlo_pb2.HloInstructionProto) -> int:
    """Returns how often a loop runs: up to the constant in its condition, as TensorFlow counts."""
    _, condition = loop.called_computation_ids
    limits = [
        one.literal.s32s[0]
        for one in computations[condition].instructions
        if one.opcode == "constant" and one.literal.s32s
    ]
    if len(limits) != 1:
        logging.warning("The compiler does not say how often %s runs: it counts once.", loop.name)
        return 1
    return limits[0]


def _arrays(shape: xla_data_pb2.ShapeProto) -> list[xla_data_pb2.ShapeProto]:
    """Returns the arrays of a shape, which may be a tuple."""
    return [array for part in shape.tuple_shapes for array in _arrays(part)] or [shape]


def _text(shape: xla_data_pb2.ShapeProto) -> str:
    """Returns type and dimensions as XLA writes them, as in `bf16[8,64,64,16]`."""
    dtype = xla_data_pb2.PrimitiveType.Name(shape.element_type).lower()
    return f"{dtype}[{','.join(map(str, shape.dimensions))}]"


def _size(shape: xla_data_pb2.ShapeProto) -> int:
    """Returns the number of values."""
    return math.prod(shape.dimensions)


def _op_name(computations: Computations, instruction: hlo_pb2.HloInstructionProto) -> str:
    """Returns TensorFlow's name of an instruction; of a fusion without, the last one inside."""
    name = instruction.metadata.op_name
    if not name and instruction.opcode == "fusion":
        inside = computations[instruction.called_computation_ids[0]].instructions
        name = next((one.metadata.op_name for one in reversed(inside) if one.metadata.op_name), "")
    return name


def _name(op_name: str) -> str:
    """Returns layer and operation of TensorFlow's name, as in `conv2d_3 Conv2DBackpropInput`."""
    scopes = [scope for scope in op_name.split("/") if not _OUTER.fullmatch(scope)]
    return " ".join(dict.fromkeys([*scopes[:1], *scopes[-1:]])) or op_name
