"""Entry point of cross-validation: `python -m trainer.crossval --help`.

Each fold is trained and evaluated by a process of its own. This one never imports TensorFlow.
"""

from trainer import cli, config
from trainer.crossval import cross_validate
from trainer.storage import files


def main(settings: config.CrossValidation) -> None:
    """Trains, evaluates and summarises the folds."""
    files.register_stores(settings.job.data.data_dir, settings.job.run.run_dir)
    cross_validate.cross_validate(settings)


if __name__ == "__main__":
    cli.run(config.CrossValidation, main)
