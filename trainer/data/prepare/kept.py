"""Results of work on a set that a start has finished, for the next start of the same.

They lie in a folder beside the shards, a file for each item of work, and go when the manifest is
written. An item's name is a digest of all that its result follows from: the settings, the files and
when they were last changed, the version of this package. So another item has another name.
"""

import dataclasses
import enum
import fractions
import functools
import hashlib
import io
import os
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from trainer.data.formats import discovery
from trainer.data.prepare.pairs import Pair
from trainer.errors import InputError
from trainer.storage import files, listing, parallel
from trainer.version import __version__

FOLDER = "unfinished"  # in that of the shards
# Settings that change no byte of the result.
NEUTRAL = {"workers", "downloads", "runner", "runner_options", "dry_run", "output"}
REQUESTS = 32  # at the same time, to a store
FOLDERS = 4  # whose listings are remembered: pairs come from one of images and one of masks
MOST_BATCHES, MOST_PAIRS = 64, 1000  # of a set, up to 64,000 pairs; of a batch


@dataclasses.dataclass(frozen=True)
class Kept:
    """The folder of results; processes on other machines may use it, too.

    Attributes:
        folder: local or in an object store.
    """

    folder: str

    def has(self, name: str) -> bool:
        """Whether an item's result is there."""
        return name in self._there

    def load(self, name: str) -> Any:
        """Returns an item's result.

        Raises:
            InputError: there is none that can be read.
        """
        path = self._path(name)
        try:
            with files.open_file(path, "rb") as file:
                content = file.read()
        except files.failures() as error:
            raise InputError(
                f"{path} cannot be read ({type(error).__name__}): --output must be a folder that "
                "all workers share, such as one in a bucket."
            ) from None
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            raise InputError(f"{path} is damaged; remove {self.folder}, and start again.")
        return _Reader(io.BytesIO(content[32:])).load()

    def load_all(self, names: Iterable[str]) -> Iterator[Any]:
        """Yields the results of items, in order; REQUESTS of them are read ahead."""
        return parallel.each(self.load, names, REQUESTS)

    def store_all(self, results: Iterable[tuple[str, Any]]) -> None:
        """Keeps results of items by their names, REQUESTS at a time."""
        for _ in parallel.each(lambda one: self.store(*one), results, REQUESTS):
            pass

    def store(self, name: str, result: Any) -> None:
        """Keeps an item's result."""
        content = pickle.dumps(result, protocol=4)
        if not files.is_remote(self.folder):
            os.makedirs(self.folder, exist_ok=True)
        with files.writing(self._path(name), "wb") as file:
            file.write(hashlib.sha256(content).digest() + content)

    def now(self) -> set[str]:
        """Returns the names of all that is there by now."""
        return set(files.list_folder(self.folder))

    def has_by_now(self, name: str) -> bool:
        """Whether a result is there by now."""
        return files.exists(self._path(name))

    def drop(self, name: str) -> None:
        """Removes a result, if it is there."""
        files.remove(self._path(name))

    def remove(self) -> None:
        """Removes all of it."""
        for _ in parallel.each(self.drop, files.list_folder(self.folder), REQUESTS):
            pass
        if not files.is_remote(self.folder) and os.path.exists(self.folder):
            os.rmdir(self.folder)

    @functools.cached_property
    def _there(self) -> frozenset[str]:
        """What was there at the start."""
        return frozenset(files.list_folder(self.folder))

    def _path(self, name: str) -> str:
        return f"{self.folder}/{name}"


def of_output(path: str) -> Kept:
    """Returns what is kept beside the shards of a folder."""
    return Kept(f"{path}/{FOLDER}")


class _Reader(pickle.Unpickler):
    """Makes our own dataclasses and arrays of a file, and calls nothing else that it names."""

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name) if _may_have(module) else None
        is_ours = module.startswith("trainer.") and dataclasses.is_dataclass(found)
        if not (is_ours or found in (fractions.Fraction, np.ndarray, np.dtype, *_NUMPY)):
            raise InputError(f"A file of results names {module}.{name}, which is none; remove it.")
        return found


def _may_have(module: str) -> bool:
    return module.split(".")[0] in ("trainer", "fractions", "numpy")


# What NumPy's arrays and numbers are made by when they are read.
_NUMPY = tuple(made.__reduce__()[0] for made in (np.zeros(1), np.int64(1)))


def batches(count: int) -> list[slice]:
    """Returns so many pairs in batches, each an item of work."""
    size = min(MOST_PAIRS, -(-count // MOST_BATCHES)) or 1
    return [slice(k, min(count, k + size)) for k in range(0, count, size)]


def names(what: str, task: Any, items: Iterable[Any]) -> list[str]:
    """Returns the names of items of work.

    Args:
        what: the first part of the names.
        task: what is done with each item: a partial function of settings.
        items: batches of pairs, or others.
    """
    stamps = _Stamps()
    common = hashlib.sha256(repr([__version__, canonical(task)]).encode())
    found = []
    for item in items:
        key = common.copy()
        key.update(repr(canonical(item, stamps)).encode())
        found.append(f"{what}-{key.hexdigest()[:32]}")
    return found


class _Stamps:
    """When files were last changed: what a listing says, a checksum or a time, with the size."""

    def __init__(self) -> None:
        self._entries = functools.lru_cache(FOLDERS)(listing.list_folder)

    def of(self, source: discovery.Source) -> Any:
        """Returns the stamp of a file, or of the slices of a series."""
        if source.is_series:
            return sorted(listing.list_folder(source.path).items())
        folder, name = os.path.split(source.path)
        if not files.is_remote(folder):
            stat = os.stat(source.path)
            return stat.st_size, stat.st_mtime_ns
        return self._entries(folder).get(name)


def canonical(value: Any, stamps: _Stamps | None = None) -> Any:
    """Returns a value as lists and texts that are equal in every process for what is equal.

    A file is told by its path and its stamp, but for pairs that hold a digest of their content.
    """
    if isinstance(value, Pair) and value.content:
        stamps = None
    if isinstance(value, discovery.Source) and stamps:
        return [*canonical(value), repr(stamps.of(value))]
    if isinstance(value, functools.partial):
        return canonical([value.func, value.args, value.keywords], stamps)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [one.name for one in dataclasses.fields(value) if one.name not in NEUTRAL]
        return [type(value).__name__, *(canonical(getattr(value, n), stamps) for n in fields)]
    if isinstance(value, np.ndarray):
        return [value.dtype.str, value.shape, hashlib.sha256(value.tobytes()).hexdigest()]
    if isinstance(value, Mapping):
        return sorted((repr(key), canonical(entry, stamps)) for key, entry in value.items())
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [canonical(entry, stamps) for entry in value]
    if callable(value):
        owner = canonical(getattr(value, "__self__", None))
        return [value.__module__, value.__qualname__, owner]
    assert value is None or isinstance(value, str | bytes | bool | int | float | enum.Enum)
    return value
