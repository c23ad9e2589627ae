"""Predicts volumes of any size: prepared as those of training, in windows, and brought back.

    import trainer
    masks = trainer.load("runs/organs").predict(array, spacing=(3.0, 0.7, 0.7))

The devices are given windows of the training crops' size, in batches of one shape. What is in
memory, besides the volume before and after it was prepared, is a band of windows.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf
from scipy import special

from trainer.data import preprocessing
from trainer.data.preprocessing import Prepared
from trainer.data.resampling import Slab
from trainer.distributed import strategies
from trainer.errors import InputError
from trainer.evaluate import ensemble, eval_step, sliding_window
from trainer.predict import masks


class VolumePredictor:
    """Networks of volumes with their best weights.

    Attributes:
        networks: what the devices compute.
        preprocessing: of the volumes that they were trained on.
    """

    def __init__(
        self,
        run_dirs: Sequence[str],
        strategy: tf.distribute.Strategy,
        *,
        tta: str = "none",
        batch_size: int = 0,
    ):
        """Reads the weights.

        Args:
            run_dirs: folders of runs on volumes; several are averaged.
            strategy: the devices.
            tta: see `symmetries.turns`: mirrored volumes whose predictions are averaged.
            batch_size: windows per step; 0: one on a CPU, four on each accelerator.

        Raises:
            InputError: if a folder holds no run that can be loaded, or runs are not alike.
        """
        with strategy.scope():
            self.networks = ensemble.Ensemble(run_dirs, tta)
        volumes = self.networks.volumes
        assert volumes is not None
        self.preprocessing = preprocessing.Preprocessing(volumes.channels, volumes.spacing)
        replicas = len(strategy.extended.worker_devices)
        on_cpu = strategies.device_kind(strategy) == "CPU"
        wanted = batch_size or replicas * (1 if on_cpu else 4)
        self._batch_size = -(-wanted // replicas) * replicas
        self._forward = eval_step.forward_step(
            strategy, self.networks.logits, jit_compile=not on_cpu
        )

    def predict(self, volume: np.ndarray, spacing: Sequence[float] | None = None) -> np.ndarray:
        """Returns the mask of a volume.

        Args:
            volume: [D, H, W] or [D, H, W, C], in the units of the training data's files.
            spacing: of its voxels, in mm along D, H and W; only where the training data kept
                their own spacing may it be left out.

        Returns:
            [D, H, W], the masks' own values, in the smallest integers that hold them.
        """
        values, spacing = self._checked(volume, spacing)
        ids = np.zeros(values.shape[:3], np.uint8)
        for _ in self.fill(ids, self.preprocessing.apply(values, spacing), spacing):
            pass
        return masks.lookup(self.networks.values)[self.networks.kept.apply(ids)]

    def probabilities(
        self, volume: np.ndarray, spacing: Sequence[float] | None = None
    ) -> np.ndarray:
        """Returns the probability of each class, float32 [D, H, W, K]; see `predict`."""
        values, spacing = self._checked(volume, spacing)
        prepared = self.preprocessing.apply(values, spacing)
        slabs = self.whole_probabilities(
            self.logits(prepared, spacing), prepared.box, values.shape[:3]
        )
        return np.concatenate([masks.every_class(slab) for _, slab in slabs])

    def logits(self, prepared: Prepared, spacing: Sequence[float]) -> Iterator[Slab]:
        """Predicts a prepared volume.

        Args:
            prepared: the volume.
            spacing: of the original.

        Yields:
            Slabs of the logits, float32 [n, h, w, K], in the original grid within `prepared.box`,
            without gaps from its first slice (0) to its last; of two classes K is 1.
        """
        windows = sliding_window.predict_windows(
            prepared.values,
            lambda parts: self._forward(tf.constant(parts)).numpy(),
            box=self.networks.box,
            batch_size=self._batch_size,
        )
        return self.preprocessing.restore_logits(windows, prepared.box, spacing)

    def fill(self, ids: np.ndarray, prepared: Prepared, spacing: Sequence[float]) -> Iterator[Slab]:
        """Predicts a prepared volume into its mask, while its slabs are taken; yields `logits`.

        Args:
            ids: uint8 [D, H, W], zeros; it becomes the class ids in the original grid.
            prepared: the volume.
            spacing: of the original.
        """
        inside = ids[tuple(slice(*ends) for ends in prepared.box.tolist())]
        for first, logits in self.logits(prepared, spacing):
            inside[first : first + len(logits)] = masks.ids_of_logits(logits)
            yield first, logits

    def whole_probabilities(
        self, slabs: Iterator[Slab], box: np.ndarray, shape: Sequence[int]
    ) -> Iterator[Slab]:
        """Yields probabilities from logits, where nothing was predicted those of the background.

        Args:
            slabs: of `logits`.
            box: int64 [3, 2], in which they are.
            shape: of the original volume.

        Yields:
            Slabs of float32 [n, H, W, K] from the original's first slice to its last; of two
            classes only the second's, K = 1.
        """
        several = len(self.networks.classes) > 2
        background = np.eye(len(self.networks.classes), dtype=np.float32)[0] if several else 0
        found = (
            (first, special.softmax(logits, axis=-1) if several else special.expit(logits))
            for first, logits in slabs
        )
        return preprocessing.uncrop(found, box, shape, outside=background)

    def _checked(
        self, volume: np.ndarray, spacing: Sequence[float] | None
    ) -> tuple[np.ndarray, Sequence[float]]:
        """Returns values [D, H, W, C] and their spacing.

        Raises:
            InputError: they are no volume like those that the networks were trained on.
        """
        values = volume[..., np.newaxis] if volume.ndim == 3 else volume
        if values.ndim != 4 or 0 in values.shape:
            raise InputError(
                f"The volume has shape {volume.shape}; expected D×H×W or D×H×W×C: the networks "
                "were trained on volumes."
            )
        self.check_channels(values.shape[3], "The volume")
        if not np.isfinite(values).all():
            raise InputError("The volume has values that are not finite; replace them.")
        target = self.preprocessing.spacing
        if spacing is None and target is not None:
            raise InputError(
                f"The networks take voxels of {'×'.join(f'{one:g}' for one in target)} mm; give "
                "spacing=(…, …, …), that of the volume along D, H and W, so that it is resampled."
            )
        if spacing is None:
            return values, (1.0, 1.0, 1.0)
        if len(spacing) != 3 or not all(0 < length < math.inf for length in spacing):
            raise InputError(
                f"spacing={tuple(spacing)} is not three lengths in mm; give those between the "
                "volume's voxels along D, H and W, such as (3.0, 0.7, 0.7)."
            )
        return values, spacing

    def check_channels(self, channels: int, label: str) -> None:
        """Raises InputError unless a volume has as many channels as the networks take."""
        if channels != self.networks.channels:
            names = ", ".join(one.name for one in self.preprocessing.channels)
            raise InputError(
                f"{label} has {channels} channels and the networks take {self.networks.channels} "
                f"({names}); give volumes of the same kind."
            )
