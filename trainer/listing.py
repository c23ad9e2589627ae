"""What a folder holds, by listing it: one request for a thousand files, and no file is read."""

import base64
import concurrent.futures
import dataclasses
import os

from trainer import files

REQUESTS = 16  # at the same time, to stores that are asked for each file


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file.

    Attributes:
        bytes: its size.
        modified: when it was last written, in seconds since 1970, on a local disk; elsewhere None.
        crc32c: of its content, eight hexadecimal digits, where the store keeps it; elsewhere None.
    """

    bytes: int
    modified: float | None = None
    crc32c: str | None = None


def list_folder(folder: str) -> dict[str, Entry]:
    """Returns the files of a folder, local or in an object store, by name."""
    if folder.startswith("gs://"):
        return _list_bucket(folder)
    if files.is_remote(folder):
        return _ask_for_each(folder)
    with os.scandir(folder) as found:
        stats = {entry.name: entry.stat() for entry in found if entry.is_file()}
    return {name: Entry(stat.st_size, stat.st_mtime) for name, stat in stats.items()}


def _list_bucket(folder: str) -> dict[str, Entry]:
    from google.auth import exceptions  # these take 0.5 s, which local folders do not need
    from google.cloud import storage

    try:
        client = storage.Client()
    except exceptions.DefaultCredentialsError:  # a public bucket needs none
        client = storage.Client.create_anonymous_client()
    bucket, _, path = folder.removeprefix("gs://").partition("/")
    prefix = path.rstrip("/") + "/" if path else ""
    blobs = client.list_blobs(
        bucket, prefix=prefix, delimiter="/", fields="items(name,size,crc32c),nextPageToken"
    )
    return {
        blob.name.removeprefix(prefix): Entry(
            blob.size, crc32c=base64.b64decode(blob.crc32c).hex() if blob.crc32c else None
        )
        for blob in blobs
    }


def _ask_for_each(folder: str) -> dict[str, Entry]:
    import tensorflow as tf  # see `files`

    names = [name for name in tf.io.gfile.listdir(folder) if not name.endswith("/")]
    with concurrent.futures.ThreadPoolExecutor(REQUESTS) as pool:
        stats = pool.map(lambda name: tf.io.gfile.stat(f"{folder}/{name}"), names)
        return {name: Entry(stat.length) for name, stat in zip(names, stats, strict=True)}
