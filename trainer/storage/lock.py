"""One folder, one writer: a lock in the folder, renewed while its owner lives.

`lease.json` names host and process. It is created only where there is none: by O_EXCL on a disk, by
a generation precondition on Google Cloud Storage. Its owner writes it again every quarter of
`seconds`. Another job that sees it unchanged for `seconds` takes it over, or at once if it can see
that the owner's process has ended. Other object stores have no precondition that TensorFlow could
use: there, two jobs that start in the same second may both take it.
"""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any, Protocol

from absl import logging

from trainer import json_text
from trainer.errors import InputError, RetryableError, first_line
from trainer.storage import files, gcs

NAME = "lease.json"
SECONDS = 60.0  # without a renewal, unless a flag says otherwise
BEGIN = '{"id":"'  # of its text, without spaces
# What is wrong with a folder itself; other errors, such as broken connections, may pass.
LASTING = {
    errno.EACCES,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}


class VersionedFile(Protocol):
    """A file that is written only if nobody else has written it since it was read."""

    def read(self) -> tuple[str, Any]:
        """Returns (text, version); the text of a file that is not there is empty."""

    def write(self, text: str, version: Any) -> Any | None:
        """Writes the text and returns its version, or None if `version` is not the file's."""

    def remove(self, version: Any) -> None:
        """Removes the file if it is still of that version."""


class Lease:
    """The right to write into a folder."""

    def __init__(self, folder: str, seconds: float, flag: str = "run_dir"):
        """Takes nothing yet; see `held`."""
        self._seconds, self._flag, self._shown = seconds, flag, f"--{flag}={folder}"
        self._path = os.path.join(folder, NAME)
        self._file = _versioned_file(self._path)
        self._owner = {"id": uuid.uuid4().hex, **_this_process(), "since": _now()}
        self._version: Any = None
        self._ended = threading.Event()
        self._taken_by = ""
        self._thread = threading.Thread(target=self._keep_renewing, name="lease", daemon=True)

    def check(self) -> None:
        """Raises RetryableError if another job has taken the folder over."""
        if self._taken_by:
            raise RetryableError(
                f"{self._shown} was taken over by {self._taken_by}, because this job had not "
                f"renewed its lock for {self._seconds:g} s. This job stops; the other continues."
            )

    def acquire(self) -> None:
        """Takes the lease, waiting out an owner that may be dead.

        Raises:
            RetryableError: the owner lives.
            InputError: what is there is no lease.
        """
        text, version = self._file.read()
        if not _is_ours(text):
            raise InputError(
                f"{self._path} exists and is not a lock file of this package; move it away, or "
                f"name another --{self._flag}."
            )
        seen = time.monotonic()
        while True:
            silent = time.monotonic() - seen
            if not text or _state(text) == "ended" or silent >= self._seconds:
                if text:
                    logging.warning("Taking %s over from %s.", self._shown, _name(text))
                self._version = self._file.write(self._text(), version)
                if self._version is not None:
                    break
            elif _state(text) == "alive":
                self._refuse(text)
            elif silent < self._seconds / 8:
                logging.info(
                    "%s is locked by %s; waiting up to %g s to see whether that job is running.",
                    self._shown,
                    _name(text),
                    self._seconds,
                )
            time.sleep(self._seconds / 8)
            newer, version = self._file.read()
            if text and newer and newer != text:  # renewed, or taken by another
                self._refuse(newer)
            text, seen = newer, seen if newer == text else time.monotonic()
        self._thread.start()

    def release(self) -> None:
        """Gives the lease back."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        if not self._taken_by and self._version is not None:
            with contextlib.suppress(*files.failures(), InputError):  # it expires by itself
                self._file.remove(self._version)

    def _keep_renewing(self) -> None:
        passing: tuple[type[Exception], ...] = (*files.failures(), InputError)
        while not self._ended.wait(self._seconds / 4):
            try:
                version = self._file.write(self._text(), self._version)
                if version is None:
                    text, _ = self._file.read()
                    self._taken_by = _name(text) if text else "nobody (the lock was removed)"
                    return
                self._version = version
            except passing as error:
                logging.warning(
                    "The lock could not be renewed (%s); trying again.", first_line(error)
                )

    def _text(self) -> str:
        return json_text.dumps({**self._owner, "renewed": _now()}, indent=1) + "\n"

    def _refuse(self, text: str) -> None:
        raise RetryableError(
            f"{self._shown} is being written by {_name(text)}; wait for that job, stop it, or name "
            f"another --{self._flag}."
        )


@contextlib.contextmanager
def held(
    folder: str, seconds: float, writer: bool = True, flag: str = "run_dir"
) -> Iterator[Lease]:
    """Holds the lease of a folder during the block; makes the folder, removes it if empty.

    Args:
        folder: local path or address in an object store.
        seconds: without a renewal after which an owner is considered dead.
        writer: whether this worker writes at all; the lease of another is never lost.
        flag: that named the folder, for messages.

    Raises:
        InputError: another job holds the lease and lives, or the folder cannot be written.
    """
    lease = Lease(folder, seconds, flag)
    if not writer:
        yield lease
        return
    made: list[str] = []
    try:
        try:
            made = files.make_folder(folder)
            lease.acquire()
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise
            kind = InputError if error.errno in LASTING else RetryableError
            raise kind(
                f"--{flag}={folder} cannot be written: {error.strerror}; name another folder."
            ) from None
        yield lease
    finally:
        lease.release()
        for path in made:
            files.remove_empty_folder(path)


def is_held(folder: str, seconds: float) -> bool:
    """Whether another job is writing into a folder.

    Waits to see whether an owner on another machine renews its lease within `seconds`.
    """
    file = _versioned_file(os.path.join(folder, NAME))
    text, _ = file.read()
    give_up = time.monotonic() + seconds
    while text and _state(text) == "unknown" and time.monotonic() < give_up:
        time.sleep(seconds / 8)
        newer, _ = file.read()
        if newer != text:
            return bool(newer)
    return bool(text) and _state(text) == "alive"


# Owners -------------------------------------------------------------------------------------------


def _this_process() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "process_start": _process_start(os.getpid()),
    }


def _machine() -> str:
    """Names what process numbers belong to: this boot of this machine, this container."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"


def _process_start(pid: int) -> int | None:
    """Returns when a process began, in ticks since the boot, or None if there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            state, *fields = file.read().rpartition(")")[2].split()
    except FileNotFoundError:
        return None
    return None if state in "ZX" else int(fields[18])


def _state(text: str) -> str:
    """Returns the state of a lock's owner: `alive`, `ended`, or `unknown` on another machine."""
    try:
        owner = json.loads(text)
        if owner["machine"] != _machine():
            return "unknown"
        return "alive" if _process_start(owner["pid"]) == owner["process_start"] else "ended"
    except (ValueError, KeyError, TypeError):  # written halfway, on a disk: its owner was killed
        return "ended"


def _is_ours(text: str) -> bool:
    """Whether a text begins like a lock; that of an owner that was killed may end anywhere."""
    begin = "".join(text.split())[: len(BEGIN)]
    return BEGIN.startswith(begin)


def _name(text: str) -> str:
    try:
        owner = json.loads(text)
        since = datetime.datetime.fromisoformat(owner["since"])
        age = datetime.datetime.now(datetime.timezone.utc) - since
        return f"process {owner['pid']} on {owner['host']} since {age.total_seconds():.0f} s"
    except (ValueError, KeyError, TypeError):
        return "an unknown process"


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


# Files --------------------------------------------------------------------------------------------


class _LocalFile:
    """A file on a disk; its version is its text."""

    def __init__(self, path: str):
        self._path = path

    def read(self) -> tuple[str, str | None]:
        try:
            with open(self._path, encoding="utf-8", errors="replace") as file:
                text = file.read()
        except FileNotFoundError:
            return "", None
        return text, text

    def write(self, text: str, version: str | None) -> str | None:
        with self._locked():
            if version is None:
                try:
                    with open(self._path, "x", encoding="utf-8") as file:
                        file.write(text)
                except FileExistsError:
                    return None
                return text
            if self.read()[1] != version:
                return None
            files.write_whole(self._path, text)
            return text

    def remove(self, version: str) -> None:
        with self._locked():
            if self.read()[1] == version:
                files.remove(self._path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keeps other processes on this disk from writing between a read and a write."""
        folder = os.open(os.path.dirname(self._path), os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)


class _StoreFile:
    """An object in a store without preconditions; its version is its text."""

    def __init__(self, path: str):
        self._path = path

    def read(self) -> tuple[str, str | None]:
        if not files.exists(self._path):
            return "", None
        with files.open_file(self._path, "r") as file:
            text = file.read()
        return text, text

    def write(self, text: str, version: str | None) -> str | None:
        if self.read()[1] != version:
            return None
        files.write_whole(self._path, text)
        return text

    def remove(self, version: str) -> None:
        if self.read()[1] == version:
            files.remove(self._path)


class _GoogleFile:
    """An object of Google Cloud Storage; its version is its generation, 0 where there is none."""

    def __init__(self, path: str):
        self._path = path

    def read(self) -> tuple[str, int]:
        return gcs.read_version(self._path)

    def write(self, text: str, version: int) -> int | None:
        return gcs.write_version(self._path, text, version)

    def remove(self, version: int) -> None:
        gcs.remove_version(self._path, version)


def _versioned_file(path: str) -> VersionedFile:
    if path.startswith(gcs.SCHEME):
        return _GoogleFile(path)
    return _StoreFile(path) if files.is_remote(path) else _LocalFile(path)
