"""Entry point: `python -m trainer.data.prepare --help`."""

from trainer import cli, config
from trainer.data.prepare import preparation

if __name__ == "__main__":
    cli.run(
        config.Prepare,
        preparation.main,
        kept="--output keeps what has been read and written, and the same command resumes",
    )
