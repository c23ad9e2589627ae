"""az:// through tensorflow-io, whose client gives up where it finds several connections closed.

Servers close idle connections, Azurite after five seconds. The client comes again some
times, seconds apart, each time by another connection of those that it holds. So each verb of
`tf.io.gfile` is tried again, a file that is read is opened again at the same place, and one is sent
as a whole, from the local disk. What TensorFlow reads by itself, the
shards, is not in our hands: `says_unreached` tells its error.
"""

import functools
import io
import re
import types
from collections.abc import Callable
from typing import IO, Any

from trainer.errors import UnreachableError

SCHEME = "az://"
CLOSED = re.compile("Connection was closed by the server|Timeout waiting for socket")
UNREACHED = re.compile(f"{CLOSED.pattern}|Fail to get a new connection")
SECONDS = 300  # after which a request is given up
VERBS = ("exists", "glob", "isdir", "listdir", "remove", "rename", "rmtree", "stat")
BLOCK = 2**20


def says_unreached(text: str) -> bool:
    """Returns whether an error of tensorflow-io's client is that of a connection."""
    return UNREACHED.search(text) is not None


@functools.cache
def gfile() -> types.SimpleNamespace:
    """Returns the verbs of `tf.io.gfile`, each tried again where a connection is closed.

    They raise UnreachableError where none holds.
    """
    import tensorflow as tf

    verbs = {verb: _persistent(getattr(tf.io.gfile, verb)) for verb in VERBS}
    return types.SimpleNamespace(**verbs)


def open_file(path: str, mode: str) -> IO[Any]:
    """Opens a file for reading ("r" or "rb")."""
    raw: Any = io.BufferedReader(_Reader(path), BLOCK)
    return raw if "b" in mode else io.TextIOWrapper(raw, encoding="utf-8")


def upload(local: str, path: str) -> None:
    """Makes an object of a local file."""
    _persistent(_send)(local, path)


class _Reader(io.RawIOBase):
    """A file that is reopened where a read failed."""

    def __init__(self, path: str):
        self._path, self._place = path, 0
        self._file: Any = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_CUR:
            offset += self._place
        elif whence == io.SEEK_END:
            offset += gfile().stat(self._path).length
        self._place, self._file = offset, None
        return offset

    def readinto(self, buffer: Any) -> int:
        block = _persistent(self._read)(len(buffer))
        self._place += len(block)
        buffer[: len(block)] = block
        return len(block)

    def _read(self, size: int) -> bytes:
        if self._file is None:
            self._file = _open(self._path, "rb")
            self._file.seek(self._place)
        try:
            return self._file.read(size)
        except Exception:
            self._file = None
            raise


def _send(local: str, path: str) -> None:
    with open(local, "rb") as source, _open(path, "wb") as file:
        file.write(b"")  # an empty object is one, too
        while block := source.read(BLOCK):
            file.write(block)


def _open(path: str, mode: str) -> Any:
    import tensorflow as tf

    return tf.io.gfile.GFile(path, mode)


def _persistent(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the result of a verb, with retries."""
    from google.api_core import exceptions, retry

    again = retry.Retry(predicate=_passes, initial=0.1, maximum=5.0, timeout=SECONDS)

    @functools.wraps(verb)
    def try_again(*arguments: Any) -> Any:
        try:
            return again(verb)(*arguments)
        except exceptions.RetryError as error:
            raise UnreachableError(
                f"{SCHEME} could not be reached ({error.cause}); start again to resume."
            ) from None

    return try_again


def _passes(error: Exception) -> bool:
    return CLOSED.search(str(error)) is not None  # a retry makes no missing account
