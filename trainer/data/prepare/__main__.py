"""Entry point: `python -m trainer.data.prepare --help`."""

from trainer import cli, config
from trainer.data.prepare import preparation

if __name__ == "__main__":
    cli.run(config.Prepare, preparation.main)
