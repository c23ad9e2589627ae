"""Entry point: `python -m trainer.data.prepare --help`."""

from trainer import config, flags
from trainer.data.prepare import preparation

if __name__ == "__main__":
    flags.run(config.Prepare, preparation.main)
