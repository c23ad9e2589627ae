"""Cutting large training images into tiles, each an example of its own.

A crop is drawn from each example, whatever its size. Where sizes differ, the pixels of large images
are seen less often: tiles of one size give each pixel of a set about the same chance, and save
the decoding of a large image for one small crop.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator

from trainer.data.prepare import statistics


@dataclasses.dataclass(frozen=True)
class Tile:
    """A part of a pair, or all of it.

    Attributes:
        pair: of images.
        name: of the example: the pair's, and where in it the tile begins.
        top: first row.
        left: first column.
        height: in pixels.
        width: in pixels.
    """

    pair: statistics.Pair
    name: str
    top: int
    left: int
    height: int
    width: int


def cut(one: statistics.Survey, side: int) -> list[Tile]:
    """Returns the tiles of a pair, row by row; the whole pair if `side` is 0.

    Each side of the image is divided as evenly as whole pixels allow, into as many parts as make
    their lengths come nearest to `side`.
    """
    rows, columns = _divide(one.height, side), _divide(one.width, side)
    if len(rows) == len(columns) == 1:
        return [Tile(one.pair, one.pair.name, 0, 0, one.height, one.width)]
    return [
        Tile(one.pair, f"{one.pair.name}_y{top}_x{left}", top, left, bottom - top, right - left)
        for (top, bottom), (left, right) in itertools.product(rows, columns)
    ]


def _divide(length: int, side: int) -> list[tuple[int, int]]:
    parts = max(1, round(length / side)) if side else 1
    return [(k * length // parts, (k + 1) * length // parts) for k in range(parts)]


def by_pair(tiles: Iterable[Tile]) -> Iterator[statistics.Pair]:
    """Yields each pair once for its consecutive tiles, with what to cut out of it."""
    for pair, together in itertools.groupby(tiles, lambda tile: tile.pair):
        boxes = tuple((t.name, t.top, t.left, t.height, t.width) for t in together)
        yield dataclasses.replace(pair, boxes=boxes)
