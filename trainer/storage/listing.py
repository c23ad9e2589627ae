"""What a folder holds, by listing it: one request for a thousand files, and no file is read."""

import concurrent.futures
import dataclasses
import os

from trainer.storage import files, gcs

REQUESTS = 16  # at the same time, to stores that are asked for each file


@dataclasses.dataclass(frozen=True, slots=True)
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
    if folder.startswith(gcs.SCHEME):
        found = gcs.contents(folder)
        return {name: Entry(one.bytes, crc32c=one.crc32c or None) for name, one in found.items()}
    if files.is_remote(folder):
        return _ask_for_each(folder)
    with os.scandir(folder) as entries:
        stats = {entry.name: entry.stat() for entry in entries if entry.is_file()}
    return {name: Entry(stat.st_size, stat.st_mtime) for name, stat in stats.items()}


def _ask_for_each(folder: str) -> dict[str, Entry]:
    verbs = files.gfile(folder)
    names = [name for name in verbs.listdir(folder) if not name.endswith("/")]
    with concurrent.futures.ThreadPoolExecutor(REQUESTS) as pool:
        stats = pool.map(lambda name: verbs.stat(f"{folder}/{name}"), names)
        return {name: Entry(stat.length) for name, stat in zip(names, stats, strict=True)}
