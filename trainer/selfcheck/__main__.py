"""Proof that several replicas train like one, on this machine: `python -m trainer.selfcheck`."""

import sys

from trainer import cli, config
from trainer.storage import files


def main(settings: config.SelfCheck) -> None:
    """Checks; the exit status is 1 where replicas do not train like one."""
    with cli.importing():
        from trainer.selfcheck import invariance

    files.register_stores(settings.json)
    if not invariance.check(settings):
        sys.exit(1)


if __name__ == "__main__":
    cli.run(config.SelfCheck, main)
