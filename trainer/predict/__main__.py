"""Entry point of prediction: `python -m trainer.predict --help`."""

from trainer import cli, config
from trainer.checkpointing import run_metadata
from trainer.storage import files


def main(settings: config.Predict) -> None:
    """Predicts; TensorFlow is imported only after the flags have been checked."""
    with cli.importing():
        from trainer.predict import predict_images, predict_volumes

    run_dirs = run_metadata.folders(settings.run_dir)
    files.register_stores(*run_dirs, settings.images, settings.output)
    run_dirs = run_metadata.with_folds(run_dirs)
    if run_dirs and run_metadata.rank_of(run_metadata.read(run_dirs[0])) == 3:
        predict_volumes.predict(settings)
    else:
        predict_images.predict(settings)


if __name__ == "__main__":
    cli.run(config.Predict, main)
