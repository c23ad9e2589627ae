"""Reads the text of a compiled XLA program: which operations run, on what shapes, how often.

Only what the estimates need is read. The text is that of XLA's `HloModule::ToString`.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence

BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "f8e4m3fn": 1, "f8e5m2": 1,
    "bf16": 2, "f16": 2, "s16": 2, "u16": 2,
    "f32": 4, "s32": 4, "u32": 4,
    "f64": 8, "s64": 8, "u64": 8, "c64": 8, "c128": 16,
}  # fmt: skip

# Operations that move no data.
FREE = frozenset(
    {
        *("after-all", "bitcast", "constant", "get-tuple-element", "iota", "opt-barrier"),
        *("parameter", "partition-id", "replica-id", "tuple"),
    }
)

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")
_TILE = re.compile(r"^T\(([\d,]+)\)")
_CALLED = re.compile(
    r"\b(calls|to_apply|body|branch_computations|true_computation|false_computation)="
    r"(\{[^}]*\}|%[\w.\-]+)"
)


@dataclasses.dataclass(frozen=True)
class Shape:
    """An array's type, dimensions and, where the text says it, place in memory.

    Attributes:
        dtype: XLA's name.
        dims: sizes, in logical order.
        minor_to_major: the dimensions from the fastest-varying one on; empty where unknown.
        tile: the innermost dimensions are padded to multiples of these.
        on_chip: whether it lies in the core's own memory and not in the chip's.
    """

    dtype: str
    dims: tuple[int, ...]
    minor_to_major: tuple[int, ...] = ()
    tile: tuple[int, ...] = ()
    on_chip: bool = False

    @property
    def size(self) -> int:
        """Bytes of the values."""
        return math.prod(self.dims) * BYTES.get(self.dtype, 0)

    @property
    def padded_size(self) -> int:
        """Bytes of the values and of what fills their tiles up."""
        dims = [self.dims[axis] for axis in self.minor_to_major] or list(self.dims)[::-1]
        for place, side in enumerate(reversed(self.tile)):
            if place < len(dims):
                dims[place] = -(-dims[place] // side) * side
            else:
                dims.append(side)
        return math.prod(dims) * BYTES.get(self.dtype, 0)

    def __str__(self) -> str:
        """Returns the type and dimensions, as XLA writes them."""
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
        name: unique in the module.
        opcode: such as `fusion`.
        shapes: of the result; several where it is a tuple.
        operands: names.
        text: what follows the operands: attributes, metadata and the backend's settings.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    text: str

    @property
    def op_name(self) -> str:
        """The name of the framework's operation that it comes from; empty if there is none."""
        found = re.search(r'op_name="([^"]*)"', self.text)
        return found[1] if found else ""

    @property
    def cycles(self) -> int:
        """The TPU compiler's estimate of its cycles; 0 where it has none."""
        found = re.search(r'"estimated_cycles":"(\d+)"', self.text)
        return int(found[1]) if found else 0

    @property
    def called(self) -> tuple[str, ...]:
        """The computations that it calls, other than a loop's condition."""
        return tuple(name for _, group in _CALLED.findall(self.text) for name in _names(group))

    @property
    def trips(self) -> int:
        """How often a loop runs; 1 where the compiler does not know."""
        found = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', self.text)
        return int(found[1]) if found else 1


@dataclasses.dataclass(frozen=True)
class Module:
    """A program: computations by name, and which of them is entered."""

    computations: Mapping[str, Mapping[str, Instruction]]
    entry: str

    def executed(
        self, computation: str = "", times: int = 1
    ) -> Iterator[tuple[str, Instruction, int]]:
        """Yields (computation, instruction, how often) for all that runs as a unit of its own.

        Loops, branches and calls are entered, fusions are not. Of a conditional's branches the
        longest counts.
        """
        computation = computation or self.entry
        for instruction in self.computations[computation].values():
            if instruction.opcode in FREE:
                continue
            if instruction.opcode == "conditional":
                branch = max(instruction.called, key=lambda name: len(self.computations[name]))
                yield from self.executed(branch, times)
            elif instruction.opcode in ("while", "call"):
                for name in instruction.called:
                    yield from self.executed(name, times * instruction.trips)
            else:
                yield computation, instruction, times

    def operands(self, computation: str, instruction: Instruction) -> list[Shape]:
        """Returns the shapes of an instruction's operands, each operand counted once."""
        siblings = self.computations[computation]
        names = dict.fromkeys(name for name in instruction.operands if name in siblings)
        return [shape for name in names for shape in siblings[name].shapes]


def parse(text: str) -> Module:
    """Returns the program of a text.

    Raises:
        ValueError: the text has no entry computation.
    """
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if line.startswith("}"):
            current = None
        elif current is None:
            found = _COMPUTATION.match(line)
            if found and not line.startswith("HloModule"):
                current = computations.setdefault(found[2], {})
                entry = found[2] if found[1] else entry
        else:
            found = _INSTRUCTION.match(line)
            if found:
                instruction = _instruction(found[2], line[found.end() :])
                current[instruction.name] = instruction
    if not entry:
        raise ValueError("The text is no XLA program: it has no ENTRY computation.")
    return Module(computations, entry)


def parse_shapes(text: str) -> tuple[Shape, ...]:
    """Returns the shapes in a type such as `(bf16[8,64]{1,0:T(8,128)(2,1)}, f32[])`."""
    return tuple(_shape(*parts) for parts in _SHAPE.findall(text) if parts[0] in BYTES)


def _shape(dtype: str, dims: str, order: str, place: str) -> Shape:
    tile = _TILE.match(place)
    return Shape(
        dtype,
        _numbers(dims),
        _numbers(order),
        _numbers(tile[1]) if tile else (),
        on_chip="S(1)" in place,
    )


def _instruction(name: str, rest: str) -> Instruction:
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    kind = rest[:end]
    rest = rest[end:].lstrip()
    opcode, _, rest = rest.partition("(")
    end = _closing("(" + rest, 0) - 1
    return Instruction(name, opcode, parse_shapes(kind), _names(rest[:end]), rest[end + 1 :])


def _closing(text: str, start: int) -> int:
    """Returns the place of the parenthesis that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        if text[place] == "(":
            depth += 1
        elif text[place] == ")":
            depth -= 1
            if not depth:
                return place
    return len(text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"%([\w.\-]+)", text))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number)


def convolution_flops(instruction: Instruction, operands: Sequence[Shape]) -> int:
    """Returns the multiplications and additions of a convolution, as XLA counts them.

    Products with padding and with the holes of a dilation do not count. cuDNN's custom calls for
    the gradients keep the window of the forward convolution, and so have its count.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.text)
    window = re.search(r"window=\{([^}]*)\}", instruction.text)
    if not labels or len(operands) < 2:
        return 0
    left, right, result = operands[0], operands[1], instruction.shapes[0]
    if "convBackwardInput" in instruction.text:
        left, result = result, left
    elif "convBackwardFilter" in instruction.text:
        right, result = result, right
    attributes = dict(re.findall(r"(\w+)=(\S+)", window[1])) if window else {}
    spatial = [letter for letter in labels[3] if letter.isdigit()]
    pairs = 1
    for place, letter in enumerate(spatial):
        pairs *= _valid_pairs(
            left.dims[labels[1].index(letter)],
            right.dims[labels[2].index(letter)],
            result.dims[labels[3].index(letter)],
            *(
                _window(attributes, key, place)
                for key in ("stride", "pad", "lhs_dilate", "rhs_dilate")
            ),
        )
    batch, features = (result.dims[labels[3].index(letter)] for letter in "bf")
    inputs = right.dims[labels[2].index("i")]  # of one group
    found = re.search(r"batch_group_count=(\d+)", instruction.text)
    return 2 * pairs * batch * features * inputs // (int(found[1]) if found else 1)


def _window(attributes: Mapping[str, str], key: str, place: int) -> int:
    default = "0_0" if key == "pad" else "1"
    values = attributes[key].split("x") if key in attributes else []
    return int((values[place] if place < len(values) else default).split("_")[0])


def _valid_pairs(
    size: int, kernel: int, result: int, stride: int, pad: int, hole: int, step: int
) -> int:
    """Counts (place of the result, place in the kernel) that meet a value of the input."""
    last = (size - 1) * hole
    count = 0
    for offset in range(kernel):
        shift = offset * step - pad
        first = max(0, -(shift // stride))
        end = min(result - 1, (last - shift) // stride)
        if hole == 1:
            count += max(0, end - first + 1)
        else:
            count += sum((x * stride + shift) % hole == 0 for x in range(first, end + 1))
    return count
