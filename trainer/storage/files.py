"""Files on a local disk or in an object store, by the same functions.

Local paths use the standard library, so that a full disk is an `OSError` and a process that only
prepares data does not spend seconds and 500 MB on TensorFlow. Paths with a scheme, such as gs://,
go through `tf.io.gfile`; s3:// and az:// are known to it only once tensorflow-io is imported, which
is done where such a path is first met. Whether a bucket of gs:// or an object is there is asked by
`trainer.storage.gcs`, since TensorFlow takes a bucket that does not exist for one without the
object, and never ends making a folder in it.
"""

import contextlib
import errno
import fnmatch
import functools
import importlib.util
import os
import re
import shutil
import sys
import tempfile
import types
import uuid
import warnings
from collections.abc import Collection, Iterator
from typing import IO, Any

import google_crc32c

from trainer import native_exit
from trainer.errors import InputError, UnreachableError
from trainer.storage import azure, gcs

IO_SCHEMES = ("s3://", "az://")
STORES = (gcs.SCHEME, *IO_SCHEMES)
PLAIN_SCHEMES = ("file://", "ram://")  # TensorFlow's own: a local path, and a process's memory
BLOCK = 2**20

# With these S3 and Azure refuse a request for good, as tensorflow-io passes their words on.
REFUSALS = (
    "NoSuchBucket|ContainerNotFound|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|"
    "ExpiredToken|AuthenticationFailed|AuthorizationFailure|AuthorizationPermissionMismatch"
)


def is_remote(path: str) -> bool:
    """Returns whether `path` has a scheme, as gs://bucket/folder has.

    Raises:
        InputError: if it has one that is not known here.
    """
    if "://" not in path:
        return False
    if not path.startswith(STORES + PLAIN_SCHEMES):
        raise InputError(
            f"{path} has an unknown scheme; name a local path, or one that begins with "
            f"{', '.join(STORES[:-1])} or {STORES[-1]}."
        )
    return True


def failures() -> tuple[type[Exception], ...]:
    """Returns the exceptions that disks and stores raise, of the libraries that are in use."""
    found: list[type[Exception]] = [OSError, UnreachableError]
    if "tensorflow" in sys.modules:
        found.append(sys.modules["tensorflow"].errors.OpError)
    if "google.api_core.exceptions" in sys.modules:
        found.append(sys.modules["google.api_core.exceptions"].GoogleAPIError)
    if "google.auth.exceptions" in sys.modules:
        found.append(sys.modules["google.auth.exceptions"].GoogleAuthError)
    return tuple(found)


def open_file(path: str, mode: str) -> IO[Any]:
    """Opens a file for reading ("r" or "rb"); text is UTF-8."""
    if path.startswith(azure.SCHEME):
        register_stores(path)
        return azure.open_file(path, mode)
    if is_remote(path):
        return gfile(path).GFile(path, mode)
    return open(path, mode, encoding=None if "b" in mode else "utf-8")


@contextlib.contextmanager
def writing(path: str, mode: str = "w") -> Iterator[IO[Any]]:
    """Opens a file for writing ("w" or "wb"), in place of any that is there; text is UTF-8.

    Readers see it whole or not at all, and if the block raises, what was there before: a local file
    gets its name at the end, when it would outlast a power cut, and an object is made of one. What
    is no file, such as /dev/stdout or a pipe, is written to as it is.
    """
    encoding = None if "b" in mode else "utf-8"
    if is_remote(path):
        with tempfile.TemporaryDirectory() as scratch:
            local = os.path.join(scratch, "content")
            with open(local, mode, encoding=encoding) as file:
                yield file
            copy_to_store(local, path)
        return
    if _is_no_file(path):
        with open(path, mode.replace("w", "a"), encoding=encoding) as file:
            yield file
        return
    target = os.path.realpath(path)
    temporary = temporary_path(target)
    try:
        with open(temporary, mode, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if os.path.exists(target):
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename == temporary:
            error.filename = path
        remove(temporary)
        raise


def temporary_path(path: str) -> str:
    """Returns a new name beside a local file, which nobody else has."""
    return os.path.join(os.path.dirname(path), f".{uuid.uuid4().hex}.tmp")


def is_temporary(name: str) -> bool:
    """Whether a file's name is one that `writing` gives, and leaves where a process is killed."""
    return re.fullmatch(r"\.[0-9a-f]{32}\.tmp", name) is not None


def _is_no_file(path: str) -> bool:
    devices = os.path.abspath(path).startswith("/dev/")  # /dev/stdout may lead to a file
    return devices or (os.path.exists(path) and not os.path.isfile(path))


def opened(path: str) -> contextlib.AbstractContextManager[IO[bytes]]:
    """Opens a file to read a few parts of it."""
    return gcs.opened(path) if path.startswith(gcs.SCHEME) else open_file(path, "rb")


def crc32c(path: str) -> str:
    """Returns the CRC32C of a file, eight hexadecimal digits."""
    crc = 0
    with open_file(path, "rb") as file:
        while block := file.read(BLOCK):
            crc = google_crc32c.extend(crc, block)
    return f"{crc:08x}"


def read_text(path: str) -> str:
    """Returns the text of a small file; empty if there is none in a gs:// bucket."""
    if path.startswith(gcs.SCHEME):
        return gcs.read_version(path)[0]
    with open_file(path, "r") as file:
        return file.read()


def exists(path: str) -> bool:
    """Returns whether there is a file or folder at `path`."""
    if path.startswith(gcs.SCHEME):
        return gcs.exists(path)
    return gfile(path).exists(path) if is_remote(path) else os.path.exists(path)


def make_folder(path: str) -> list[str]:
    """Makes a folder and those above it, where they do not exist.

    Returns:
        The local folders that were made, the deepest first; an object store has none.
    """
    if path.startswith(gcs.SCHEME):
        gcs.check(path)
        return []
    if is_remote(path):
        if path.startswith(IO_SCHEMES):
            _check_root(path)
        if not path.startswith(azure.SCHEME):  # which would query each level, in vain
            gfile(path).makedirs(path)
        return []
    missing = []
    folder = os.path.abspath(path)
    while not os.path.exists(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    os.makedirs(path, exist_ok=True)
    return missing


def make_folder_of(flag: str, path: str) -> list[str]:
    """Makes the folder that a flag names, as `make_folder`; InputError if it cannot be made."""
    try:
        return make_folder(path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise InputError(
            f"--{flag}={path} cannot be created: {error.strerror}; name another folder."
        ) from None


def check_folder(flag: str, path: str) -> None:
    """Raises InputError if a local folder cannot be made, or nothing be written into it."""
    if is_remote(path):
        return
    made = make_folder_of(flag, path)
    try:
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise InputError(
            f"--{flag}={path} cannot be written: {error.strerror}; name another folder."
        ) from None
    finally:
        for folder in made:
            remove_empty_folder(folder)


def check_replaceable(flag: str, path: str, marks: Collection[str]) -> None:
    """Raises InputError if a flag names a file that is there, and not one like what is written.

    Args:
        flag: for the message.
        path: of the file.
        marks: each of what is written has one of these within its first megabyte.
    """
    if path.startswith(gcs.SCHEME):
        is_there = gcs.has_object(path)
    else:
        is_there = exists(path) if is_remote(path) else not _is_no_file(path)
    if not is_there or (not is_remote(path) and not os.path.exists(path)):
        return
    with open_file(path, "rb") as file:
        head = file.read(BLOCK)
    if head and not any(mark.encode() in head for mark in marks):
        raise InputError(
            f"--{flag}={path} exists, and no such command wrote it; move it away, or "
            "name another file."
        )


def prepare_file(flag: str, path: str, marks: Collection[str]) -> None:
    """Makes the folder of a file that a flag names, before the work that it reports.

    Raises:
        InputError: if no file can be written there, or one is there; see `check_replaceable`.
    """
    remote = is_remote(path)
    if remote and "/" not in path.partition("://")[2].strip("/"):
        raise InputError(f"--{flag}={path} names no file; name one in a bucket: gs://BUCKET/FILE.")
    folder = os.path.dirname(path) or "."
    try:
        make_folder(folder)
        if not remote and not _is_no_file(path):
            with tempfile.TemporaryFile(dir=folder):
                pass
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise InputError(
            f"--{flag}={path} cannot be written: {error.strerror}; name another file."
        ) from error
    if not remote and os.path.isdir(path):
        raise InputError(f"--{flag}={path} is a folder; name a file.")
    check_replaceable(flag, path, marks)


def list_folder(path: str) -> list[str]:
    """Returns the sorted names in a folder; none if there is no such folder."""
    if path.startswith(gcs.SCHEME):
        return gcs.children(path)
    if not is_remote(path):
        return sorted(os.listdir(path)) if os.path.isdir(path) else []
    if not gfile(path).isdir(path):
        return []
    return sorted({name.rstrip("/") for name in gfile(path).listdir(path)} - {""})


def find_in_store(pattern: str) -> list[str]:
    """Returns the sorted paths in an object store that match a glob; a star matches no slash."""
    if not pattern.startswith(gcs.SCHEME):
        return sorted(gfile(pattern).glob(pattern))
    folder = re.split(r"[*?\[]", pattern)[0].rpartition("/")[0]
    parts = pattern.split("/")
    return [
        path
        for path in sorted(f"{folder}/{name}" for name in gcs.names(folder))
        if path.count("/") == len(parts) - 1
        and all(map(fnmatch.fnmatchcase, path.split("/"), parts))
    ]


def find_below(folder: str) -> list[str]:
    """Returns the sorted paths of all files in a folder of an object store, however deep."""
    if folder.startswith(gcs.SCHEME):
        return sorted(f"{folder}/{name}" for name in gcs.names(folder))
    walk = gfile(folder).walk(folder)
    return sorted(f"{where.rstrip('/')}/{name}" for where, _, names in walk for name in names)


def size_of(path: str) -> int:
    """Returns the size of a file in bytes."""
    if path.startswith(gcs.SCHEME):
        return gcs.size_of(path)
    return gfile(path).stat(path).length if is_remote(path) else os.path.getsize(path)


def remove_folder(path: str) -> None:
    """Removes a folder and all that is in it, if it is there."""
    if path.startswith(gcs.SCHEME):
        for name in gcs.contents(path):
            gcs.remove(f"{path}/{name}")
        return
    if not is_remote(path):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)
    elif gfile(path).isdir(path):
        gfile(path).rmtree(path)


def write_whole(path: str, text: str) -> None:
    """Writes a small file, see `writing`."""
    if path.startswith(gcs.SCHEME):
        gcs.write(path, text)
        return
    with writing(path) as file:
        file.write(text)


def append(path: str, text: str) -> None:
    """Appends to a local file, all of the text or nothing."""
    size = os.path.getsize(path) if os.path.exists(path) else 0
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(text)
    except OSError:  # the disk is full
        with contextlib.suppress(OSError):
            os.truncate(path, size)
        raise


def copy_to_store(local: str, path: str) -> None:
    """Copies a local file to an object store; a local `path` is that file, which is synced."""
    if path.startswith(gcs.SCHEME):
        gcs.upload(local, path, crc32c(local))
        return
    if path.startswith(azure.SCHEME):
        register_stores(path)
        azure.upload(local, path)
        return
    if is_remote(path):
        with open(local, "rb") as source, gfile(path).GFile(path, "wb") as copy:
            shutil.copyfileobj(source, copy, BLOCK)
        return
    assert local == path
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def copy_from_store(path: str, local: str) -> None:
    """Copies a file of an object store to the local disk.

    Raises:
        InputError: there is no such file or bucket, or access is denied.
    """
    if path.startswith(gcs.SCHEME):
        gcs.download(path, local)
        return
    if not exists(path):  # az:// would give an empty file
        raise InputError(f"{path} does not exist; name another, or check what wrote it.")
    with open_file(path, "rb") as source, open(local, "wb") as copy:
        shutil.copyfileobj(source, copy, BLOCK)


def copy_part(path: str, first: int, end: int, local: IO[bytes]) -> None:
    """Writes the bytes from `first` up to `end` of a file in an object store to an open one.

    Raises:
        InputError: there is no such file or bucket, or access is denied.
    """
    if path.startswith(gcs.SCHEME):
        gcs.download_part(path, first, end, local)
        return
    with open_file(path, "rb") as source:
        source.seek(first)
        for place in range(first, end, BLOCK):
            local.write(source.read(min(BLOCK, end - place)))


def remove_empty_folder(path: str) -> None:
    """Removes a local folder unless something is in it."""
    if not os.listdir(path):
        os.rmdir(path)


def remove(path: str) -> None:
    """Removes a file, if it is there."""
    if path.startswith(gcs.SCHEME):
        gcs.remove(path)
        return
    if not is_remote(path):
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)
    elif exists(path):
        gfile(path).remove(path)


def explain(text: str) -> str | None:
    """Returns one line for TensorFlow's text on a store's refusal; None for other texts."""
    said = " ".join(text.split())
    if azure.says_unreached(text):
        return (
            f"The store could not be reached ({said[:200]}); check the account's name, or start "
            "again to resume."
        )
    if re.search(REFUSALS, text) is None:
        return gcs.explain(text)
    return (
        f"The store refused a request ({said if len(said) <= 200 else said[:197] + '…'}); check "
        "the name of the bucket, and what your credentials may do there."
    )


def _check_root(path: str) -> None:
    """Raises InputError unless the bucket of an s3:// path, or container of an az://, is there."""
    scheme, _, rest = path.partition("://")
    levels = 2 if scheme == "az" else 1  # az://account/container/folder
    parts = rest.split("/")
    root = f"{scheme}://{'/'.join(parts[:levels])}/"
    if not all(parts[:levels]) or not any(parts[levels:]):
        raise InputError(f"{path} names no folder; write {root}FOLDER.")
    if not gfile(path).isdir(root):
        raise InputError(
            f"{path}: there is no {root}, or no access to it; create it, or name another."
        )


def register_stores(*paths: str) -> None:
    """Makes TensorFlow know the stores of these paths; its own readers and writers need it too.

    Raises:
        InputError: if a path has an unknown scheme, or takes tensorflow-io, which is not there.
    """
    for path in paths:
        if is_remote(path) and path.startswith(IO_SCHEMES):
            import_tensorflow_io(path)


def import_tensorflow_io(label: str) -> types.ModuleType:
    """Imports tensorflow-io, which makes its stores known to TensorFlow.

    Args:
        label: what needs it, for the message.

    Raises:
        InputError: if it is not installed, or does not fit the TensorFlow that is.
    """
    found = _tensorflow_io()
    if found is None:
        raise InputError(
            f"{label} needs tensorflow-io, which works with TensorFlow 2.17 only; install both in "
            'an environment of their own: pip install ".[io]".'
        )
    return found


@functools.cache
def _tensorflow_io() -> types.ModuleType | None:
    if importlib.util.find_spec("tensorflow_io") is None:
        return None
    import tensorflow as tf  # see the module's docstring

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # beside another TensorFlow it only warns
        import tensorflow_io
    if "s3" not in tf.io.gfile.get_registered_schemes():
        return None
    native_exit.skip_destructors()
    return tensorflow_io


def gfile(path: str) -> Any:
    """Returns the verbs of `tf.io.gfile` for the store of a path."""
    import tensorflow as tf  # see the module's docstring

    register_stores(path)
    return azure.gfile() if path.startswith(azure.SCHEME) else tf.io.gfile
