"""What the pages say: the settings, and every command."""

import importlib
import importlib.util
import pathlib
import re

import pytest

from trainer import flags

ROOT = pathlib.Path(__file__).parents[1]


def script(name):
    """Returns a script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"docs/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


WRITER = script("write_settings")


def test_the_page_of_settings_is_what_the_settings_say():
    page = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    assert page == WRITER.draw(), "run: python docs/write_settings.py"


def test_the_page_of_settings_has_every_command():
    commands = {}
    for package in ("trainer", "launch"):
        for path in (ROOT / package).rglob("*.py"):
            found = re.search(r"^ +flags\.run\(\s*([\w.]+)", path.read_text(), re.M)
            if found:
                name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                commands[name.removesuffix(".__main__")] = found[1].rpartition(".")[2]
    assert commands == {name: cls.__name__ for name, cls in WRITER.COMMANDS.items()}


@pytest.mark.parametrize("command", WRITER.COMMANDS)
def test_help_shows_fifteen_flags_of_a_command_that_has_more(command):
    cls = WRITER.COMMANDS[command]
    every = [field.name for field, _ in flags.fields(cls)]
    assert len(set(every)) == len(every)
    expected = min(len(every), flags.MOST_SHOWN)
    assert len(flags.common(cls)) == expected, "mark them by common=True where they are written"
