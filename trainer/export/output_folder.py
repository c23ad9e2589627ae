"""Where an export goes: complete or not at all, and only in place of an earlier export.

`signature.json` lists every other file with size and checksum, so that what is in a folder can be
told from what others put there. On a disk the files are written beside the folder and exchanged for
it in one step. An object store cannot do that: there, `saved_model.pb`, without which nothing is
loaded, comes last, and an export that is whole is never replaced.
"""

import contextlib
import ctypes
import dataclasses
import errno
import fcntl
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from absl import logging

from trainer import json_text
from trainer.errors import InputError
from trainer.storage import files, listing, lock

SIGNATURE = "signature.json"
LOADABLE = "saved_model.pb"
FOLDERS = ("variables", "assets", "assets.extra")  # of a SavedModel
RENAME_EXCHANGE = 2
NO_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)  # on network file systems
MEASURED = ("differences", "contents")  # of signature.json; the rest says which export it is


@dataclasses.dataclass(frozen=True)
class Existing:
    """What is in a folder for exports, all of it this package's.

    Attributes:
        signature: what its signature.json says; empty if there is none.
        is_loadable: whether readers find a model.
        is_complete: whether every file is there.
    """

    signature: Mapping[str, Any]
    is_loadable: bool
    is_complete: bool


def seal(folder: str, described: Mapping[str, Any]) -> None:
    """Writes signature.json into a local folder that has all other files."""
    contents = {
        os.path.relpath(os.path.join(parent, name), folder): _describe(os.path.join(parent, name))
        for parent, _, names in os.walk(folder)
        for name in names
    }
    text = json_text.dumps({**described, "contents": contents}, indent=1, ensure_ascii=False)
    files.write_whole(os.path.join(folder, SIGNATURE), text + "\n")


def check(flag: str, output: str, *, will_differ: bool = False) -> Existing:
    """Returns what is in the folder that a flag names.

    Args:
        flag: for messages.
        output: the folder; it need not exist.
        will_differ: whether the export cannot be equal to the one that is there.

    Raises:
        InputError: a file in it is not of an export, or one is there that cannot be replaced.
    """
    if not files.is_remote(output) and os.path.exists(output) and not os.path.isdir(output):
        raise InputError(f"--{flag}={output} is a file; name a folder.")
    found = _read(flag, output)
    if found.is_loadable and will_differ and not _can_swap(output):
        _refuse(flag, output)
    return found


@contextlib.contextmanager
def opened(flag: str, output: str) -> Iterator[str]:
    """Yields a local folder whose files become the export, once the block has ended.

    Raises:
        InputError: the folder that the flag names cannot be written, or see `check`.
    """
    check(flag, output)
    if files.is_remote(output):
        with tempfile.TemporaryDirectory() as folder:
            yield folder
            _send(flag, folder, output)
        return
    output = os.path.realpath(output)  # what a link leads to is exchanged, not the link
    made = files.make_folder_of(flag, os.path.dirname(output))
    try:
        with _beside(output) as folder:
            yield folder
            existing = check(flag, output)
            if _can_swap(output):
                _swap(folder, output, existing)
            else:
                _move(flag, folder, output, existing)
    finally:
        for path in made:
            files.remove_empty_folder(path)


def _read(flag: str, output: str) -> Existing:
    """Returns what is in a folder; InputError if a file is not of an export."""
    there: dict[str, listing.Entry] = {}
    for part in ("", *FOLDERS):
        folder = os.path.join(output, part).rstrip("/")
        names = set(files.list_folder(folder)) - (set() if part else {*FOLDERS})
        if files.is_remote(output):
            names.discard(lock.NAME)
        entries = listing.list_folder(folder) if names else {}
        there.update({os.path.join(part, n): entries.get(n, listing.Entry(-1)) for n in names})
    signature = _read_signature(output) if SIGNATURE in there else {}
    contents = signature.get("contents", {})
    for name, entry in sorted(there.items()):
        if name != SIGNATURE or not contents:
            _check_ours(flag, os.path.join(output, name), entry, contents.get(name))
    return Existing(signature, LOADABLE in there, bool(contents) and set(contents) < set(there))


def _read_signature(output: str) -> dict[str, Any]:
    """Returns what a signature.json says, nothing if it is not of this release's kind."""
    try:
        found = json.loads(files.read_text(os.path.join(output, SIGNATURE)))
        for name, entry in found["contents"].items():
            if os.path.normpath(name) != name or name.startswith(("/", "..")):
                return {}
            _ = entry["bytes"], entry["crc32c"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    return found


def _check_ours(
    flag: str, path: str, entry: listing.Entry, expected: Mapping[str, Any] | None
) -> None:
    remedy = f"move it away, or name another --{flag}."
    if expected is None:
        raise InputError(
            f"{path} exists, and no {SIGNATURE} lists it as part of an export; {remedy}"
        )
    checksum = entry.crc32c
    if checksum is None and entry.bytes == expected["bytes"] and not files.is_remote(path):
        checksum = files.crc32c(path)  # of s3:// and az:// only the size is asked
    if entry.bytes != expected["bytes"] or checksum not in (None, expected["crc32c"]):
        raise InputError(f"{path} has changed since an export wrote it; {remedy}")


def _describe(path: str) -> dict[str, Any]:
    return {"bytes": os.path.getsize(path), "crc32c": files.crc32c(path)}


def _refuse(flag: str, output: str) -> None:
    base, _, name = output.rstrip("/").rpartition("/")
    following = f"{base}/{int(name) + 1}" if name.isdecimal() else f"{output.rstrip('/')}-2"
    raise InputError(
        f"--{flag}={output} holds another export, which cannot be exchanged there in one step; "
        f"name another folder, such as {following}, or remove that one first."
    )


# On a disk ----------------------------------------------------------------------------------------


def _can_swap(output: str) -> bool:
    """Whether a folder can be exchanged for one beside it."""
    if files.is_remote(output):
        return False
    output = os.path.realpath(output)
    return not os.path.ismount(output) and os.access(os.path.dirname(output), os.W_OK)


@contextlib.contextmanager
def _beside(output: str) -> Iterator[str]:
    """Yields a new folder beside `output`, if there is room; removes those of killed processes."""
    parent, name = os.path.split(output)
    if not _can_swap(output):
        with tempfile.TemporaryDirectory() as folder:
            yield folder
        return
    for other in os.listdir(parent):
        if re.fullmatch(rf"\.{re.escape(name)}\.[0-9a-f]{{32}}\.unfinished", other):
            _remove_unless_used(os.path.join(parent, other))
    folder = os.path.join(parent, f".{name}.{uuid.uuid4().hex}.unfinished")
    os.mkdir(folder)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # a sign of life; see `_remove_unless_used`
        yield folder
    finally:
        os.close(descriptor)
        shutil.rmtree(folder, ignore_errors=True)


def _remove_unless_used(folder: str) -> None:
    with contextlib.suppress(OSError):  # it is locked, or another user's
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
        finally:
            os.close(descriptor)


def _swap(folder: str, output: str, existing: Existing) -> None:
    """Puts a folder in the place of `output`, of which what is known is removed."""
    if os.path.exists(output):
        shutil.copymode(output, folder)
    if not os.path.exists(output) or not os.listdir(output):
        os.rename(folder, output)  # which an empty folder does not hinder
        return
    old = _exchange(folder, output)
    for name in (*existing.signature["contents"], SIGNATURE):
        files.remove(os.path.join(old, name))
    for part in (*FOLDERS, ""):
        with contextlib.suppress(OSError):
            os.rmdir(os.path.join(old, part))
    if os.path.exists(old):  # put there this moment
        kept = f"{output}.{uuid.uuid4().hex}"
        os.rename(old, kept)
        logging.warning("What others wrote into %s meanwhile is now in %s.", output, kept)


def _exchange(folder: str, output: str) -> str:
    """Exchanges two folders; returns where the one is now that was `output`."""
    system = ctypes.CDLL(None, use_errno=True)
    here = ctypes.c_int(-100)  # AT_FDCWD
    paths = os.fsencode(folder), os.fsencode(output)
    if hasattr(system, "renameat2"):
        if system.renameat2(here, paths[0], here, paths[1], RENAME_EXCHANGE) == 0:
            return folder
        number = ctypes.get_errno()
        if number not in NO_EXCHANGE:
            raise OSError(number, os.strerror(number), output)
    aside = f"{folder}.old"
    os.rename(output, aside)
    try:
        os.rename(folder, output)
    except OSError:
        os.rename(aside, output)
        raise
    return aside


def _move(flag: str, folder: str, output: str, existing: Existing) -> None:
    """Moves files into a folder that cannot be exchanged, such as one that is mounted."""
    if existing.is_loadable:
        _refuse(flag, output)
    for name in existing.signature.get("contents", ()):
        files.remove(os.path.join(output, name))
    for name in _in_order(folder):
        os.makedirs(os.path.dirname(os.path.join(output, name)), exist_ok=True)
        shutil.move(os.path.join(folder, name), os.path.join(output, name))


# In a store ---------------------------------------------------------------------------------------


def _send(flag: str, folder: str, output: str) -> None:
    """Uploads an export, unless it is there already."""
    with lock.held(output, lock.SECONDS, flag=flag) as owner:
        existing = check(flag, output)
        with open(os.path.join(folder, SIGNATURE), encoding="utf-8") as file:
            signature = json.load(file)
        if existing.is_loadable:
            same = _identity(existing.signature) == _identity(signature)
            if not (same and existing.is_complete):
                _refuse(flag, output)
            logging.info("%s holds this very export already.", output)
            return
        for name in existing.signature.get("contents", ()):  # of a process that was killed
            files.remove(os.path.join(output, name))
        for name in _in_order(folder):
            owner.check()
            files.copy_to_store(os.path.join(folder, name), os.path.join(output, name))


def _identity(signature: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in signature.items() if name not in MEASURED}


def _in_order(folder: str) -> list[str]:
    """Returns the files of an export: first what tells whose they are, last what makes it whole."""
    names = [
        os.path.relpath(os.path.join(parent, name), folder)
        for parent, _, found in os.walk(folder)
        for name in found
    ]
    return sorted(names, key=lambda name: (name != SIGNATURE, name == LOADABLE, name))
