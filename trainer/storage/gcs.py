"""gs:// by Google's own Python client: what TensorFlow's does not do, or does silently.

Uploads are checked by the server, listings come with checksums, a bucket that is not there is said
to be missing, and processes that only prepare data need no TensorFlow. Training data, checkpoints
and event files go through TensorFlow's own client, whose errors `explain` puts into one line.
"""

import base64
import contextlib
import dataclasses
import functools
import re
from collections.abc import Callable, Iterator
from typing import IO, Any

from trainer.errors import InputError, RetryableError, UnreachableError

SCHEME = "gs://"
CHUNK_BYTES = 16 * 2**20  # of an upload; what is sent again when a connection breaks
PART_BYTES = 64 * 2**10  # of a file of which only the header is wanted
PASSING = (401, 408, 412, 429)  # statuses that another start may not meet; 5xx are others
RETRY_SECONDS = 300  # after which a request is given up; outages of minutes are survived


@dataclasses.dataclass(frozen=True, slots=True)
class Content:
    """An object's size in bytes and CRC32C, eight hexadecimal digits as in the manifest."""

    bytes: int
    crc32c: str


def has_object(path: str) -> bool:
    """Returns whether there is an object at `path`; see `exists`."""
    with _explained(path):
        return bool(split(path)[1]) and _blob(path).exists(retry=_retry())


def exists(path: str) -> bool:
    """Returns whether there is an object at `path`, or any below it.

    Raises:
        InputError: the bucket does not exist, or access is denied.
    """
    bucket, name = split(path)
    with _explained(path):
        if name and _blob(path).exists(retry=_retry()):
            return True
        folder = f"{name.rstrip('/')}/" if name else ""
        found = _client().list_blobs(bucket, prefix=folder, max_results=1, retry=_retry())
        return next(iter(found), None) is not None


def check(path: str) -> None:
    """Raises InputError unless the bucket of `path` exists and may be listed."""
    bucket, name = split(path)
    with _explained(path):
        next(iter(_client().list_blobs(bucket, prefix=name, max_results=1, retry=_retry())), None)


def contents(folder: str) -> dict[str, Content]:
    """Returns what is under a folder: name below it → content.

    Raises:
        InputError: the bucket does not exist, or access is denied.
    """
    return {
        name: Content(blob.size, base64.b64decode(blob.crc32c).hex() if blob.crc32c else "")
        for name, blob in _blobs(folder, "name,size,crc32c")
    }


def names(folder: str) -> Iterator[str]:
    """Yields the names of what is under a folder; raises what `contents` does."""
    return (name for name, _ in _blobs(folder, "name"))


def _blobs(folder: str, fields: str) -> Iterator[tuple[str, Any]]:
    """Yields what is under a folder, name below it and blob; one takes ten times its entry."""
    bucket, prefix = split(folder.rstrip("/") + "/")
    fields = f"items({fields}),nextPageToken"
    with _explained(folder):
        for blob in _client().list_blobs(bucket, prefix=prefix, fields=fields, retry=_retry()):
            yield blob.name.removeprefix(prefix), blob


def children(folder: str) -> list[str]:
    """Returns the sorted names of what is directly in a folder, objects and folders.

    Raises:
        InputError: the bucket does not exist, or access is denied.
    """
    bucket, prefix = split(folder.rstrip("/") + "/")
    with _explained(folder):
        blobs = _client().list_blobs(
            bucket,
            prefix=prefix,
            delimiter="/",
            fields="items(name),prefixes,nextPageToken",
            retry=_retry(),
        )
        names = [blob.name for blob in blobs] + list(blobs.prefixes)
    return sorted({name.removeprefix(prefix).rstrip("/") for name in names} - {""})


def size_of(path: str) -> int:
    """Returns the size of an object in bytes; InputError if there is none."""
    blob = _blob(path)
    with _explained(path):
        blob.reload(retry=_retry())
    return blob.size


def remove(path: str) -> None:
    """Removes an object, if it is there."""
    from google.api_core import exceptions

    with _explained(path), contextlib.suppress(exceptions.NotFound):
        _blob(path).delete(retry=_retry())


def write(path: str, text: str) -> None:
    """Makes an object of a text, in place of any that is there."""
    with _explained(path):
        _persist(lambda: _blob(path).upload_from_string(text, checksum="crc32c", retry=_retry()))


def download(path: str, local: str) -> None:
    """Copies an object into a local file, checking its checksum.

    Raises:
        InputError: there is no such object or bucket, or access is denied.
    """
    blob = _blob(path)
    with _explained(path):
        _persist(lambda: blob.download_to_filename(local, checksum="crc32c", retry=_retry()))


def download_part(path: str, first: int, end: int, local: IO[bytes]) -> None:
    """Writes the bytes from `first` up to `end` of an object to an open file.

    Raises:
        InputError: there is no such object or bucket, or access is denied.
    """
    blob, place = _blob(path), local.tell()

    def transfer() -> None:
        local.seek(place)
        blob.download_to_file(local, start=first, end=end - 1, checksum=None, retry=_retry())

    with _explained(path):
        _persist(transfer)


@contextlib.contextmanager
def opened(path: str) -> Iterator[IO[bytes]]:
    """Opens an object to read a few parts of it, 64 kB at a time.

    Raises:
        InputError: there is no such object or bucket, or access is denied.
    """
    with _explained(path), _blob(path).open("rb", chunk_size=PART_BYTES, retry=_retry()) as file:
        yield file


def upload(local: str, path: str, crc32c: str, create: bool = False) -> None:
    """Makes an object of a local file; the server refuses it if its checksum is another.

    Args:
        local: the file.
        path: gs://bucket/name.
        crc32c: of the file, eight hexadecimal digits.
        create: refuse to take the place of an object.

    Raises:
        InputError: there is no such bucket, access is denied, or `create` and there is one, not of
            these bytes: an answer that was lost on its way makes the client come again.
    """
    from google.api_core import exceptions

    blob = _blob(path)
    blob.chunk_size = CHUNK_BYTES
    blob.crc32c = base64.b64encode(bytes.fromhex(crc32c)).decode()
    with _explained(path):
        try:
            _persist(
                lambda: blob.upload_from_filename(
                    local,
                    content_type="application/octet-stream",
                    checksum=None,  # the server has it before the first byte
                    if_generation_match=0 if create else None,
                    retry=_retry(),
                )
            )
        except exceptions.PreconditionFailed:
            there = _blob(path)
            there.reload(retry=_retry())
            if there.crc32c != blob.crc32c:
                raise


def read_version(path: str) -> tuple[str, int]:
    """Returns an object's text and generation; an empty text and 0 where there is none."""
    from google.api_core import exceptions

    blob = _blob(path)
    with _explained(path):
        try:
            text = _persist(lambda: blob.download_as_bytes(retry=_retry())).decode()
            return text, blob.generation
        except exceptions.NotFound:
            check(path)  # a bucket that is not there is another matter
            return "", 0


def write_version(path: str, text: str, generation: int) -> int | None:
    """Writes an object if it is still of a generation, 0 being none.

    Returns:
        Its new generation, or None if it was of another.
    """
    from google.api_core import exceptions

    blob = _blob(path)
    with _explained(path):
        try:
            _persist(
                lambda: blob.upload_from_string(
                    text, if_generation_match=generation, retry=_retry()
                )
            )
        except exceptions.PreconditionFailed:
            # A retry finds the first try's object if only its answer was lost.
            written, found = read_version(path)
            return found if written == text else None
    return blob.generation


def remove_version(path: str, generation: int) -> None:
    """Removes an object if it is still of a generation."""
    from google.api_core import exceptions

    with (
        _explained(path),
        contextlib.suppress(exceptions.NotFound, exceptions.PreconditionFailed),
    ):
        _blob(path).delete(if_generation_match=generation, retry=_retry())


def split(path: str) -> tuple[str, str]:
    """Returns bucket and name of gs://bucket/name."""
    bucket, _, name = path.removeprefix(SCHEME).partition("/")
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]+[a-z0-9]", bucket):
        raise InputError(f"{path} does not name a bucket; write gs://BUCKET/FOLDER.")
    return bucket, name


def explain(text: str) -> str | None:
    """Returns one line for TensorFlow's text on a failed gs:// request; None for other texts."""
    path = re.search(r"gs://[^\s'\"]+", text)
    status = re.search(r"HTTP response code (\d+)", text)
    if path is None or not (status or "was not found" in text or "HTTP request" in text):
        return None
    message = re.search(r'"message": ?"([^"]*)"', text)
    said = message.group(1) if message else " ".join(text.split())
    return _line(path.group().rstrip("/.,"), int(status.group(1)) if status else 0, said)


def _line(path: str, status: int, said: str) -> str:
    bucket = split(path)[0]
    if status == 404 and "specified bucket does not exist" in said:
        return f"{path}: there is no bucket {bucket}; create it, or name another."
    if status == 404 or "was not found" in said:
        return f"{path} does not exist; name another, or check what wrote it."
    if status == 401:
        return (
            f"{path}: the credentials are not accepted (401: {said}); log in with `gcloud auth "
            "application-default login`."
        )
    if status == 403:
        return (
            f"{path}: access is denied (403: {said}); have the role Storage Object User granted "
            f"on the bucket {bucket}."
        )
    if status == 412:
        return f"{path} was written by another process meanwhile; name another folder."
    if 400 <= status < 500 and status not in (408, 429):
        return f"{path}: the request was refused ({status}: {said})."
    return f"{path} could not be reached ({status or said}); start again to resume."


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    from google.api_core import exceptions
    from google.auth import exceptions as auth

    try:
        yield
    except exceptions.RetryError as error:
        raise UnreachableError(_line(path, 0, f"{error.cause or error}")) from None
    except exceptions.GoogleAPICallError as error:
        status = error.code or 0
        kind = RetryableError if status in PASSING or status >= 500 else InputError
        raise kind(_line(path, status, _said(error))) from None
    except auth.GoogleAuthError as error:
        raise RetryableError(_line(path, 401, " ".join(str(error).split()))) from None


def _said(error: Any) -> str:
    """Returns the server's own words, without the request, which the client puts first."""
    given = re.search(r'"message": ?"([^"]*)"', error.message)
    request = re.match(r"[A-Z]+ http\S+: (.*)", error.message)
    found = given or request
    return found.group(1) if found else " ".join(error.message.split())


@functools.cache
def _client() -> Any:
    from google.auth import exceptions
    from google.cloud.storage import Client

    try:
        return Client()
    except exceptions.DefaultCredentialsError:  # public buckets can be read without any
        return Client.create_anonymous_client()


def _blob(path: str) -> Any:
    bucket, name = split(path)
    return _client().bucket(bucket).blob(name)


def _persist(transfer: Callable[[], Any]) -> Any:
    """Retries a transfer whose refusal breaks off while the client reads the reason.

    The client's own retries end before that.
    """
    return _retry()(transfer)()


@functools.cache
def _retry() -> Any:
    from google.cloud.storage.retry import DEFAULT_RETRY

    return DEFAULT_RETRY.with_delay(0.25, 30.0, 2.0).with_timeout(RETRY_SECONDS)
