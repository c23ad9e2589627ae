"""What the pages say: the settings, and every command."""

import importlib.util
import re
import subprocess

import pytest

from tests import pages
from tests.pages import ROOT
from trainer import flags
from trainer.errors import InputError

COMMANDS = [
    pytest.param(command, id=f"{path.name}: {command}")
    for path in [*pages.PAGES, *pages.FLAG_FILES]
    for command in pages.commands_of(path)
]


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


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_of_a_page_is_one(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    pages.check(command)


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("python -m trainer.task --data_dri=data", InputError),
        ("python -m trainer.taks --data_dir=data", ImportError),
        ("python -m trainer.report --run_dir=runs/demo", InputError),
        ("python -m launch.local --workers=2 -- --data_dri=data", InputError),
        ("python -m launch.vertex --name=a --project=P --bucket=gs://B -- --stpes=3", InputError),
        ("python -m trainer.config", AssertionError),  # no command
        ("python docs/draw_augmentations.py --data=DATA", AssertionError),
        ("pip install '.[profil]'", AssertionError),
        ("make demos", subprocess.CalledProcessError),
        ("tensorboard --logidr runs", SystemExit),
    ],
)
def test_a_command_with_a_misspelt_word_is_found_out(command, error):
    with pytest.raises(error):
        pages.check(command)


def test_commands_are_found_in_blocks_and_in_text():
    text = """Write `python -m trainer.task
--steps=3` or

    $ python -m trainer.data.prepare --images=x \\
        --masks=y    # both
    what it prints

```python
import trainer
```

```
pip install '.[io]'
```

a pip is no command, and `make` alone is none."""
    found = pages.commands(text)
    assert found == [
        "python -m trainer.data.prepare --images=x --masks=y # both",
        "pip install '.[io]'",
        "python -m trainer.task --steps=3",
    ]
    assert pages.words(found[0])[-1] == "--masks=y"
    assert pages.words("x [--a=1] [more] --b=[0-9] RUN … > y") == ["x", "--a=1", "--b=[0-9]", "RUN"]
