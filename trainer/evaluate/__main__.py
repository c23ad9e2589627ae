"""Entry point of evaluation: `python -m trainer.evaluate --help`."""

from trainer import cli, config
from trainer.storage import files


def main(settings: config.Evaluate) -> None:
    """Evaluates; TensorFlow is imported only after the flags have been checked."""
    with cli.importing():
        from trainer.evaluate import evaluate_run

    files.register_stores(settings.run_dir, settings.data_dir, settings.output, settings.json)
    evaluate_run.evaluate_run(settings)


if __name__ == "__main__":
    cli.run(
        config.Evaluate,
        main,
        kept="an evaluation is written when it is complete, and the same command starts it again",
    )
