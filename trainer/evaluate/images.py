"""Images in an evaluation: in batches of one shape, tile by tile where they are too large."""

import collections
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.config import network_levels
from trainer.data.dataset import schema, shard_cache
from trainer.data.input import padded_shapes, pipeline
from trainer.evaluate import cases, eval_step, sliding_window

Batch = Mapping[str, tf.Tensor]


class TiledImages:
    """The images of a data folder, whole, in batches."""

    def __init__(
        self,
        data_dir: str,
        manifest: schema.Manifest,
        levels: Sequence[network_levels.Level],
        *,
        normalize: str,
        tile: int,
        batch_size: int,
        tiles_at_once: int,
        most_shapes: int = 0,
        cache: shard_cache.ShardCache | None = None,
    ):
        """Reads nothing yet.

        Args:
            data_dir: the data folder.
            manifest: of that folder.
            levels: of the network.
            normalize: a key of `normalization.NORMALIZATIONS`.
            tile: side above which images are cut into tiles of this side.
            batch_size: images that are predicted at once.
            tiles_at_once: tiles that are predicted at once.
            most_shapes: in which the images of a split are predicted, and as many in which its
                tiles are; 0: each in its own shape.
            cache: of the shards, on this machine.
        """
        self._data_dir, self._manifest, self._cache = data_dir, manifest, cache
        self._normalize = normalize
        self._strides = network_levels.total_stride(levels)  # along each axis
        self._halo = sliding_window.halo_of(levels)
        self._stride = math.lcm(*self._strides)  # of what is alike along all axes
        self._tile = tile // self._stride * self._stride
        self._batch_size, self._tiles_at_once = batch_size, tiles_at_once
        self._most_shapes = most_shapes
        self._of_images: dict[str, list[padded_shapes.Shape]] = {}  # of each split that is read
        self._of_tiles: dict[str, list[padded_shapes.Shape]] = {}

    def check(self, *splits: str) -> None:
        """Raises InputError if images of these splits are to be cut into too small tiles."""
        for split in splits:
            for *sides, _ in self._manifest.splits[split].sizes:
                for side, *of_axis in zip(sides, self._halo, self._strides, strict=True):
                    length = padded_shapes.own(side, self._stride)
                    if length > self._tile:
                        sliding_window.starts(length, self._tile, *of_axis)

    def read(self, split: str, worker: int, num_workers: int) -> tf.data.Dataset:
        """Returns this worker's batches of a split, see `pipeline.evaluation_batches`."""
        self._choose_shapes(split)
        return pipeline.evaluation_batches(
            self._data_dir,
            self._manifest,
            split,
            stride=self._stride,
            batch_size=self._batch_size,
            normalize=self._normalize,
            tile=self._tile,
            shapes=self._of_images[split],
            worker=worker,
            num_workers=num_workers,
            cache=self._cache,
        )

    def read_ahead(self, split: str) -> int:
        """Returns how many images may have been read after the last one that was evaluated."""
        sizes = (self._stride, self._batch_size, self._tile, self._of_images[split])
        return pipeline.examples_read_ahead(self._manifest.splits[split], *sizes)

    def score(
        self,
        batch: Batch,
        forward: Callable[[Any], tf.Tensor],
        score: Callable[[Batch, tf.Tensor], Mapping[str, tf.Tensor]],
    ) -> cases.Scored:
        """Predicts a batch and compares it with its masks, each image in its own shape.

        Args:
            batch: an element of `read`.
            forward: of `eval_step.of_parts`: images float32 [B, H, W, C] → logits [B, H, W, K].
            score: see `eval_step.score`.
        """
        sizes = padded_shapes.own(batch["size"], self._stride)
        logits = self._logits(batch["images"], sizes, forward)
        rows_of: dict[tuple[int, ...], list[int]] = collections.defaultdict(list)
        arrays = {key: value.numpy() for key, value in batch.items()}  # a slice of a tensor is slow
        for row, shape in enumerate(sizes.numpy().tolist()):
            if arrays["case"][row] >= 0:
                rows_of[tuple(shape)].append(row)
        totals: dict[str, np.ndarray] = {}
        found = []
        for shape, rows in rows_of.items():
            truth = {key: _part(batch[key], rows, shape) for key in ("labels", "valid")}
            result = {
                key: value.numpy()
                for key, value in score(truth, _part(logits, rows, shape)).items()
            }
            for key, value in result.items():
                if key not in eval_step.OF_CASE:
                    totals[key] = totals[key] + value if key in totals else value
            for place, row in enumerate(rows):
                of_case = {key: result[key][place] for key in eval_step.OF_CASE}
                case = cases.case_of(arrays, row, of_case, self._manifest.dtype)
                found.append((case, of_case["counts"], of_case["soft"]))
        return cases.Scored(totals, found)

    def _choose_shapes(self, split: str) -> None:
        """Chooses in which shapes the images of a split, and tiles of them, are predicted."""
        sizes = np.array(self._manifest.splits[split].sizes)
        own, counts = padded_shapes.own(sizes[:, :-1], self._stride), sizes[:, -1]
        fits = own.max(axis=1) <= self._tile
        whole, tiles = own[fits], np.minimum(own[~fits], self._tile)
        most = self._most_shapes
        self._of_images[split] = padded_shapes.few(whole, counts[fits], self._batch_size, most)
        self._of_tiles[split] = padded_shapes.few(tiles, counts[~fits], self._tiles_at_once, most)

    def _logits(
        self, images: tf.Tensor, sizes: tf.Tensor, forward: Callable[[Any], tf.Tensor]
    ) -> tf.Tensor:
        """Returns the logits of a batch, tile by tile where its images are too large.

        Args:
            images: float32 [B, H, W, C].
            sizes: int32 [B, 2], own shapes of the images, in which they have their results.
            forward: see `score`.
        """
        shape = tuple(images.shape[1:3])
        if max(shape) <= self._tile:
            is_shared = any(shape in shapes for shapes in self._of_images.values())
            return forward((images, sizes)) if is_shared else forward(images)
        whole = [
            sliding_window.predict_tiled(
                image.numpy(),
                functools.partial(self._logits_of_tiles, forward),
                tile=(self._tile, self._tile),
                halo=self._halo,
                stride=self._strides,
                batch_size=self._tiles_at_once,
            )
            for image in images
        ]
        return tf.constant(np.stack(whole))

    def _logits_of_tiles(
        self, forward: Callable[[Any], tf.Tensor], tiles: np.ndarray
    ) -> np.ndarray:
        """Returns the logits of tiles, float32 [B, h, w, C], which are predicted in few shapes."""
        count, height, width, _ = tiles.shape
        shapes = [shape for of_split in self._of_tiles.values() for shape in of_split]
        if not shapes:
            return forward(tf.constant(tiles)).numpy()
        shape = padded_shapes.covering(shapes, (height, width)).numpy()
        beyond = [(0, 0), (0, shape[0] - height), (0, shape[1] - width), (0, 0)]
        sizes = tf.tile(tf.constant([[height, width]]), (count, 1))
        return forward((tf.constant(np.pad(tiles, beyond)), sizes)).numpy()[:, :height, :width]


def _part(values: tf.Tensor, rows: Sequence[int], shape: Sequence[int]) -> tf.Tensor:
    """Returns some rows of [B, H, W, …], in a shape of their own; no copy of what is all of it."""
    height, width = shape
    if [len(rows), height, width] == values.shape[:3].as_list():
        return values
    return tf.gather(values, rows)[:, :height, :width]
