"""The commands of the pages, and the check of each by the parser of its own program."""

import pathlib
import re
import runpy
import shlex
import subprocess
import sys
import warnings
from unittest import mock

import setuptools
from tensorboard import default
from tensorboard import program as tensorboard

from trainer import cli, config
from trainer.config import flags

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
FLAG_FILES = sorted(ROOT.glob("configs/*.cfg"))  # whose comments have commands, too
FOREIGN = {"docker", "gcloud"}  # programs that are not here
FOREIGN_MODULES = {"venv", "pytest"}
PROGRAM = re.compile(r"(\$ )?\S*\b(python\d?(\.\d+)?|pip|make|tensorboard|docker|gcloud) ")
BLOCK = re.compile(r"^ {4}.*\n|^```[^`]*^```\n", re.M)
END = {";", "|", "||", "&", "&&", ">", "<"}  # of a command's own words


def commands(text):
    """Returns the commands of a page, each in one line: those of its blocks, then those in text."""
    blocks = "".join(BLOCK.findall(text)).replace("\\\n", " ").splitlines()
    spans = re.findall(r"`([^`]+)`", BLOCK.sub("\n", text))
    lines = [" ".join(line.split()) for line in [*blocks, *spans]]
    return [line.removeprefix("$ ") for line in lines if PROGRAM.match(line)]


def commands_of(path):
    """Returns the commands of a page, or of a flag file's comments."""
    text = path.read_text(encoding="utf-8")
    return commands(re.sub(r"^# ?", "", text, flags=re.M) if path in FLAG_FILES else text)


def words(command):
    """Returns a command's words, those of its comment and of what reads its output left out.

    An ellipsis means other words, and brackets for words that may be left out.
    """
    optional = re.compile(r"(?<!\S)\[([^\]]*)\]")
    command = optional.sub(lambda found: found[1] if found[1].startswith("--") else "", command)
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found = list(lexer)
    ends = [place for place, word in enumerate(found) if word in END]
    named = re.compile(r"(?<==)(N|SEED)$")  # in place of a number
    plan = "--flagfile=DATA/plan.cfg"  # which another command writes
    left_out = {"…", plan}
    return [named.sub("2", w) for w in found[: min(ends, default=None)] if w not in left_out]


def check(command):
    """Raises an error unless the program of a command takes its words; starts no work."""
    program, *argv = words(command)
    program = pathlib.Path(program).name
    if program == "make":
        subprocess.run(["make", "-n", *argv], cwd=ROOT, check=True, capture_output=True)
    elif program == "pip":
        _check_pip(*argv)
    elif program == "tensorboard":
        _check_tensorboard(*argv)
    elif program not in FOREIGN and argv[0] != "-m":
        _check_script(*argv)
    elif program not in FOREIGN and argv[1] not in FOREIGN_MODULES:
        _check_module(*argv[1:])


def _check_module(name, *argv):
    """Parses a command's flags by its own settings; those after a lone -- by another program's."""
    with (
        mock.patch.object(sys, "argv", [name, *argv]),
        mock.patch.object(cli, "run", side_effect=_only_parse) as run,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", RuntimeWarning)  # the module was imported before
        runpy.run_module(name, run_name="__main__")
        run.assert_called_once()
    if "--" in argv:
        cls = config.Predict if argv[0] == "predict" else config.Job
        flags.parse(cls, [name, *argv[argv.index("--") + 1 :]])


def _only_parse(cls, main, argv=None, *, defaults=(), **options):
    if len(sys.argv) > 1:  # otherwise the page only names the command
        flags.parse(cls, sys.argv if argv is None else argv, dict(defaults))


def _check_script(path, *argv):
    """Looks for the script, and for its flags in it."""
    text = (ROOT / path).read_text(encoding="utf-8")
    for word in argv:
        name = word.partition("=")[0]
        assert f'"{name}"' in text or not name.startswith("-"), name


def _check_pip(action, *argv):
    """Holds the extras that are installed to those that setup.py has."""
    assert action == "install", action
    with mock.patch.object(setuptools, "setup") as setup:
        runpy.run_path(str(ROOT / "setup.py"))
    known = setup.call_args.kwargs["extras_require"]
    for word in argv:
        for extras in re.findall(r"\[(.+)\]$", word):
            assert set(extras.split(",")) <= set(known), extras


def _check_tensorboard(*argv):
    tensorboard.TensorBoard(default.get_plugins()).configure(["tensorboard", *argv])
