"""The exceptions that the user can fix, and how their messages show a name."""

import os
import re


class InputError(ValueError):
    """Input that breaks a rule: a flag, a file, a folder or an argument.

    The message is one line with name, value, rule and remedy. Commands print it and exit with
    status 2; any other exception is a defect and keeps its traceback.
    """


class RetryableError(InputError):
    """What may be different at the next start: a store, a device, a port, a folder's lock."""


class UnreachableError(RetryableError):
    """A store that has not answered for long; a task in the background may try again."""


def first_line(error: BaseException) -> str:
    """Returns the first line of what an error says, without TensorFlow's names of operations."""
    said = re.sub(r"^\{\{.*?\}\} *| *\[Op:\w+\]$", "", str(error).strip().partition("\n")[0])
    return said or type(error).__name__


def one_line(path: str) -> str:
    """Returns a path or name on one line: what cannot be printed is escaped, as are stray bytes."""
    if path.isprintable() and path.isascii():
        return path  # itself, of which there may be millions
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
