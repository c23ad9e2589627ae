"""Derives absl flags from settings."""

import dataclasses
import difflib
import functools
import os
import shutil
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from absl import flags

from trainer import config
from trainer.errors import InputError

BOM = "\ufeff"
MOST_SHOWN = 15  # flags that --help shows


class _PerAxis(flags.ArgumentParser):
    """Takes a whole number, or one for each axis with commas between them, as a tuple."""

    def parse(self, argument: Any) -> config.PerAxis:
        """Returns the value of a text; a default, which is no text, as it is."""
        if not isinstance(argument, str):
            return argument
        numbers = tuple(map(int, argument.split(",")))
        return numbers if len(numbers) > 1 else numbers[0]


DEFINERS: Mapping[Any, Callable[..., Any]] = {
    bool: flags.DEFINE_boolean,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
    config.PerAxis: functools.partial(flags.DEFINE, _PerAxis()),
}
NOUNS: Mapping[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    config.PerAxis: "a whole number, or one for each axis with commas between them",
}


def parse(
    cls: type,
    argv: Sequence[str],
    defaults: Mapping[str, Any] = types.MappingProxyType({}),
) -> Any:
    """Returns settings of class `cls` from a command line, `argv[0]` being the program.

    Flags that are unset take their value from `defaults`, or else from `cls`.

    Raises:
        InputError: for an unknown flag, a value that is not of the flag's type or breaks its rule.
    """
    values = flags.FlagValues()
    for field, _ in fields(cls):
        default = defaults.get(field.name, field.default)
        DEFINERS[kind(field)](field.name, default, field.metadata["text"], flag_values=values)
    try:
        lines = values.read_flags_from_files(list(argv[1:]), force_gnu=False)
        while any(line.startswith(BOM) for line in lines):  # may name another file
            lines = values.read_flags_from_files(list(_without_marks(lines)), force_gnu=False)
        rest = values([argv[0], *lines])[1:]
    except flags.UnrecognizedFlagError as error:
        raise InputError(_unknown_flag(error.flagname, list(values))) from None
    except flags.IllegalFlagValueError as error:
        raise InputError(_wrong_type(str(error), cls)) from None
    except flags.CantOpenFlagFileError as error:
        path = getattr(error.__context__, "filename", "")
        reason = getattr(error.__context__, "strerror", error)
        raise InputError(f"--flagfile={path} cannot be read: {reason}; name another.") from None
    except UnicodeDecodeError:
        raise InputError(
            "--flagfile names a file that is no text in UTF-8; save it so, with a flag a line."
        ) from None
    except flags.Error as error:  # a flag without its value
        raise InputError(f"{' '.join(str(error).split())}; write --name=value.") from None
    if rest:
        raise InputError(f"{rest[0]!r} is not a flag; write --name=value, see --help.")
    return config.from_dict(cls, {field.name: values[field.name].value for field, _ in fields(cls)})


def _without_marks(lines: Sequence[str]) -> Iterator[str]:
    """Yields the lines of flag files without the byte-order mark by which editors begin a file."""
    for line in lines:
        kept = line.removeprefix(BOM)
        if kept == line or (kept and not kept.startswith(("#", "//"))):
            yield kept


def with_name(argv: Sequence[str], name: str) -> list[str]:
    """Returns a command line with the flag `name` for the words that are given without a flag."""
    plain = [word for word in argv[1:] if not word.startswith("-")]
    rest = [word for word in argv[1:] if word.startswith("-")]
    return [argv[0], *([f"--{name}={','.join(plain)}"] if plain else []), *rest]


def describe(cls: type, program: str, *, full: bool = False) -> str:
    """Returns the text of `--help`: what the command does and its flags, group by group.

    Args:
        cls: the command's class of settings.
        program: the module that is run, or its file.
        full: whether to show all flags, as `--helpfull` does, or the common ones alone.
    """
    width = min(100, shutil.get_terminal_size().columns)
    module = program.removesuffix(".py").replace(os.sep, ".").removesuffix(".__main__")
    for package in ("trainer.", "launch."):
        module = module[module.find(package) :] if package in module else module
    lines = [f"python -m {module} [--flag=value …] [--flagfile=FILE]", ""]
    lines += textwrap.wrap(_first_line(cls), width)
    group = None
    every = list(fields(cls))
    shown = [field for field, _ in every] if full else common(cls)
    for field, owner in every:
        if field not in shown:
            continue
        if owner is not group:
            group = owner
            lines += ["", _first_line(owner) if owner is not cls else "Flags:"]
        lines.append(f"  --{field.name}={_default(field)}")
        text = field.metadata["text"]
        if field.metadata["choices"]:
            text += f" One of: {', '.join(field.metadata['choices'])}."
        lines += textwrap.wrap(text, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    if len(shown) < len(every):
        lines += ["", f"--helpfull shows {len(every) - len(shown)} more."]
    return "\n".join(lines)


def fields(cls: type) -> Iterator[tuple[dataclasses.Field, type]]:
    """Yields (field, class that holds it) of `cls` and of its nested groups."""
    for field in dataclasses.fields(cls):
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            yield from fields(field.type)
        else:
            yield field, cls


def common(cls: type) -> list[dataclasses.Field]:
    """Returns the fields that `--help` shows: all if they are few, else those marked as common."""
    every = [field for field, _ in fields(cls)]
    return every if len(every) <= MOST_SHOWN else list(_marked(cls))


def kind(field: dataclasses.Field) -> Any:
    """Returns what a field's values are, a key of DEFINERS; None is left out."""
    options: tuple[Any, ...] = (field.type, *typing.get_args(field.type))
    return next(option for option in options if option in DEFINERS)


def command_line(settings: Any) -> list[str]:
    """Returns the flags, in order, that differ from their defaults."""
    defaults = config.to_dict(type(settings)())
    return [
        f"--{name}={config.as_text(value)}"
        for name, value in config.to_dict(settings).items()
        if value != defaults[name]
    ]


def _marked(cls: type) -> Iterator[dataclasses.Field]:
    """Yields the fields marked as common; of a group for which names are given, those."""
    for field in dataclasses.fields(cls):
        if not (isinstance(field.type, type) and dataclasses.is_dataclass(field.type)):
            if field.metadata["common"]:
                yield field
        elif "common" in field.metadata:
            names = field.metadata["common"]
            yield from (inner for inner, _ in fields(field.type) if inner.name in names)
        else:
            yield from _marked(field.type)


def _default(field: dataclasses.Field) -> str:
    return "" if field.default is None else config.as_text(field.default)


def _first_line(cls: type) -> str:
    return (cls.__doc__ or "").splitlines()[0]


def _unknown_flag(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    remedy = f"did you mean --{near[0]}?" if near else "see --helpfull."
    return f"--{name} is not a flag; {remedy}"


def _wrong_type(text: str, cls: type) -> str:
    """Returns absl's words on a value of another type, "flag --NAME=VALUE: WHY", in ours."""
    given = text.removeprefix("flag ").partition(": ")[0]
    name = given.removeprefix("--").partition("=")[0]
    (field,) = (field for field, _ in fields(cls) if field.name == name)
    return f"{given} is not {NOUNS[kind(field)]}."
