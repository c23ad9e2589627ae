"""Commands as they are printed, and the name under which all are found."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import trainer.__main__ as door
from trainer import commands


def unet(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "trainer", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def test_a_printed_command_is_quoted_and_leaves_what_people_fill_in():
    assert commands.line("trainer.predict", "--run_dir=a b", "--images=…") == (
        "python -m trainer.predict '--run_dir=a b' --images=…"
    )


def test_without_an_active_environment_a_printed_command_has_its_path(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    folder = pathlib.Path(sys.executable).parent
    assert commands.line("trainer.task") == f"{folder}/python -m trainer.task"
    monkeypatch.chdir(folder.parent)
    assert commands.line("trainer.task") == f"{folder.name}/python -m trainer.task"
    interpreter = tmp_path / "bin/python3"
    interpreter.parent.mkdir()
    interpreter.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    assert commands.line("trainer.task") == f"{interpreter} -m trainer.task"
    monkeypatch.setenv("PATH", str(interpreter.parent))
    assert commands.line("trainer.task") == "python3 -m trainer.task"
    assert commands.script("tensorboard", "--logdir", "a b") == "tensorboard --logdir 'a b'"


def test_the_list_of_commands_fits_a_screen():
    lines = door.describe().splitlines()
    assert len(lines) < 24
    assert max(map(len, lines)) <= 80
    assert unet("--helpfull").stdout.splitlines() == lines
    assert unet("--help").stdout.splitlines() == unet().stdout.splitlines() == lines
    closed = f"{sys.executable} -m trainer --help | true"  # as `head` may do
    assert not subprocess.run(["sh", "-c", closed], capture_output=True, check=True).stderr


@pytest.mark.parametrize("name", door.COMMANDS)
def test_every_command_is_a_module_with_help(name):
    module = door.COMMANDS[name][0]
    found = unet(name, "--help")
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith(f"python -m {module} [--flag=value …]")


def test_an_unknown_command_is_one_line():
    found = unet("predicted")
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == "predicted is no command of unet; did you mean predict?\n"
    assert unet("fly").stderr == "fly is no command of unet; unet --help lists them.\n"


def test_a_command_is_what_its_module_is_processes_and_refusals_included(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for number in range(6):
            pixels = np.arange(256, dtype=np.uint8).reshape(16, 16) % (
                2 if folder == "masks" else 99
            )
            Image.fromarray(pixels + number * (folder == "images")).save(
                tmp_path / folder / f"{number}.png"
            )
    places = [f"--{name}={tmp_path}/{name}" for name in ("images", "masks")]
    made = unet("prepare", *places, f"--output={tmp_path}/data", "--workers=2")
    assert made.returncode == 0, made.stderr
    assert "Wrote 6 images" in made.stderr
    refused = unet("prepare", *places, "--workers=x", env={**os.environ, "COLUMNS": "80"})
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
