"""Shows the checkpoints of a run.

python -m trainer.checkpointing list RUN
python -m trainer.checkpointing verify RUN
"""

import os
import sys
from collections.abc import Sequence

from trainer import cli, config, text_table
from trainer.checkpointing import checkpoint
from trainer.errors import InputError
from trainer.storage import files


def main(settings: config.Checkpoint) -> None:
    """Lists the checkpoints of a run as a table; `verify` reads every byte of them."""
    rows = [["folder", "step", "MB", "written (UTC)", "state"]]
    damaged = 0
    for kind in ("checkpoints", "best"):
        directory = os.path.join(settings.run_dir, kind)
        for name in filter(str.isdecimal, files.list_folder(directory)):
            row, whole = _table_row(kind, directory, name, settings.action == "verify")
            rows.append(row)
            damaged += not whole
    if len(rows) == 1:
        raise InputError(
            f"--run_dir={settings.run_dir} has no checkpoints; name a folder that trainer.task "
            "wrote."
        )
    cli.show("\n".join(text_table.aligned(rows)))
    if damaged:
        raise InputError(
            f"{damaged} of {len(rows) - 1} checkpoints are damaged or incomplete; trainer.task "
            "skips them and resumes from the newest complete one."
        )


def _table_row(kind: str, directory: str, name: str, every_byte: bool) -> tuple[list[str], bool]:
    folder = os.path.join(directory, name)
    commit = checkpoint.read_commit(folder)
    if commit is None:
        return [kind, str(int(name)), "", "", "unfinished"], False
    fault = checkpoint.find_fault(folder, commit, every_byte=every_byte)
    megabytes = sum(entry["bytes"] for entry in commit["files"].values()) / 1e6
    sound = "whole" if every_byte else "committed"
    state = fault or sound
    return [kind, str(commit["step"]), f"{megabytes:.1f}", commit["written"][:19], state], not fault


def _with_flags(argv: Sequence[str]) -> list[str]:
    """Lets the action and the folder be given without their flags' names."""
    names = iter(("--action=", "--run_dir="))
    return [argv[0]] + [
        argument if argument.startswith("-") else f"{next(names, '')}{argument}"
        for argument in argv[1:]
    ]


if __name__ == "__main__":
    cli.run(config.Checkpoint, main, _with_flags(sys.argv))
