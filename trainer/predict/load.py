"""Networks for arrays, whatever their runs were trained on: `trainer.load`."""

from trainer.checkpointing import run_metadata
from trainer.distributed import strategies
from trainer.predict.predictor import Predictor
from trainer.predict.volume_predictor import VolumePredictor


def load(
    *run_dirs: str, tta: str = "none", tile: int = 1024, batch_size: int = 0
) -> Predictor | VolumePredictor:
    """Returns a predictor of runs, or cross-validations, on the devices of this machine."""
    strategy = strategies.connect("auto")
    first, *_ = run_metadata.with_folds(run_dirs)
    if run_metadata.rank_of(run_metadata.read(first)) == 3:
        return VolumePredictor(run_dirs, strategy, tta=tta, batch_size=batch_size)
    return Predictor(run_dirs, strategy, tta=tta, tile=tile, batch_size=batch_size)
