"""Files on a local disk or in an object store, by the same few verbs.

Local paths use the standard library, so that a full disk is an `OSError` and a process that only
prepares data does not spend seconds and 500 MB on TensorFlow. Paths with a scheme, such as gs://,
go through `tf.io.gfile`.
"""

import contextlib
import os
import types
from typing import IO, Any


def is_remote(path: str) -> bool:
    """Returns whether `path` has a scheme, as gs://bucket/folder has."""
    return "://" in path


def open_file(path: str, mode: str) -> IO[Any]:
    """Opens a file for reading or writing; text is UTF-8."""
    if is_remote(path):
        return _gfile().GFile(path, mode)
    return open(path, mode, encoding=None if "b" in mode else "utf-8")


def exists(path: str) -> bool:
    """Returns whether there is a file or folder at `path`."""
    return _gfile().exists(path) if is_remote(path) else os.path.exists(path)


def make_folder(path: str) -> list[str]:
    """Makes a folder and those above it, where they do not exist.

    Returns:
        The local folders that were made, the deepest first; an object store has none.
    """
    if is_remote(path):
        _gfile().makedirs(path)
        return []
    missing = []
    folder = os.path.abspath(path)
    while not os.path.exists(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    os.makedirs(path, exist_ok=True)
    return missing


def remove_empty_folder(path: str) -> None:
    """Removes a local folder unless something is in it."""
    if not os.listdir(path):
        os.rmdir(path)


def move(old: str, new: str) -> None:
    """Renames a file, in place of any that has the new name."""
    if is_remote(old):
        _gfile().rename(old, new, overwrite=True)
    else:
        os.replace(old, new)


def remove(path: str) -> None:
    """Removes a file, if it is there."""
    if not is_remote(path):
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)
    elif exists(path):
        _gfile().remove(path)


def _gfile() -> types.ModuleType:
    import tensorflow as tf  # see the module's docstring

    return tf.io.gfile
