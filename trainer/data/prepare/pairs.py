"""Images, or volumes, with their masks, and the parts of them that become examples."""

import copy
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

from trainer.data.formats import discovery
from trainer.data.packed import reduce_to_fields


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """A box of an image or volume, an example of its own.

    Attributes:
        name: of the example.
        start: first place along each axis.
        shape: its sides.
    """

    name: str
    start: tuple[int, ...]
    shape: tuple[int, ...]

    __reduce__ = reduce_to_fields

    @property
    def box(self) -> tuple[slice, ...]:
        """Where it is in an array."""
        return tuple(slice(a, a + n) for a, n in zip(self.start, self.shape, strict=True))


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """An image and its mask.

    Attributes:
        images: where the image is; a volume may have a file for each channel.
        mask: where its mask is.
        parts: the examples to be made of them.
        content: digest of the pixels of both, as the first pass found them.
        box: of a volume, first and last + 1 of what is not zero along each axis, likewise.
    """

    images: tuple[discovery.Source, ...]
    mask: discovery.Source
    parts: tuple[Part, ...] = ()
    content: bytes = b""
    box: tuple[tuple[int, int], ...] = ()

    __reduce__ = reduce_to_fields

    @property
    def image(self) -> discovery.Source:
        """The image, or the file of its first channel."""
        return self.images[0]

    @property
    def name(self) -> str:
        """The case's name."""
        return self.image.name


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """A part of a pair, in the order in which examples are written."""

    pair: Pair
    part: Part


class Examples(Sequence[Example]):
    """Examples of many pairs in an order, each made when it is asked for."""

    def __init__(
        self, surveys: Sequence[Any], places: Sequence[int], parts: Sequence[Part]
    ) -> None:
        """Takes what was found in all pairs, and of each example the pair's place and its part."""
        self._surveys, self._places, self._parts = surveys, places, parts
        self._window = range(len(places))

    def __len__(self) -> int:
        """The number of examples."""
        return len(self._window)

    @overload
    def __getitem__(self, place: int) -> Example: ...
    @overload
    def __getitem__(self, place: slice) -> "Examples": ...
    def __getitem__(self, place: "int | slice") -> "Example | Examples":
        """An example, or some of them."""
        found = self._window[place]
        if isinstance(found, range):
            some = copy.copy(self)
            some._window = found
            return some
        return Example(self._surveys[self._places[found]].pair, self._parts[found])

    def __iter__(self) -> Iterator[Example]:
        """Yields all; consecutive ones of a pair share it."""
        for place, window in itertools.groupby(self._window, lambda k: self._places[k]):
            pair = self._surveys[place].pair
            for k in window:
                yield Example(pair, self._parts[k])

    def parts(self) -> Iterator[Part]:
        """Yields the parts alone."""
        return (self._parts[k] for k in self._window)


def cut(name: str, shape: Sequence[int], side: int) -> list[Part]:
    """Returns the tiles of an image, row by row; the whole image if `side` is 0.

    A crop is drawn from each example, whatever its size. Where sizes differ, the pixels of large
    images are seen less often: tiles of one size give each pixel of a set about the same chance,
    and save the decoding of a large image for one small crop. Each side of the image is divided as
    evenly as whole pixels allow, into as many parts as make their lengths come nearest to `side`.

    Args:
        name: of the image.
        shape: H, W.
        side: of the tiles.
    """
    rows, columns = (_divide(length, side) for length in shape)
    if len(rows) == len(columns) == 1:
        return [Part(name, (0, 0), tuple(shape))]
    return [
        Part(f"{name}_y{top}_x{left}", (top, left), (bottom - top, right - left))
        for (top, bottom), (left, right) in itertools.product(rows, columns)
    ]


def _divide(length: int, side: int) -> list[tuple[int, int]]:
    parts = max(1, round(length / side)) if side else 1
    return [(k * length // parts, (k + 1) * length // parts) for k in range(parts)]


def cut_blocks(name: str, shape: Sequence[int], block: Sequence[int]) -> list[Part]:
    """Returns the blocks of a volume; the whole volume where it is no larger than one.

    A training crop reads a block, not a body. Blocks overlap by a quarter of their side at least,
    so that a crop across their borders is drawn, too, and the last one ends the volume.

    Args:
        name: of the volume.
        shape: D, H, W.
        block: sides of a block.
    """
    sides = tuple(map(min, shape, block))
    if sides == tuple(shape):
        return [Part(name, (0, 0, 0), sides)]
    starts = itertools.product(*map(_starts, shape, sides))
    return [Part(f"{name}_z{z}_y{y}_x{x}", (z, y, x), sides) for z, y, x in starts]


def _starts(length: int, side: int) -> list[int]:
    """Returns where blocks begin along an axis, evenly spread, at most 3/4 of a side apart."""
    gaps = -(-4 * (length - side) // (3 * side))
    return [k * (length - side) // gaps for k in range(gaps + 1)] if gaps else [0]


def by_pair(examples: Iterable[Example]) -> Iterator[Pair]:
    """Yields each pair once for its consecutive examples, with what to cut out of it."""
    for pair, together in itertools.groupby(examples, lambda example: example.pair):
        yield dataclasses.replace(pair, parts=tuple(example.part for example in together))
