"""Writes docs/settings.md: every command's flags, with default, rule and help line.

python docs/write_settings.py
"""

import dataclasses
import itertools
import pathlib

from launch import settings
from trainer import config
from trainer.config import flags

PAGE = pathlib.Path(__file__).with_name("settings.md")
COMMANDS = {
    "trainer.data.prepare": config.Prepare,
    "trainer.data.inspect": config.Inspect,
    "trainer.data.synthetic": config.Synthetic,
    "trainer.plan": config.Plan,
    "trainer.task": config.Job,
    "trainer.crossval": config.CrossValidation,
    "trainer.evaluate": config.Evaluate,
    "trainer.predict": config.Predict,
    "trainer.export": config.Export,
    "trainer.report": config.Report,
    "trainer.compare": config.Compare,
    "trainer.checkpointing": config.Checkpoint,
    "trainer.selfcheck": config.SelfCheck,
    "trainer.preflight": config.Preflight,
    "launch.local": config.Local,
    "launch.vertex": settings.Vertex,
}
RULES = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    config.PerAxis: "whole number, or one for each axis,",
}
INTRODUCTION = """# Settings

Flags in bold are those that `--help` shows; `--helpfull` shows all. `--flagfile=FILE` reads flags
from a file, one a line; of a flag that is given twice the last value counts. This page is written
by `python docs/write_settings.py` from the settings themselves, and a test compares the two.
"""


def draw():
    """Returns the page."""
    return "\n".join([INTRODUCTION, *(line for name in COMMANDS for line in section(name))])


def section(command):
    """Yields the lines on one command; flags that are another command's, too, are named only."""
    cls = COMMANDS[command]
    common = flags.common(cls)
    borrowed = {name: list(flags.fields(COMMANDS[name])) for name in COMMANDS if has(cls, name)}
    elsewhere = [owner for pairs in borrowed.values() for _, owner in pairs]
    yield f"## {command}\n\n{first_line(cls)}\n"
    for owner, pairs in itertools.groupby(flags.fields(cls), lambda pair: pair[1]):
        if owner in elsewhere:
            continue
        if owner is not cls:
            yield f"### {first_line(owner).rstrip('.')}\n"
        yield "| flag | default | rule | |\n|---|---|---|---|"
        yield from (row(field, field in common) for field, _ in pairs)
        yield ""
    for name, pairs in borrowed.items():
        shown = ", ".join(f"`--{field.name}`" for field, _ in pairs if field in common)
        anchor = name.replace(".", "")
        yield f"And the flags of [{name}](#{anchor}), of which `--help` shows {shown}.\n"


def has(cls, command):
    """Says whether a command's settings are a group of `cls`."""
    return any(field.type is COMMANDS[command] for field in dataclasses.fields(cls))


def first_line(cls):
    """Returns the first line of a class's docstring."""
    return cls.__doc__.splitlines()[0]


def row(field, is_common):
    """Returns a flag as a row of a table."""
    name = f"**`--{field.name}`**" if is_common else f"`--{field.name}`"
    default = "" if field.default in (None, "") else f"`{str(field.default).lower()}`"
    text = field.metadata["text"].replace("|", "\\|")
    return f"| {name} | {default} | {rule(field)} | {text} |"


def rule(field):
    """Returns in words which values a flag takes."""
    choices, low, high = (field.metadata[key] for key in ("choices", "low", "high"))
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    limits = [f"from {low}"] if low is not None else []
    limits += [f"to {high}"] if high is not None else []
    return " ".join([RULES[flags.kind(field)], *limits])


if __name__ == "__main__":
    PAGE.write_text(draw(), encoding="utf-8")
