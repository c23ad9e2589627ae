"""Entry point of exports: `python -m trainer.export --help`."""

from absl import logging

from trainer import cli, config, export
from trainer.storage import files


def main(settings: config.Export) -> None:
    """Exports; TensorFlow is imported only after the flags have been checked."""
    files.register_stores(settings.run_dir, settings.data_dir, settings.output)
    output = settings.output or f"{settings.run_dir.rstrip('/')}/export"
    export.write(settings.run_dir, output, settings)
    logging.info("Exported %s to %s", settings.run_dir, output)


if __name__ == "__main__":
    cli.run(config.Export, main)
