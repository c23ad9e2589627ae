"""A long sequence of values that are alike, in tens of bytes for each rather than hundreds."""

import array
import pickle
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, overload

T = TypeVar("T")

LEVEL, WINDOW, MEMORY = 1, -12, 1  # of zlib: no header, and little state, for texts this short


def reduce_to_fields(value: Any) -> tuple[type, tuple[Any, ...]]:
    """Is `__reduce__` of a dataclass with slots: twice as fast as what it would have."""
    return type(value), tuple(getattr(value, name) for name in value.__slots__)


class Packed(Sequence[T]):
    """Values that are pickled and compressed one by one, and made anew each time they are read.

    The first value is the compressor's dictionary, so each of the others takes what it has of its
    own: a pair of files with long paths about 25 bytes, and 8 for its place. They may be read in
    any order, each in tens of microseconds.
    """

    def __init__(self, values: Iterable[T] = ()) -> None:
        """Takes the values."""
        self._content, self._ends = bytearray(), array.array("Q", [0])
        for value in values:
            self.append(value)

    def append(self, value: T) -> None:
        """Adds a value at the end."""
        pickled = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        if not self._content:
            strategy = zlib.Z_DEFAULT_STRATEGY
            self._empty = zlib.compressobj(LEVEL, zlib.DEFLATED, WINDOW, MEMORY, strategy, pickled)
            self._start = zlib.decompressobj(WINDOW, pickled)
        compressor = self._empty.copy()
        self._content += compressor.compress(pickled) + compressor.flush()
        self._ends.append(len(self._content))

    def __len__(self) -> int:
        """The number of values."""
        return len(self._ends) - 1

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> list[T]: ...
    def __getitem__(self, place: int | slice) -> T | list[T]:
        """A value, or several."""
        if isinstance(place, slice):
            return [self[k] for k in range(len(self))[place]]
        k = range(len(self))[place]
        packed = self._content[self._ends[k] : self._ends[k + 1]]
        return pickle.loads(self._start.copy().decompress(packed))
