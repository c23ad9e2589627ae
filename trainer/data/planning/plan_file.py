"""The file of a plan: flags of trainer.task, one a line, each below the reason for it."""

import dataclasses
import hashlib
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from trainer import config
from trainer.config import flags
from trainer.errors import InputError
from trainer.storage import files

NAME = "plan.cfg"
WIDTH = 100
MARK = "# Nobody has changed this file while the sha256 of the lines below begins with "
DIGITS = 12


@dataclasses.dataclass(frozen=True)
class Choice:
    """A flag of trainer.task.

    Attributes:
        name: of the flag.
        value: of the setting.
        reason: the rule, and the figure that it was chosen from.
    """

    name: str
    value: config.PerAxis | float | str | bool
    reason: str

    @property
    def flag(self) -> str:
        """The flag as a command line has it."""
        return f"--{self.name}={config.as_text(self.value)}"


def text_of(title: Sequence[str], choices: Iterable[Choice]) -> str:
    """Returns the text of a plan.

    Args:
        title: paragraphs about the whole.
        choices: the flags, in order.
    """
    paragraphs = [line for paragraph in title for line in (*_comment(paragraph), "#")]
    body = "\n".join([*paragraphs[:-1], "", *_lines(choices)])
    return f"{MARK}{_digest(body)}.\n{body}"


def _lines(choices: Iterable[Choice]) -> Iterator[str]:
    for choice in choices:
        yield from (*_comment(choice.reason), choice.flag, "")


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="# ")


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:DIGITS]


def job_of(choices: Iterable[Choice]) -> config.Job:
    """Returns the settings that the flags make, each rule of which they keep."""
    return flags.parse(config.Job, ["trainer.task", *(choice.flag for choice in choices)])


def check(path: str) -> None:
    """Raises InputError if a file is there that is no plan, or one that somebody has changed."""
    if not files.exists(path):
        return
    head, _, body = files.read_text(path).partition("\n")
    if head != f"{MARK}{_digest(body)}.":
        raise InputError(
            f"--output={path} exists and is not as trainer.plan wrote it, so somebody may need it; "
            "name another file, or remove it."
        )


def write(path: str, text: str) -> None:
    """Writes a plan, which appears only when it is complete."""
    files.write_whole(path, text)
