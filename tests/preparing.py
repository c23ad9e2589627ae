"""Runs the preparation of data as its command does, in the process of the tests."""

import pytest

from trainer import cli, config
from trainer.data.dataset import schema
from trainer.data.prepare import preparation


def arguments(folder, *others):
    given = [argument.split("=")[0] for argument in others]
    defaults = {
        "--images": folder / "images",
        "--masks": folder / "masks",
        "--output": folder / "out",
        "--workers": 1,
        "--seed": 3,  # which draws 7, 2 and 1 of the ten
    }
    return [*(f"{k}={v}" for k, v in defaults.items() if k not in given), *others]


def prepare(folder, *others):
    """Runs the command in this process and returns the manifest that it wrote."""
    cli.run(config.Prepare, preparation.main, ["prepare", *arguments(folder, *others)])
    output = [other.removeprefix("--output=") for other in others if other.startswith("--output=")]
    return schema.read_manifest(output[0] if output else str(folder / "out"))


def refusal(capfd, folder, *others, num_notes=0):
    """Runs the command, checks that it fails as it must, and returns the line that says why.

    That is the only one on stderr, except so many notes on what has been found before.
    """
    capfd.readouterr()
    before = sorted(folder.rglob("*"))
    with pytest.raises(SystemExit) as stop:
        cli.run(config.Prepare, preparation.main, ["prepare", *arguments(folder, *others)])
    assert stop.value.code == 2
    assert sorted(folder.rglob("*")) == before, "something is left"
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == num_notes + 1, lines
    return lines[-1].replace(str(folder), "DIR")


def examples(folder, manifest, side):
    for shard in manifest.splits[side].shards:
        for serialized in schema.read_shard(str(folder / "out"), shard):
            yield {key: value.numpy() for key, value in schema.decode(serialized, manifest).items()}
