"""What goes wrong while a picture or an array is read, told in one line."""

import contextlib
import errno
import os
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator

from trainer.data import tiff
from trainer.errors import InputError

# What decoders and NumPy's headers raise on damaged files, seen by damaging some.
DAMAGE: tuple[type[Exception], ...] = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, ArithmeticError),
    *(struct.error, zlib.error, tokenize.TokenError, zipfile.BadZipFile, *tiff.DAMAGE),
)


class UnreadableError(InputError):
    """A picture that is damaged, cut short or of an unknown format; others may be fine."""


def shown(path: str) -> str:
    """Returns a path or name on one line: what cannot be printed is escaped, as are stray bytes."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@contextlib.contextmanager
def explained(label: str) -> Iterator[None]:
    """Makes damage that is met within an UnreadableError, without the warnings on the way there."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except DAMAGE as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise  # of the disk that is copied to
        reason = " ".join(str(error).split()) or type(error).__name__
        reason = reason if len(reason) <= 200 else reason[:197] + "…"
        raise UnreadableError(f"{label} cannot be read: {reason}.") from None


def check_size(label: str, height: int, width: int, max_pixels: int) -> None:
    """Raises InputError where a picture has more than `max_pixels` pixels."""
    if height * width > max_pixels:
        raise InputError(
            f"{label} has {height}×{width} = {height * width} pixels, more than --max_pixels="
            f"{max_pixels}; if it is what it should be, raise --max_pixels, else remove it."
        )
