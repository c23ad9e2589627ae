"""Copies of a store's shards on the local disk, which all processes of a machine share.

    CACHE/.lock                      held where names change, and while room is made
    CACHE/DATA/.in-use               held, shared, by every process that reads these data
    CACHE/DATA/SHARD                 a copy
    CACHE/DATA/SHARD.BYTES.part      one that is being made, held by who makes it

DATA begins the data's fingerprint, so other data never have the same place. A copy counts if it has
the size and the CRC32C of the manifest, which is checked whenever it is about to be read.

To make room, copies of data that no process has in use are removed, the least recently used first.
Copies of data in use stay: a reader may open any of them at any moment, and since each pass reads
every shard once, in another order, none of them is worth more than another. What does not fit is
read from the store. All locks are `flock`'s, which end with their process.
"""

import contextlib
import fcntl
import os
import re
import shutil
import weakref
from collections.abc import Iterator
from typing import NamedTuple

from absl import logging

from trainer.data.dataset import schema
from trainer.errors import InputError
from trainer.storage import files

LEFT_FREE = 2**30  # bytes of the disk that others find
DIGITS = 16  # of the fingerprint


class _File(NamedTuple):
    """A copy or a part: when it was last used, the bytes that it takes or will take, its path."""

    used: float
    bytes: int
    path: str


class ShardCache:
    """The copies of one data folder's shards, in use until the last reference to this is gone."""

    def __init__(
        self, root: str, limit: int, data_dir: str, manifest: schema.Manifest, fingerprint: str
    ):
        """Makes the folder, and keeps others from removing what is in it.

        Args:
            root: folder of all copies, of this data folder and others.
            limit: bytes that may be in it.
            data_dir: the data folder, in a store.
            manifest: of that folder, or of a fold of it.
            fingerprint: of that folder.
        """
        self._root, self._limit = root, limit
        self._folder = os.path.join(root, fingerprint[:DIGITS])
        self._shards = {schema.shard_path(data_dir, shard): shard for shard in manifest.shards}
        self._told: set[str] = set()
        os.makedirs(root, exist_ok=True)
        with self._locked():
            os.makedirs(self._folder, exist_ok=True)
            in_use = os.open(os.path.join(self._folder, ".in-use"), os.O_RDWR | os.O_CREAT)
            fcntl.flock(in_use, fcntl.LOCK_SH)
        weakref.finalize(self, os.close, in_use)

    def path_of(self, path: str) -> str:
        """Returns the path of a verified copy, which is made if there is none.

        Args:
            path: of a shard in the store.

        Returns:
            The copy's path; `path` itself if there is no room for a copy, or it cannot be made,
            which is logged; also if it is not a shard of the manifest, as repaired ones are not.

        Raises:
            InputError: the store has other bytes than the manifest says.
        """
        shard = self._shards.get(path)
        if shard is None:
            return path
        copy = os.path.join(self._folder, shard.name)
        try:
            if _is_whole(copy, shard):
                os.utime(copy)
            elif not self._make(copy, path, shard):
                self._tell(
                    f"{self._root} is full (--cache_gb, or its disk): the other shards of "
                    f"{os.path.dirname(path)} are read from there."
                )
                return path
        except _ReplacedError:
            raise InputError(f"{path} is not the shard that the manifest describes.") from None
        except Exception as error:
            if not isinstance(error, (InputError, *files.failures())):
                raise
            self._tell(
                f"A shard could not be copied into {self._folder} ({error}); it is read from the "
                "store."
            )
            return path
        return copy

    def _make(self, copy: str, path: str, shard: schema.Shard) -> bool:
        """Makes a copy, unless another process or thread does meanwhile; False: there is no room.

        Raises:
            _ReplacedError: the store has other bytes.
        """
        if os.path.exists(copy):
            logging.warning("%s is damaged; it is copied again.", copy)
        part = f"{copy}.{shard.bytes}.part"
        while not _is_whole(copy, shard):
            with self._locked():
                if not _is_locked(part) and not self._make_room(shard.bytes, copy):
                    return False
                descriptor = os.open(part, os.O_RDWR | os.O_CREAT)
                is_mine = _try_lock(descriptor)
            try:
                if is_mine:
                    self._fill(part, copy, path, shard)
                else:
                    fcntl.flock(descriptor, fcntl.LOCK_SH)  # until it was made, or has failed
            finally:
                os.close(descriptor)
        return True

    def _fill(self, part: str, copy: str, path: str, shard: schema.Shard) -> None:
        """Copies a shard from the store and gives it its name."""
        try:
            if _is_whole(copy, shard):  # it was made since we looked
                return
            files.copy_from_store(path, part)
            if not _is_whole(part, shard):
                raise _ReplacedError
            with self._locked():
                os.replace(part, copy)  # a damaged one is not removed first: others may read it
        finally:
            with self._locked():
                files.remove(part)

    def _make_room(self, size: int, copy: str) -> bool:
        """Returns whether there is room for so many bytes, in place of `copy` if it is there."""
        folders = [
            entry.path
            for entry in os.scandir(self._root)
            if re.fullmatch(f"[0-9a-f]{{{DIGITS}}}", entry.name) and entry.is_dir()
        ]
        found = {folder: list(_files(folder)) for folder in folders}
        taken = sum(file.bytes for of_one in found.values() for file in of_one if file.path != copy)
        unused = sorted(
            file for folder, of_one in found.items() if not _is_used(folder) for file in of_one
        )

        def lacks() -> bool:
            free = shutil.disk_usage(self._root).free
            return taken + size > self._limit or free < size + LEFT_FREE

        while lacks():
            if not unused:
                return False
            file = unused.pop(0)
            os.remove(file.path)
            taken -= file.bytes
        return True

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(os.path.join(self._root, ".lock"), os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _tell(self, message: str) -> None:
        """Warns once of what may be so at every shard."""
        if message not in self._told:
            self._told.add(message)
            logging.warning("%s", message)


class _ReplacedError(Exception):
    """Says that the store has other bytes than the manifest."""


def open_cache(
    root: str,
    gigabytes: float,
    data_dir: str,
    manifest: schema.Manifest,
    fingerprint: str,
    tpu: str,
) -> ShardCache | None:
    """Returns the cache that --cache_dir asks for; None if it is unset.

    Args:
        root: --cache_dir.
        gigabytes: --cache_gb.
        data_dir: the data folder.
        manifest: of that folder, or of a fold of it.
        fingerprint: of that folder.
        tpu: --tpu.

    Raises:
        InputError: a local folder cannot be written there, or the data need no cache.
    """
    if not root:
        return None
    if files.is_remote(root):
        raise InputError(f"--cache_dir={root} is in a store; name a folder on a local disk.")
    if not files.is_remote(data_dir):
        raise InputError(
            f"--cache_dir={root} is for data in a store, and {data_dir} is a local folder; leave "
            "it out."
        )
    if tpu not in ("", "local"):
        raise InputError(
            f"--cache_dir={root} does not go with --tpu={tpu}, whose own hosts read the data; "
            "leave it out."
        )
    files.check_folder("cache_dir", root)
    return ShardCache(root, int(gigabytes * 1e9), data_dir, manifest, fingerprint)


def _is_whole(path: str, shard: schema.Shard) -> bool:
    try:
        return os.path.getsize(path) == shard.bytes and files.crc32c(path) == shard.crc32c
    except FileNotFoundError:
        return False


def _files(folder: str) -> Iterator[_File]:
    """Yields the copies and parts in a folder; removes the parts that killed processes left."""
    for entry in os.scandir(folder):
        stat = entry.stat()
        if entry.name == ".in-use":
            continue
        if not entry.name.endswith(".part"):
            yield _File(stat.st_mtime, stat.st_size, entry.path)
        elif _is_locked(entry.path):
            yield _File(stat.st_mtime, int(entry.name.split(".")[-2]), entry.path)
        else:
            os.remove(entry.path)


def _is_used(folder: str) -> bool:
    """Returns whether a process has the copies in a folder in use."""
    return _is_locked(os.path.join(folder, ".in-use"))


def _is_locked(path: str) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return not _try_lock(descriptor)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
