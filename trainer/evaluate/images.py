"""Images in an evaluation: in batches of one size, tile by tile where they are too large."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.config import network_levels
from trainer.data.dataset import schema, shard_cache
from trainer.data.input import pipeline
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
            cache: of the shards, on this machine.
        """
        self._data_dir, self._manifest, self._cache = data_dir, manifest, cache
        self._normalize = normalize
        self._strides = network_levels.total_stride(levels)  # along each axis
        self._halo = sliding_window.halo_of(levels)
        self._stride = math.lcm(*self._strides)  # of what is alike along all axes
        self._tile = tile // self._stride * self._stride
        self._batch_size, self._tiles_at_once = batch_size, tiles_at_once

    def check(self, *splits: str) -> None:
        """Raises InputError if images of these splits are to be cut into too small tiles."""
        multiple = pipeline.padded_to(self._stride)
        for split in splits:
            for *sides, _ in self._manifest.splits[split].sizes:
                for side, *of_axis in zip(sides, self._halo, self._strides, strict=True):
                    length = -(-side // multiple) * multiple
                    if length > self._tile:
                        sliding_window.starts(length, self._tile, *of_axis)

    def read(self, split: str, worker: int, num_workers: int) -> tf.data.Dataset:
        """Returns this worker's batches of a split, see `pipeline.evaluation_batches`."""
        return pipeline.evaluation_batches(
            self._data_dir,
            self._manifest,
            split,
            stride=self._stride,
            batch_size=self._batch_size,
            normalize=self._normalize,
            tile=self._tile,
            worker=worker,
            num_workers=num_workers,
            cache=self._cache,
        )

    def read_ahead(self, split: str) -> int:
        """Returns how many images may have been read after the last one that was evaluated."""
        sizes = (self._stride, self._batch_size, self._tile)
        return pipeline.examples_read_ahead(self._manifest.splits[split], *sizes)

    def score(
        self,
        batch: Batch,
        forward: Callable[[tf.Tensor], tf.Tensor],
        score: Callable[[Batch, tf.Tensor], Mapping[str, tf.Tensor]],
    ) -> cases.Scored:
        """Predicts a batch and compares it with its masks.

        Args:
            batch: an element of `read`.
            forward: images float32 [B, H, W, C] → logits [B, H, W, K].
            score: see `eval_step.score`.
        """
        result = score(batch, self._logits(batch["images"], forward))
        found = {key: value.numpy() for key, value in result.items()}
        rows = [row for row, index in enumerate(batch["case"].numpy()) if index >= 0]
        return cases.Scored(
            {key: value for key, value in found.items() if key not in eval_step.OF_CASE},
            [
                (
                    cases.case_of(batch, found, row, self._manifest.dtype),
                    found["counts"][row],
                    found["soft"][row],
                )
                for row in rows
            ],
        )

    def _logits(self, images: tf.Tensor, forward: Callable[[Any], tf.Tensor]) -> tf.Tensor:
        """Returns the logits of a batch, tile by tile where its images are too large."""
        if max(images.shape[1:3]) <= self._tile:
            return forward(images)
        whole = [
            sliding_window.predict_tiled(
                image.numpy(),
                lambda parts: forward(tf.constant(parts)).numpy(),
                tile=(self._tile, self._tile),
                halo=self._halo,
                stride=self._strides,
                batch_size=self._tiles_at_once,
            )
            for image in images
        ]
        return tf.constant(np.stack(whole))
