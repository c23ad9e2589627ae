"""Images in an evaluation: in batches of one shape, tile by tile where they are too large."""

import collections
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
            most_shapes: in which the images of a split are predicted, and as many in which tiles
                are; 0: each in its own shape.
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
        logits = self._logits(batch["images"], self._own_shapes(batch), forward)
        rows_of: dict[tuple[int, ...], list[int]] = collections.defaultdict(list)
        for row, (index, shape) in enumerate(
            zip(batch["case"].numpy(), self._own_shapes(batch).tolist(), strict=True)
        ):
            if index >= 0:
                rows_of[tuple(shape)].append(row)
        totals: collections.Counter[str] = collections.Counter()
        found_cases = []
        for (height, width), rows in rows_of.items():
            truth = {key: tf.gather(batch[key], rows)[:, :height, :width] for key in TRUTH}
            result = score(truth, tf.gather(logits, rows)[:, :height, :width])
            found = {key: value.numpy() for key, value in result.items()}
            ...
        return cases.Scored(totals, found_cases)
