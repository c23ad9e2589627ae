"""Entry point: `python -m trainer.data.prepare --help`."""

from trainer import cli, config


def main(settings: config.Prepare) -> None:
    """Prepares; what that takes is imported only after the flags have been checked."""
    from trainer.data.prepare import preparation

    preparation.main(settings)


if __name__ == "__main__":
    cli.run(
        config.Prepare,
        main,
        kept="--output keeps what has been read and written, and the same command resumes",
    )
