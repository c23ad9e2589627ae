"""The tiles of one image or volume, put together along its first axis while they come.

It holds one row of tiles, whatever the height of the image, or the depth of the volume.
"""

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np


class Mosaic:
    """The plan of an image's tiles, and the values of those that have come."""

    def __init__(
        self,
        size: Sequence[int],
        weights: Sequence[Mapping[int, np.ndarray]],
        band: tuple[int, int] = (1, 1),
    ):
        """Plans; holds no values yet.

        Args:
            size: *S of the image; what tiles have beyond it is left out.
            weights: along each axis those of every tile, float32 [side], by where it starts; they
                sum to 1 at each place. All tiles have the same sides.
            band: (k, n): of n bands of rows, which together are the image, the k-th alone, from 1.
                It has the rows, the tiles and the sums that the whole image has there. It is empty
                if there are fewer rows of tiles than bands.
        """
        self.size = tuple(size)
        self.sides = tuple(len(next(iter(by_start.values()))) for by_start in weights)
        self._weights = weights
        starts, (number, count) = list(weights[0]), band
        first, end = (len(starts) * k // count for k in (number - 1, number))
        edges = [*starts, self.size[0]]
        self._band = edges[first], edges[end]
        needed = [start for start in starts[:end] if start + self.sides[0] > edges[first]]
        self.corners = list(itertools.product(needed, *weights[1:])) if first < end else []
        self._held: np.ndarray | None = None  # of the rows from `_top` on
        self._top = needed[0] if needed else 0

    def add(self, corner: tuple[int, ...], values: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Takes the next tile, in the order of `corners`; yields the rows that this completes.

        Args:
            corner: of the tile.
            values: float32 [*s, K].

        Yields:
            (first row, float32 [rows, *S without the first, K]), without gaps from top to bottom.
        """
        if all(len(by_start) == 1 for by_start in self._weights):
            yield 0, values[tuple(slice(length) for length in self.size)]
            return
        if self._held is None:
            lengths = [max(by_start) + side for by_start, side in self._inner()]
            self._held = np.zeros((self.sides[0], *lengths, values.shape[-1]), np.float32)
        if corner[0] > self._top:
            done = corner[0] - self._top
            yield from self._rows(done)
            self._held[:-done] = self._held[done:].copy()
            self._held[-done:] = 0
            self._top = corner[0]
        shares = (by_start[at] for by_start, at in zip(self._weights, corner, strict=True))
        share = functools.reduce(np.multiply.outer, shares)
        pairs = zip(corner[1:], self.sides[1:], strict=True)
        there = (slice(None), *(slice(start, start + side) for start, side in pairs))
        self._held[there] += values * share[..., np.newaxis]
        if corner == self.corners[-1]:
            yield from self._rows(self.sides[0])

    def _inner(self) -> Iterator[tuple[Mapping[int, np.ndarray], int]]:
        """Returns weights and side along each axis but the first."""
        return zip(self._weights[1:], self.sides[1:], strict=True)

    def _rows(self, count: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yields the first rows that are held, without what is beyond the image, or the band."""
        assert self._held is not None
        top, end = max(self._top, self._band[0]), min(self._top + count, self._band[1])
        if top < end:
            rows = slice(top - self._top, end - self._top)
            inside = (rows, *(slice(length) for length in self.size[1:]))
            yield top, self._held[inside].copy()
