"""Volumes in an evaluation: predicted in windows, compared in the grids of their files."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.data import preprocessing
from trainer.data.dataset import schema, shard_cache
from trainer.data.input import pipeline
from trainer.data.resampling import Slab
from trainer.errors import InputError
from trainer.evaluate import cases, eval_step, sliding_window
from trainer.ignore_label import IGNORE

SLAB_VOXELS = 2**24  # compared at once; larger volumes are compared slab by slab
MULTIPLE = 32  # of the sides of what is compared, so that few shapes are traced
CERTAIN = 20.0  # logit of the background outside the part of a volume that is predicted


class WindowedVolumes:
    """The volumes of a data folder, one by one."""

    def __init__(
        self,
        data_dir: str,
        manifest: schema.Manifest,
        box: Sequence[int],
        batch_size: int,
        cache: shard_cache.ShardCache | None = None,
    ):
        """Reads nothing yet.

        Args:
            data_dir: the data folder.
            manifest: of that folder, with volumes.
            box: D, H, W of a window: of the training crops.
            batch_size: windows that are predicted at once.
            cache: of the shards, on this machine.
        """
        assert manifest.volumes is not None
        self._data_dir, self._manifest, self._cache = data_dir, manifest, cache
        self._box, self._batch_size = tuple(box), batch_size
        self._preprocessing = preprocessing.Preprocessing(
            manifest.volumes.channels, manifest.volumes.spacing
        )

    def check(self, *splits: str) -> None:
        """Raises InputError if these splits have blocks of volumes in place of volumes."""
        assert self._manifest.volumes is not None
        if "train" in splits and self._manifest.volumes.block is not None:
            raise InputError(
                "--split=train has volumes that were cut into blocks, which cannot be compared "
                "with their files; evaluate val or test, or prepare the data with a larger --block."
            )

    def read(self, split: str, worker: int, num_workers: int) -> tf.data.Dataset:
        """Returns this worker's volumes of a split, see `pipeline.evaluation_volumes`."""
        return pipeline.evaluation_volumes(
            self._data_dir,
            self._manifest,
            split,
            worker=worker,
            num_workers=num_workers,
            cache=self._cache,
        )

    def read_ahead(self, split: str) -> int:
        """Returns how many volumes may have been read after the last one that was evaluated."""
        return pipeline.VOLUMES_READ_AHEAD

    def score(
        self,
        volume: Mapping[str, tf.Tensor],
        forward: Callable[[tf.Tensor], tf.Tensor],
        score: Callable[[Any, tf.Tensor], Mapping[str, tf.Tensor]],
    ) -> cases.Scored:
        """Predicts a volume and compares it with its mask, in the grid of its file.

        Args:
            volume: an element of `read`.
            forward: windows float32 [B, *box, C] → logits [B, *box, K].
            score: see `eval_step.score`.
        """
        mask = volume["original_mask"].numpy()
        spacing = volume["geometry"].numpy()[:3].tolist()
        parts = []
        sides = _compared(mask.shape)
        for first, logits in _of_height(
            self._logits(volume, forward, mask.shape, spacing), sides[0]
        ):
            part = mask[first : first + len(logits)]
            found = score(_batch(part, sides), _filled(logits, sides))
            parts.append({key: value.numpy() for key, value in found.items()})
        of_maps = ("predicted", "confidence")
        total = {key: sum(part[key] for part in parts) for key in parts[0] if key not in of_maps}
        depth, height, width = mask.shape
        maps = {
            key: np.concatenate([part[key][0] for part in parts])[:depth, :height, :width]
            for key in of_maps
        }
        case = cases.Case(
            index=int(volume["case"]),
            dice=cases.mean_dice(total["counts"][0]),
            image=_nearest(volume["image"].numpy(), volume["box"].numpy(), mask.shape),
            labels=np.where(mask == IGNORE, np.uint8(0), mask),
            valid=mask != IGNORE,
            spacing=tuple(spacing),
            **maps,
        )
        return cases.Scored(
            {key: value for key, value in total.items() if key not in eval_step.OF_CASE},
            [(case, total["counts"][0], total["soft"][0])],
        )

    def _logits(
        self,
        volume: Mapping[str, tf.Tensor],
        forward: Callable[[tf.Tensor], tf.Tensor],
        shape: Sequence[int],
        spacing: Sequence[float],
    ) -> Iterator[Slab]:
        """Yields slabs of the logits [n, H, W, K] of the whole file, from its first to its last."""
        box = volume["box"].numpy()
        windows = sliding_window.predict_windows(
            volume["image"].numpy(),
            lambda images: forward(tf.constant(images)).numpy(),
            box=self._box,
            batch_size=self._batch_size,
        )
        first = next(windows)
        background = np.zeros(first[1].shape[-1], np.float32)
        background[0] = CERTAIN if len(background) > 1 else -CERTAIN
        restored = self._preprocessing.restore_logits(
            itertools.chain([first], windows), box, spacing
        )
        return preprocessing.uncrop(restored, box, shape, outside=background)


def _compared(shape: Sequence[int]) -> tuple[int, ...]:
    """Returns the sides of the slabs in which a volume is compared."""
    depth, *plane = (-(-side // MULTIPLE) * MULTIPLE for side in shape)
    return min(depth, max(1, SLAB_VOXELS // math.prod(plane))), *plane


def _of_height(slabs: Iterable[Slab], height: int) -> Iterator[Slab]:
    """Yields the same slices in slabs of one height; the last one may be lower."""
    held, first = list[np.ndarray](), 0
    for _, values in slabs:
        held.append(values)
        while sum(map(len, held)) >= height:
            joined = np.concatenate(held)
            yield first, joined[:height]
            held, first = [joined[height:]], first + height
    if sum(map(len, held)):
        yield first, np.concatenate(held)


def _batch(mask: np.ndarray, sides: Sequence[int]) -> dict[str, tf.Tensor]:
    """Returns a part of a mask as a batch of one, filled up with voxels that do not count."""
    extra = [(0, side - length) for side, length in zip(sides, mask.shape, strict=True)]
    filled = np.pad(mask, extra, constant_values=IGNORE)[np.newaxis]
    known = filled != IGNORE
    return {
        "labels": tf.constant(np.where(known, filled, 0), tf.int32),
        "valid": tf.constant(known, tf.float32),
    }


def _filled(logits: np.ndarray, sides: Sequence[int]) -> tf.Tensor:
    extra = [(0, side - length) for side, length in zip(sides, logits.shape[:3], strict=True)]
    return tf.constant(np.pad(logits, [*extra, (0, 0)])[np.newaxis])


def _nearest(image: np.ndarray, box: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Returns what a network saw of a volume, in the grid of its file: float32 [D0, H0, W0, C].

    It is to be looked at: each voxel takes the nearest one; outside the box, the nearest inside.
    """
    places = []
    for axis, ((first, end), length) in enumerate(zip(box.tolist(), shape, strict=True)):
        count = image.shape[axis]
        inside = (np.arange(length) - first + 0.5) * count / (end - first)
        places.append(np.clip(inside.astype(int), 0, count - 1))
    return image[np.ix_(*places)]
