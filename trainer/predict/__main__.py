"""Entry point of prediction: `python -m trainer.predict --help`."""

import types

from trainer import cli, config
from trainer.checkpointing import run_metadata
from trainer.predict import distributed, parts, replicas
from trainer.storage import files


def main(settings: config.Predict) -> None:
    """Predicts; TensorFlow is imported only after the flags have been checked."""
    engine = distributed.engine(settings)
    if engine and settings.dry_run:
        cli.show(engine.described())
        return
    with cli.importing():
        from trainer.predict import predict_images, predict_volumes

    run_dirs = run_metadata.folders(settings.run_dir)
    files.register_stores(*run_dirs, settings.images, settings.output)
    run_dirs = run_metadata.with_folds(run_dirs)
    if run_dirs and run_metadata.rank_of(run_metadata.read(run_dirs[0])) == 3:
        story: types.ModuleType = predict_volumes
    else:
        story = predict_images
    if engine:
        distributed.predict(settings, engine, story)
    if settings.part == parts.OF_REPLICA:
        replicas.predict(settings, story.predict)
    else:
        story.predict(settings)


if __name__ == "__main__":
    cli.run(
        config.Predict,
        main,
        is_job=True,
        kept="--output has the masks that are finished, and the same command predicts the rest",
    )
