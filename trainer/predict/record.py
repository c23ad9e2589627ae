"""What a folder of predictions records of each file: its source image, and its bytes.

A file counts as this command's own only if it is named here and is as it was written. It is named
before it gets its place, so that a process that is killed leaves no file that nobody would know.
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from trainer import json_text
from trainer.data.formats import discovery
from trainer.errors import InputError
from trainer.predict.review import Expected
from trainer.storage import files, listing


@dataclasses.dataclass(frozen=True)
class Origin:
    """An image, as it was when it was predicted.

    Attributes:
        path: absolute and without links, or the address in a store; an array's, of its rows.
        row: of the array, or page of the TIFF; None if the whole file is the image.
        bytes: size of the file.
        modified: when it was last written, in nanoseconds since 1970, on a disk; elsewhere None.
        crc32c: of the file, where the store keeps it; elsewhere None.
    """

    path: str
    row: int | None
    bytes: int
    modified: int | None = None
    crc32c: str | None = None

    def is_place_of(self, other: "Origin") -> bool:
        """Whether the other is this image, or another version of it."""
        return (self.path, self.row) == (other.path, other.row)


@dataclasses.dataclass(frozen=True)
class Written:
    """A file that was written.

    Attributes:
        bytes: its size.
        crc32c: of its content.
        image: its source.
        expected: the expected Dice of a mask, where that was asked for.
    """

    bytes: int
    crc32c: str
    image: Origin
    expected: Expected | None = None

    @classmethod
    def describe(cls, local: str, image: Origin, expected: Expected | None = None) -> "Written":
        """Describes a file on the local disk."""
        return cls(os.path.getsize(local), files.crc32c(local), image, expected)

    def is_at(self, path: str, found: listing.Entry) -> bool:
        """Whether a file that is there is this one; of s3:// and az:// only the size is asked."""
        if found.bytes != self.bytes:
            return False
        if found.crc32c is None and files.is_remote(path):
            return True
        return (found.crc32c or files.crc32c(path)) == self.crc32c


Record = dict[str, Written]


def origin_of_volume(paths: Sequence[str]) -> Origin:
    """Returns what tells a volume from others: all its files as one, under the first's name.

    Args:
        paths: its files, one for each channel, or a folder of slices.
    """
    parts = [
        f"{path}/{name}" if files.is_remote(path) else os.path.join(path, name)
        for path in paths
        for name in (files.list_folder(path) or [""])
    ]
    known = list(_known([part.rstrip("/") for part in parts]).values())
    modified = [one.modified for one in known if one.modified is not None]
    sums = [one.crc32c for one in known if one.crc32c is not None]
    return Origin(
        paths[0] if files.is_remote(paths[0]) else os.path.realpath(paths[0]),
        None,
        sum(one.bytes for one in known),
        max(modified, default=None),
        " ".join(sums) or None,
    )


def origins(found: Sequence[discovery.Source], images: str) -> list[Origin]:
    """Returns what tells images from others.

    Args:
        found: the images.
        images: the flag, which names the array whose rows they may be.
    """
    paths = [
        images if source.row is not None and discovery.is_array(source.path) else source.path
        for source in found
    ]
    known = _known(paths)
    return [
        dataclasses.replace(known[path], row=source.row)
        for path, source in zip(paths, found, strict=True)
    ]


def _known(paths: Sequence[str]) -> dict[str, Origin]:
    """Returns what tells files from others, by their paths."""
    remote = {os.path.dirname(path) for path in paths if files.is_remote(path)}
    listed = {folder: listing.list_folder(folder) for folder in remote}
    known: dict[str, Origin] = {}
    for path in dict.fromkeys(paths):
        folder, name = os.path.split(path)
        if folder in listed:
            entry = listed[folder][name]
            known[path] = Origin(path, None, entry.bytes, crc32c=entry.crc32c)
        else:
            stat = os.stat(path)
            known[path] = Origin(os.path.realpath(path), None, stat.st_size, stat.st_mtime_ns)
    return known


def present(folder: str, below: Sequence[str]) -> dict[str, listing.Entry]:
    """Returns what is in a folder and in some of those directly in it, by the path below it.

    Folders and links on a disk are there, too, with a size of -1.
    """
    found = {}
    for part in ("", *below):
        where = os.path.join(folder, part).rstrip("/")
        entries = _listed(where) if files.is_remote(where) else _scanned(where)
        found.update({os.path.join(part, name): entry for name, entry in entries.items()})
    return found


def _listed(folder: str) -> dict[str, listing.Entry]:
    return listing.list_folder(folder) if files.list_folder(folder) else {}


def _scanned(folder: str) -> dict[str, listing.Entry]:
    if not os.path.isdir(folder):
        return {}
    with os.scandir(folder) as entries:
        return {
            entry.name: listing.Entry(
                entry.stat().st_size if entry.is_file(follow_symlinks=False) else -1
            )
            for entry in entries
        }


def to_json(record: Mapping[str, Written]) -> dict[str, Any]:
    """Returns a record as prediction.json has it."""
    return {
        name: {
            key: value
            for key, value in dataclasses.asdict(record[name]).items()
            if value is not None
        }
        for name in sorted(record)
    }


def from_json(entries: Mapping[str, Any], path: str) -> Record:
    """Returns a record.

    Args:
        entries: of prediction.json.
        path: of that file, for the message.

    Raises:
        InputError: if it is damaged.
    """
    try:
        return {name: _written(**entry) for name, entry in entries.items()}
    except (AttributeError, KeyError, TypeError):
        raise InputError(
            f"{path} does not record the source of each file; restore it, or name another folder."
        ) from None


def _written(
    bytes: int, crc32c: str, image: dict[str, Any], expected: dict[str, Any] | None = None
) -> Written:
    return Written(bytes, crc32c, Origin(**image), Expected(**expected) if expected else None)


def to_lines(record: Mapping[str, Written]) -> str:
    """Returns a record as lines, each whole by itself."""
    return "".join(
        json_text.dumps({"file": name, **entry}) + "\n" for name, entry in to_json(record).items()
    )


def from_lines(text: str, path: str) -> Record:
    """Returns the record of lines, the last of which may have been cut by a kill."""
    entries = {}
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        entries[entry.pop("file")] = entry
    return from_json(entries, path)
