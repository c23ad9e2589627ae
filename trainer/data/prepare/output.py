"""Where prepared data go: a folder, or a bucket that gets each shard when it is finished.

Either way the manifest comes last, so a folder that has one is complete.
"""

import collections
import concurrent.futures
import contextlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from typing import Protocol

from absl import logging

from trainer.data.dataset import case_index, schema
from trainer.data.prepare import kept
from trainer.errors import InputError, RetryableError
from trainer.storage import files, gcs, lock

SHARD = re.compile(r".+-\d{5,}-of-\d{5,}\.tfrecord")
UPLOADS = 4  # at a time; as many more shards may wait on the local disk


class Output(Protocol):
    """What data are written to."""

    def has(self, shard: schema.Shard) -> bool:
        """Whether an earlier start has written this shard, which is kept then."""

    def add(self, name: str, examples: Iterable[bytes]) -> schema.Shard:
        """Writes a shard."""

    def add_index(self, name: str, rows: Iterable[tuple[str, str]]) -> schema.Index:
        """Writes an index of cases, see `case_index.write`."""

    def finish(self, manifest: schema.Manifest) -> None:
        """Writes the manifest, when all shards and indexes are there."""


def check(path: str) -> None:
    """Raises InputError if a file is there that has a name of ours and that no start has left."""
    for name in filter(_is_ours, files.list_folder(path)):
        is_whole = schema.is_shard if SHARD.fullmatch(name) else case_index.is_index
        if not is_whole(f"{path}/{name}"):
            raise InputError(
                f"{path}/{name} exists, and this command did not write it; move it away, or "
                "name another --output."
            )


def _is_ours(name: str) -> bool:
    """Whether a file's name is that of a shard or of an index."""
    return any(pattern.fullmatch(name) for pattern in (SHARD, case_index.NAME))


@contextlib.contextmanager
def open_output(path: str) -> Iterator[Output]:
    """Opens a folder, local or in an object store, without a manifest, for this process alone.

    If the block fails, nothing is left but what a bucket has got. If it is stopped, or a store has
    not answered, its results stay for the next start (`kept`).

    Raises:
        InputError: another process writes there, or has finished in the meantime.
    """
    opened = _open_bucket if path.startswith(gcs.SCHEME) else _open_folder
    with lock.held(path, lock.SECONDS, flag="output"):
        check_unfinished(path)
        try:
            with opened(path) as output:
                yield output
        except RetryableError:
            raise
        except Exception:
            kept.of_output(path).remove()
            raise


def check_unfinished(path: str) -> None:
    """Raises InputError if a folder holds finished data."""
    if files.exists(f"{path}/{schema.MANIFEST}"):
        raise InputError(
            f"--output={path} already has a {schema.MANIFEST}: it holds finished data; name "
            "another folder, or remove that one first."
        )


class Folder:
    """A folder that is written in place."""

    def __init__(self, path: str) -> None:
        """Begins to write into an existing folder."""
        self._path = path

    def has(self, shard: schema.Shard) -> bool:
        """See `Output`; it had its name when it was complete."""
        path = f"{self._path}/{shard.name}"
        return files.exists(path) and files.size_of(path) == shard.bytes

    def add(self, name: str, examples: Iterable[bytes]) -> schema.Shard:
        """Writes a shard."""
        return schema.write_shard(self._path, name, examples)

    def add_index(self, name: str, rows: Iterable[tuple[str, str]]) -> schema.Index:
        """Writes an index."""
        return case_index.write(self._path, name, rows)

    def finish(self, manifest: schema.Manifest) -> None:
        """Writes the manifest."""
        schema.write_manifest(manifest, self._path)
        _remove_others(manifest, self._path, files.list_folder(self._path))


def _remove_others(manifest: schema.Manifest, path: str, names: Iterable[str]) -> None:
    """Removes the results of the work, and what a start with other settings has left."""
    kept.of_output(path).remove()
    mine = {shard.name for shard in manifest.shards}
    mine |= {index.name for index in manifest.indexes or ()}
    for name in names:
        if _is_ours(name) and name not in mine:
            files.remove(f"{path}/{name}")


@contextlib.contextmanager
def _open_folder(path: str) -> Iterator[Output]:
    """If the block fails, removes all files: `check` has seen that none is another's."""
    for name in filter(files.is_temporary, files.list_folder(path)):
        files.remove(f"{path}/{name}")
    try:
        yield Folder(path)
    except RetryableError:
        raise
    except Exception:
        for name in filter(_is_ours, files.list_folder(path)):
            files.remove(f"{path}/{name}")
        raise


class Bucket:
    """A folder of a bucket: shards are finished on the local disk and uploaded meanwhile.

    What a start that failed has uploaded stays, and is not sent again: the same pictures and
    settings give the same bytes.
    """

    def __init__(self, path: str, scratch: str, pool: concurrent.futures.Executor) -> None:
        """Lists what is there; `scratch` is a local folder for shards that wait for an upload."""
        self._path, self._scratch, self._pool = path, scratch, pool
        self._there = gcs.contents(path)
        self._pending: collections.deque[concurrent.futures.Future] = collections.deque()
        self._skipped = self._sent = 0

    def has(self, shard: schema.Shard) -> bool:
        """See `Output`."""
        is_there = self._is_there(shard)
        self._skipped += is_there
        return is_there

    def _is_there(self, file: schema.Shard | schema.Index) -> bool:
        return self._there.get(file.name) == gcs.Content(file.bytes, file.crc32c)

    def add(self, name: str, examples: Iterable[bytes]) -> schema.Shard:
        """Writes a shard and has it uploaded; waits if too many are being uploaded."""
        shard = schema.write_shard(self._scratch, name, examples)
        if self.has(shard):
            os.remove(os.path.join(self._scratch, name))
            return shard
        self._pending.append(self._pool.submit(self._upload, name, shard.crc32c))
        self._sent += 1
        while len(self._pending) > 2 * UPLOADS or (self._pending and self._pending[0].done()):
            self._pending.popleft().result()
        return shard

    def add_index(self, name: str, rows: Iterable[tuple[str, str]]) -> schema.Index:
        """Writes an index and uploads it."""
        index = case_index.write(self._scratch, name, rows)
        if not self._is_there(index):
            self._upload(name, index.crc32c)
        return index

    def finish(self, manifest: schema.Manifest) -> None:
        """Waits for the shards and uploads the manifest, unless another process was faster."""
        while self._pending:
            self._pending.popleft().result()
        schema.write_manifest(manifest, self._scratch)
        local = os.path.join(self._scratch, schema.MANIFEST)
        gcs.upload(local, f"{self._path}/{schema.MANIFEST}", files.crc32c(local), create=True)
        if self._sent or self._skipped:  # by this process
            logging.info("Uploaded %d shards; %d existed already.", self._sent, self._skipped)
        _remove_others(manifest, self._path, self._there)

    def _upload(self, name: str, crc32c: str) -> None:
        local = os.path.join(self._scratch, name)
        gcs.upload(local, f"{self._path}/{name}", crc32c)
        os.remove(local)


@contextlib.contextmanager
def _open_bucket(path: str) -> Iterator[Output]:
    with (
        tempfile.TemporaryDirectory() as scratch,
        concurrent.futures.ThreadPoolExecutor(UPLOADS) as pool,
    ):
        try:
            yield Bucket(path, scratch, pool)
        finally:
            pool.shutdown(cancel_futures=True)
