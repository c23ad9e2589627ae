"""Predicts images of any size: their tiles in batches, across images, put together on the way.

    import trainer
    masks = trainer.load("runs/demo").predict(array)

A thread reads ahead, the devices are given the next batch before the last one is fetched, and what
is in memory is a row of tiles of each image that is under way.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer import terminal
from trainer.data.formats import discovery, images, regions
from trainer.data.input import padded_shapes
from trainer.distributed import strategies
from trainer.errors import InputError
from trainer.evaluate import ensemble, eval_step, sliding_window
from trainer.evaluate.stitching import Mosaic
from trainer.predict import masks, prefetch

READ_AHEAD = 8  # tiles
BATCHES_IN_FLIGHT = 2
WAITING_BATCHES = 4  # tiles of rare sizes wait for others, but no more than these

Opener = Callable[[], regions.Raster]


@dataclasses.dataclass(frozen=True)
class Rows:
    """Finished rows of an image.

    Attributes:
        key: of the image.
        size: height and width of the image.
        top: the first row.
        probabilities: float32 [rows, W, K]; of two classes only the second's, K = 1.
    """

    key: Any
    size: tuple[int, ...]
    top: int
    probabilities: np.ndarray

    @property
    def are_last(self) -> bool:
        """Whether the image is complete with them."""
        return self.top + len(self.probabilities) == self.size[0]


@dataclasses.dataclass(frozen=True)
class Failure:
    """An image that cannot be read; rows of it may come before and after."""

    key: Any
    error: InputError


@dataclasses.dataclass(frozen=True)
class _Tile:
    key: Any
    mosaic: Mosaic
    corner: tuple[int, int]
    pixels: np.ndarray
    statistics: np.ndarray


class Predictor:
    """Networks with their best weights, ready for images."""

    def __init__(
        self,
        run_dirs: Sequence[str],
        strategy: tf.distribute.Strategy,
        *,
        tta: str = "none",
        tile: int = 1024,
        batch_size: int = 0,
        most_shapes: int | None = None,
    ):
        """Reads the weights.

        Args:
            run_dirs: run folders; several are averaged.
            strategy: the devices.
            tta: see `symmetries.turns`: turned images whose predictions are averaged.
            tile: images longer than this are cut into overlapping tiles of this side.
            batch_size: full tiles per step; 0: one on a CPU, four on each accelerator.
            most_shapes: of tiles that are taken as they are, others share some, see
                `padded_shapes.GrowingShapes`; 0: all are; None: by `eval_step.most_shapes`.

        Raises:
            InputError: if a folder holds no run that can be loaded.
        """
        with strategy.scope():
            self.networks = ensemble.Ensemble(run_dirs, tta)
        self._replicas = len(strategy.extended.worker_devices)
        on_cpu = strategies.device_kind(strategy) == "CPU"
        self._batch_size = batch_size or self._replicas * (1 if on_cpu else 4)
        self._fixed_batches = not on_cpu  # XLA compiles each size of batch again
        self._tile = tile // self.networks.stride * self.networks.stride
        self._multiple = padded_shapes.padded_to(self.networks.stride)
        if most_shapes is None:
            members = [member.model for member in self.networks.members]
            most_shapes = eval_step.most_shapes(strategy, members)
        self._shapes = (
            padded_shapes.GrowingShapes(self._multiple, self._tile, most_shapes)
            if most_shapes
            else None
        )
        self._forward = eval_step.forward_step(
            strategy,
            self.networks,
            jit_compile=not on_cpu,
            trace_once=on_cpu and not most_shapes,
        )

    @property
    def num_classes(self) -> int:
        """Number of classes, the background included."""
        return len(self.networks.classes)

    def predict(self, image: np.ndarray) -> np.ndarray:
        """Returns the mask of an image, or of a batch of them.

        Args:
            image: [H, W], [H, W, C] or [N, H, W, C] in the units of the training data's pixels;
                grey and colour, 8 and 16 bits are converted as `trainer.data.prepare` does.

        Returns:
            [H, W] or [N, H, W], the masks' own values, in the smallest integers that hold them.
        """
        ids, kept = masks.class_ids(self.probabilities(image)), self.networks.kept
        ids = np.stack([kept.apply(one) for one in ids]) if ids.ndim == 3 else kept.apply(ids)
        return masks.lookup(self.networks.values)[ids]

    def probabilities(self, image: np.ndarray) -> np.ndarray:
        """Returns the probability of each class: float32 [H, W, K] or [N, H, W, K].

        Args:
            image: as `predict` takes it.
        """
        batch = image if image.ndim == 4 else [image]
        openers = (
            (n, functools.partial(self._open_array, np.asarray(one))) for n, one in enumerate(batch)
        )
        whole: dict[int, list[np.ndarray]] = collections.defaultdict(list)
        for found in self.stream(openers):
            if isinstance(found, Failure):
                raise found.error
            whole[found.key].append(masks.every_class(found.probabilities))
        results = [np.concatenate(whole[n]) for n in range(len(batch))]
        return np.stack(results) if image.ndim == 4 else results[0]

    def open(self, source: discovery.Source, max_pixels: int) -> regions.Raster:
        """Opens an image on the local disk, as the networks take it."""
        return regions.open_raster(source, self.networks.channels, self.networks.dtype, max_pixels)

    def stream(
        self, openers: Iterable[tuple[Any, Opener]], band: tuple[int, int] = (1, 1)
    ) -> Iterator[Rows | Failure]:
        """Predicts images.

        Args:
            openers: a key of each image, and what opens it; both are used in another thread.
            band: of each image, see `Mosaic`.

        Yields:
            The rows of every image from top to bottom; those of several images may alternate.
        """
        waiting: dict[padded_shapes.Shape, list[_Tile]] = collections.defaultdict(list)
        flying: collections.deque[tuple[list[_Tile], tf.Tensor]] = collections.deque()
        with prefetch.reading(self._tiles(openers, band), READ_AHEAD) as tiles_ahead:
            for tile in tiles_ahead:
                if isinstance(tile, Failure):
                    yield tile
                    continue
                shape = self._shape_of(tile)
                waiting[shape].append(tile)
                if len(waiting[shape]) == self._size_of_batch(shape):
                    flying.append(self._launched(shape, waiting.pop(shape)))
                elif len(waiting) > WAITING_BATCHES:
                    shape = next(iter(waiting))
                    flying.append(self._launched(shape, waiting.pop(shape)))
                while len(flying) >= BATCHES_IN_FLIGHT:
                    yield from _landed(*flying.popleft())
            for shape, group in waiting.items():
                flying.append(self._launched(shape, group))
            while flying:
                yield from _landed(*flying.popleft())

    def _tiles(
        self, openers: Iterable[tuple[Any, Opener]], band: tuple[int, int]
    ) -> Iterator[_Tile | Failure]:
        """Reads images and yields their tiles, each image's in the order of its mosaic."""
        for key, opener in openers:
            try:
                yield from self._tiles_of(key, opener(), band)
            except InputError as error:
                yield Failure(key, error)

    def _tiles_of(self, key: Any, raster: regions.Raster, band: tuple[int, int]) -> Iterator[_Tile]:
        size = raster.height, raster.width
        plan = Mosaic(size, [self._weights_along(length) for length in size], band)
        statistics = np.zeros((2, self.networks.channels), np.float32)
        if self.networks.uses_statistics:
            statistics[:] = regions.statistics(raster)
        rows, top = None, -1
        for y, x in plan.corners:
            if y != top:
                rows, top = _mirrored_rows(raster, y, plan.sides[0]), y
            assert rows is not None
            columns = sliding_window.mirror(np.arange(x, x + plan.sides[1]), raster.width)
            yield _Tile(key, plan, (y, x), rows[:, columns], statistics)

    def _weights_along(self, length: int) -> dict[int, np.ndarray]:
        """Returns the weights of an axis' tiles, see `Mosaic`."""
        padded = -(-length // self._multiple) * self._multiple
        side = min(self._tile, padded)
        return sliding_window.shares(padded, side, self.networks.halo, self.networks.stride)

    def _shape_of(self, tile: _Tile) -> padded_shapes.Shape:
        """Returns the shape in which a tile is predicted."""
        height, width = tile.mosaic.sides
        return self._shapes.of((height, width)) if self._shapes else (height, width)

    def _size_of_batch(self, shape: padded_shapes.Shape) -> int:
        """Returns how many tiles of a shape make a step: as many pixels as full tiles have."""
        pixels = self._batch_size * self._tile**2
        per_replica = max(1, pixels // (self._replicas * shape[0] * shape[1]))
        return self._replicas * per_replica

    def _launched(
        self, shape: padded_shapes.Shape, group: list[_Tile]
    ) -> tuple[list[_Tile], tf.Tensor]:
        """Gives a batch to the devices; fills it up where they need it full."""
        count = len(group)
        full = self._size_of_batch(shape) if self._fixed_batches else count
        full = -(-full // self._replicas) * self._replicas
        filled = group + [group[-1]] * (full - count)
        pixels = np.zeros((full, *shape, self.networks.channels), group[0].pixels.dtype)
        for place, tile in enumerate(filled):
            height, width = tile.mosaic.sides
            pixels[place, :height, :width] = tile.pixels
        statistics = np.stack([tile.statistics for tile in filled])
        inputs = [tf.constant(pixels), tf.constant(statistics)]
        sizes = [tile.mosaic.sides for tile in filled]
        if self._shapes and not all(self._shapes.is_own(shape, size) for size in sizes):
            inputs.append(tf.constant(sizes))
        return group, self._forward(tuple(inputs))

    def _open_array(self, image: np.ndarray) -> regions.Raster:
        if image.ndim not in (2, 3) or 0 in image.shape:
            raise InputError(f"The image has shape {image.shape}; expected H×W, H×W×C or N×H×W×C.")
        pixels = images.pixels_of(image, "The image")
        return regions.of_array(pixels, self.networks.channels, self.networks.dtype, "The image")


def _landed(group: Sequence[_Tile], result: tf.Tensor) -> Iterator[Rows]:
    """Waits for a batch and yields the rows that its tiles complete."""
    for tile, values in zip(group, result.numpy(), strict=False):  # what filled it up is dropped
        height, width = tile.mosaic.sides
        corners = tile.mosaic.corners
        if len(corners) > 1:
            terminal.part(f"{corners.index(tile.corner) + 1}/{len(corners)} tiles")
        for top, rows in tile.mosaic.add(tile.corner, values[:height, :width]):
            yield Rows(tile.key, tile.mosaic.size, top, rows)


def _mirrored_rows(raster: regions.Raster, top: int, count: int) -> np.ndarray:
    """Returns rows of an image continued below its end by its mirror image: [count, W, C]."""
    rows = sliding_window.mirror(np.arange(top, top + count), raster.height)
    first = int(rows.min())
    band = raster.read(first, int(rows.max()) + 1)
    return band if len(band) == count else band[rows - first]
