"""Trains U-Nets with TensorFlow at any scale, from a folder of images to a TPU slice."""

from __future__ import annotations

import typing

from trainer.version import __version__

if typing.TYPE_CHECKING:
    from trainer.predict.predictor import Predictor
    from trainer.predict.volume_predictor import VolumePredictor


def load(
    *run_dirs: str, tta: str = "none", tile: int = 1024, batch_size: int = 0
) -> Predictor | VolumePredictor:
    """Returns what predicts images, or volumes, with the best weights of a run, or of several.

    Nothing heavy is imported before this is called.

    Args:
        *run_dirs: run folders, local or gs://; the probabilities of several are averaged.
        tta: "none", or "flips" or, of images, "d4": turned images whose predictions are averaged.
        tile: images longer than this are cut into overlapping tiles of this side; volumes always
            have windows of the training crop's size.
        batch_size: full tiles, or windows, per step; 0: one on a CPU, four on each accelerator.

    Raises:
        trainer.errors.InputError: a folder holds no run with weights.
    """
    from trainer.predict import load as loading

    return loading.load(*run_dirs, tta=tta, tile=tile, batch_size=batch_size)


__all__ = ["__version__", "load"]
