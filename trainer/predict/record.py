"""What a folder of predictions records of each file: its source image, and its bytes.

A file counts as this command's own only if it is named here and is as it was written. It is named
before it gets its place, so that a process that is killed leaves no file that nobody would know.
"""

import contextlib
import dataclasses
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from trainer import json_text
from trainer.data.formats import discovery
from trainer.data.packed import Packed, reduce_to_fields
from trainer.errors import InputError
from trainer.predict.review import Expected
from trainer.storage import files, listing


@dataclasses.dataclass(frozen=True, slots=True)
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

    __reduce__ = reduce_to_fields

    def is_place_of(self, other: "Origin") -> bool:
        """Whether the other is this image, or another version of it."""
        return (self.path, self.row) == (other.path, other.row)


@dataclasses.dataclass(frozen=True, slots=True)
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
    known = list(_described(dict.fromkeys(part.rstrip("/") for part in parts)))
    modified = [one.modified for one in known if one.modified is not None]
    sums = [one.crc32c for one in known if one.crc32c is not None]
    return Origin(
        paths[0] if files.is_remote(paths[0]) else os.path.realpath(paths[0]),
        None,
        sum(one.bytes for one in known),
        max(modified, default=None),
        " ".join(sums) or None,
    )


def origins(found: Sequence[discovery.Source], images: str) -> Sequence[Origin]:
    """Returns what tells images from others.

    Args:
        found: the images.
        images: the flag, which names the array whose rows they may be.
    """
    paths = (
        images if source.row is not None and discovery.is_array(source.path) else source.path
        for source in found
    )
    return Packed(
        dataclasses.replace(origin, row=source.row)
        for origin, source in zip(_described(paths), found, strict=True)
    )


def _described(paths: Iterable[str]) -> Iterator[Origin]:
    """Yields what tells files from others."""
    listed: dict[str, Mapping[str, listing.Entry]] = {}
    for path, same in itertools.groupby(paths):  # several images of a file follow each other
        if files.is_remote(path):
            folder, name = os.path.split(path)
            if folder not in listed:
                listed[folder] = listing.list_folder(folder)
            entry = listed[folder][name]
            origin = Origin(path, None, entry.bytes, crc32c=entry.crc32c)
        else:
            stat = os.stat(path)
            origin = Origin(os.path.realpath(path), None, stat.st_size, stat.st_mtime_ns)
        yield from (origin for _ in same)


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


def to_json(facts: Mapping[str, Any], record: Mapping[str, Written]) -> Iterator[str]:
    """Yields the text of a prediction.json, a line for each file.

    Args:
        facts: what the prediction depends on.
        record: its files.
    """
    yield json_text.dumps({**facts, "files": {}}, indent=1).removesuffix("{}\n}") + "{"
    for place, name in enumerate(sorted(record)):
        entry = json_text.dumps(_fields(record[name]))
        yield f"{',' if place else ''}\n  {json_text.dumps(name)}: {entry}"
    yield "\n }\n}\n"


def _fields(written: Written) -> dict[str, Any]:
    """Returns an entry as JSON has it."""
    image = {field: getattr(written.image, field) for field in Origin.__slots__}
    entry = {"bytes": written.bytes, "crc32c": written.crc32c, "image": image}
    if written.expected:
        entry["expected"] = dataclasses.asdict(written.expected)
    return entry


def parse(text: str) -> Any:
    """Returns the content of a prediction.json, its files as they are here.

    Raises:
        ValueError: it is no JSON.
    """
    return json.loads(text, object_hook=_parsed)


def _parsed(entry: dict[str, Any]) -> Any:
    """Returns an object of JSON, or what it describes: all as dictionaries would take 1 kB each."""
    with contextlib.suppress(TypeError):
        if entry.keys() == set(Origin.__slots__) and isinstance(entry["path"], str):
            return Origin(**entry)
        if isinstance(entry.get("image"), Origin):
            return _written(**entry)
    return entry


def from_json(entries: Mapping[str, Any], path: str) -> Record:
    """Returns a record.

    Args:
        entries: of prediction.json, see `parse`.
        path: of that file, for the message.

    Raises:
        InputError: if it is damaged.
    """
    is_whole = isinstance(entries, Mapping)
    if not (is_whole and all(isinstance(entry, Written) for entry in entries.values())):
        raise InputError(
            f"{path} does not record the source of each file; restore it, or name another folder."
        )
    return dict(entries)


def _written(
    bytes: int, crc32c: str, image: Origin, expected: dict[str, Any] | None = None
) -> Written:
    return Written(bytes, crc32c, image, Expected(**expected) if expected else None)


def to_lines(record: Mapping[str, Written]) -> str:
    """Returns a record as lines, each whole by itself."""
    lines = (json_text.dumps({"file": name, **_fields(record[name])}) for name in sorted(record))
    return "".join(f"{line}\n" for line in lines)


def from_lines(text: str, path: str) -> Record:
    """Returns the record of lines, the last of which may have been cut by a kill."""
    entries = {}
    for line in text.splitlines():
        try:
            entry = parse(line)
        except json.JSONDecodeError:
            continue
        name = entry.pop("file")
        entries[name] = _parsed(entry)
    return from_json(entries, path)
