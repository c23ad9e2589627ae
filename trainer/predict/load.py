"""Networks for arrays, whatever their runs were trained on: `trainer.load`."""

from trainer.checkpointing import run_metadata
from trainer.distributed import strategies
from trainer.predict.predictor import Predictor
from trainer.predict.volume_predictor import VolumePredictor


def load(
    *run_dirs: str, tta: str = "none", tile: int = 1024, batch_size: int = 0
) -> Predictor | VolumePredictor:
    """Returns a predictor of runs, or cross-validations, on the devices of this machine."""
    strategy, folders = strategies.connect("auto"), run_metadata.with_folds(run_dirs)
    if run_metadata.rank_of(run_metadata.read(folders[0])) == 3:
        return VolumePredictor(folders, strategy, tta=tta, batch_size=batch_size)
    return Predictor(folders, strategy, tta=tta, tile=tile, batch_size=batch_size)
