"""One image's tiles, put together from top to bottom while they come.

It holds one row of tiles, whatever the height of the image.
"""

import itertools
from collections.abc import Iterator

import numpy as np

from trainer.evaluate import sliding_window


class Mosaic:
    """The plan of an image's tiles, and the values of those that have come."""

    def __init__(self, size: tuple[int, int], tile: int, halo: int, stride: int, multiple: int):
        """Plans; holds no values yet.

        Args:
            size: height and width of the image.
            tile: side of a tile where the image is longer, a multiple of `stride`.
            halo: see `tiles.halo_of`.
            stride: of the model's deepest level, a power of two.
            multiple: of `stride`, to which the image's sides are rounded up.
        """
        self.size = size
        padded = tuple(-(-length // multiple) * multiple for length in size)
        self.sides = tuple(min(tile, length) for length in padded)
        self._weights = [
            sliding_window.shares(length, side, halo, stride)
            for length, side in zip(padded, self.sides, strict=True)
        ]
        self.corners = list(itertools.product(*self._weights))
        self._held: np.ndarray | None = None  # of the rows from `_top` on
        self._top = 0

    def add(self, corner: tuple[int, int], values: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Takes the next tile, in the order of `corners`; yields the rows that this completes.

        Args:
            corner: of the tile.
            values: float32 [h, w, K].

        Yields:
            (first row, float32 [rows, W, K]), without gaps from top to bottom.
        """
        if len(self.corners) == 1:
            yield 0, values[: self.size[0], : self.size[1]]
            return
        (y, x), (height, width) = corner, self.sides
        if self._held is None:
            length = max(self._weights[1]) + width
            self._held = np.zeros((height, length, values.shape[-1]), np.float32)
        if y > self._top:
            done = y - self._top
            yield from self._rows(done)
            self._held[:-done] = self._held[done:].copy()
            self._held[-done:] = 0
            self._top = y
        share = self._weights[0][y][:, np.newaxis] * self._weights[1][x]
        self._held[:, x : x + width] += values * share[..., np.newaxis]
        if corner == self.corners[-1]:
            yield from self._rows(height)

    def _rows(self, count: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yields the first rows that are held, without what is beyond the image."""
        assert self._held is not None
        count = min(count, self.size[0] - self._top)
        if count > 0:
            yield self._top, self._held[:count, : self.size[1]].copy()
