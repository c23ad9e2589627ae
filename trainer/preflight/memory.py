"""How much of a compiled step's memory is waste: arrays that are filled up to whole tiles."""

import dataclasses
from collections.abc import Iterable, Mapping

from trainer.preflight import hlo
from trainer.preflight.compilation import Compiled

# Operations whose results lie where their operands do.
ALIASES = frozenset(
    {"bitcast", "get-tuple-element", "tuple", "opt-barrier", "while", "conditional"}
)


@dataclasses.dataclass(frozen=True)
class Padding:
    """What the chip's tiles, filled up, add to the arrays in memory.

    Attributes:
        arguments: bytes, exact.
        temporary: bytes; an estimate, from what lives at the moment when most does.
        largest: the array that most is added to at that moment.
    """

    arguments: int
    temporary: int
    largest: hlo.Shape | None


def padding(compiled: Compiled) -> Padding:
    """Returns the waste in the memory of a program that fits."""
    module = compiled.module
    entry = module.computations[module.entry]
    parameters = [
        shape
        for instruction in entry.values()
        if instruction.opcode == "parameter"
        for shape in instruction.shapes
    ]
    live = _live_at_peak(entry)
    padded, plain = (sum(getattr(shape, name) for shape in live) for name in _SIZES)
    temporary = compiled.memory["temp"] if compiled.memory else 0
    return Padding(
        arguments=sum(_waste(shape) for shape in parameters),
        temporary=int(temporary * (1 - plain / padded)) if padded else 0,
        largest=max(live, key=_waste, default=None),
    )


_SIZES = ("padded_size", "size")


def _waste(shape: hlo.Shape) -> int:
    return shape.padded_size - shape.size


def _live_at_peak(entry: Mapping[str, hlo.Instruction]) -> list[hlo.Shape]:
    """Returns the temporary arrays that exist at the moment when they take most, in schedule order.

    What goes out of the program lies in its arguments' place and is left out, as is what loops and
    branches hold inside.
    """
    sources: dict[str, frozenset[str]] = {}
    last_use: dict[str, int] = {}
    for place, instruction in enumerate(entry.values()):
        used = _union(sources.get(name, frozenset()) for name in instruction.operands)
        last_use.update(dict.fromkeys(used, place))
        if instruction.opcode in ALIASES or instruction.opcode.endswith("-done"):
            sources[instruction.name] = used
        elif instruction.opcode not in ("parameter", "constant"):
            sources[instruction.name] = frozenset([instruction.name])
    outputs = sources.get(list(entry)[-1], frozenset())

    ends: dict[int, list[str]] = {}
    live: dict[str, list[hlo.Shape]] = {}
    size, peak, found = 0, 0, []
    for place, (name, instruction) in enumerate(entry.items()):
        if sources.get(name) == frozenset([name]) and name not in outputs:
            live[name] = [shape for shape in _written(instruction) if not shape.on_chip]
            size += sum(shape.padded_size for shape in live[name])
            ends.setdefault(max(last_use.get(name, place), place), []).append(name)
        if size > peak:
            peak, found = size, [shape for shapes in live.values() for shape in shapes]
        for ended in ends.pop(place, ()):
            size -= sum(shape.padded_size for shape in live.pop(ended))
    return found


def _written(instruction: hlo.Instruction) -> tuple[hlo.Shape, ...]:
    """Returns the arrays that an instruction makes; a transfer's first result is the copy."""
    return instruction.shapes[:1] if instruction.opcode == "copy-start" else instruction.shapes


def _union(sets: Iterable[frozenset[str]]) -> frozenset[str]:
    return frozenset().union(*sets)
