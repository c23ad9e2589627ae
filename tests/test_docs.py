"""What the pages say: the settings, and every command."""

import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
import warnings
from unittest import mock

import nbclient
import nbformat
import numpy as np
import pytest
import tifffile
from PIL import Image

from tests import jobs, pages
from tests.pages import ROOT
from tests.shards import draw_discs
from trainer.config import flags
from trainer.data.dataset import schema
from trainer.errors import InputError

README = set(
    pages.commands(
        (ROOT / "README.md")
        .read_text(encoding="utf-8")
        .partition("## Your own images")[2]
        .partition("\n## ")[0]
    )
)
QUICK = {
    *("checkpointing", "compare", "data.inspect", "data.prepare", "data.synthetic", "evaluate"),
    *("predict", "report"),
}
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


def is_quick(command):
    """Returns whether a command takes only seconds; the README's are in test_package."""
    found = re.match(r"python -m trainer\.(\S+)", command)
    elsewhere = command in README or "://" in command or "=…" in command
    return bool(found) and found[1] in QUICK and not elsewhere


WRITER = script("write_settings")


def test_the_page_of_settings_is_what_the_settings_say():
    page = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    assert page == WRITER.draw(), "run: python docs/write_settings.py"


def test_the_page_of_settings_has_every_command():
    commands = {}
    for package in ("trainer", "launch"):
        for path in (ROOT / package).rglob("*.py"):
            found = re.search(r"^ +cli\.run\(\s*([\w.]+)", path.read_text(), re.M)
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
        ("python -m trainer.errors", AssertionError),  # no command
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


@pytest.mark.slow
def test_help_of_every_command_takes_no_tensorflow():
    code = """import contextlib, runpy, sys
for name in sys.argv[1:]:
    sys.argv = [name, "--help"]
    with contextlib.suppress(SystemExit):
        runpy.run_module(name, run_name="__main__")
    assert "tensorflow" not in sys.modules, name
"""
    command = [sys.executable, "-W", "ignore", "-c", code, *WRITER.COMMANDS]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("[--flagfile=FILE]") == len(WRITER.COMMANDS)


@pytest.mark.parametrize("path", pages.FLAG_FILES, ids=lambda path: path.name)
def test_a_preset_begins_with_what_to_expect(path):
    comment, _, settings = path.read_text(encoding="utf-8").partition("\n--")
    assert all(line.startswith("#") for line in comment.splitlines())
    assert "#" not in settings
    assert re.findall(r"^# (\w+): .", comment, re.M) == ["Data", "Time", "Score"]
    assert any(f"--flagfile=configs/{path.name}" in line for line in pages.commands_of(path))


@pytest.mark.slow
@pytest.mark.long
def test_the_site_is_built_with_every_link_and_picture(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={tmp_path}"]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    home = (tmp_path / "index.html").read_text()
    assert 'href="data/"' in home
    assert (tmp_path / "data/index.html").exists()
    assert 'href="source/LICENSE/"' in home  # a file outside docs/
    assert (tmp_path / "source/LICENSE/index.html").exists()
    assert "trainer.models.build_unet" in (tmp_path / "api/index.html").read_text()
    assert (tmp_path / "quickstart.ipynb").exists()
    assert not list(tmp_path.glob("*.py"))


@pytest.mark.slow
@pytest.mark.long
def test_the_notebook_runs_and_finds_nuclei(tmp_path, monkeypatch):
    path = ROOT / "docs/quickstart.ipynb"
    assert path.stat().st_size < 100_000
    notebook = nbformat.read(path, as_version=4)
    assert sum("--steps=60" in cell.source for cell in notebook.cells) == 1
    for cell in notebook.cells:
        cell.source = cell.source.replace("--steps=60", "--steps=12")
        cell.source = cell.source.replace("--eval_every=30", "--eval_every=12 --panels=0")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()
    (run,) = tmp_path.glob("*/run")
    assert len(list((run.parent / "predicted").glob("*.png"))) == 24
    pictures = [
        output.data["image/jpeg"]
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if "image/jpeg" in output.get("data", {})
    ]
    assert len(pictures) == 4


def test_the_way_to_get_started_is_that_of_the_readme():
    start = pages.commands_of(ROOT / "docs/start.md")
    assert {command for command in start if "-m trainer." in command} == README


def run(command):
    """Runs a command in this process; but `prepare`, which starts others that begin as it did."""
    _, _, module, *argv = pages.words(command)
    if module == "trainer.data.prepare":
        subprocess.run([sys.executable, "-m", module, *argv], check=True)
    else:
        with mock.patch.object(sys, "argv", [module, *argv]), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the module was imported before
            runpy.run_module(module, run_name="__main__")


@pytest.mark.slow
def test_the_quick_commands_of_the_pages_run_as_they_are_written(data_dir, tmp_path, monkeypatch):
    assert jobs.train(data_dir, tmp_path / "RUN").returncode == 0
    for name in ("runs/demo", "runs/a", "runs/b", "RUN_A", "RUN_B"):
        shutil.copytree(tmp_path / "RUN", tmp_path / name)
    for name in ("DATA", "DIR"):
        (tmp_path / name).symlink_to(data_dir)
    rng = np.random.default_rng(0)
    for name in ("photos", "stacks", "masks"):
        (tmp_path / name).mkdir()
    for name in ("a", "b", "c"):
        image, mask = draw_discs(rng, 40, 40, 1, 2)
        tifffile.imwrite(tmp_path / f"stacks/{name}.tif", np.stack([image[..., 0]] * 2))
        tifffile.imwrite(tmp_path / f"masks/{name}.tif", np.stack([mask % schema.IGNORE] * 2))
        Image.fromarray(image[..., 0]).save(tmp_path / f"photos/{name}.png")
    every = [command for path in pages.PAGES for command in pages.commands_of(path)]
    quick = list(dict.fromkeys(filter(is_quick, every)))
    assert len(quick) > 10
    monkeypatch.chdir(tmp_path)
    for command in quick:
        if "runs/ellipsoids" in command:  # of which the page shows 150 steps
            folders = tmp_path / "volumes", tmp_path / "runs/ellipsoids"
            assert jobs.train(*folders, "--crop=16,32,32", "--steps=1").returncode == 0
        run(command)
    assert (tmp_path / "runs/a/compared.html").exists()
    assert len(list((tmp_path / "predicted/overlays").iterdir())) == 3
    assert (tmp_path / "RUN/evaluation/test-d4/summary.json").exists()
    assert (tmp_path / "data/manifest.json").exists()
