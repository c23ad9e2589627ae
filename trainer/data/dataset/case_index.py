"""The cases of a split in a file of their own, a line for each: `train-cases.jsonl`.

    ["case", "0110"]

The second text has a mark for each class, 1 if the case has a pixel of it. The manifest says at
which line the cases of a shard begin, in the order of its examples, and vouches for the file. So it
does not grow with the cases, and a process reads the names of those splits alone whose names it
needs. Data of up to MOST_LISTED examples have no such file: their manifest has names and marks.
"""

import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from typing import overload

import google_crc32c
import numpy as np

from trainer import json_text
from trainer.data.dataset import schema
from trainer.errors import InputError
from trainer.storage import files

MOST_LISTED = 10_000  # examples of all splits; to parse their names takes 5 ms
NAME = re.compile(r"(train|val|test|fold\d+-train|fold\d+-val)-cases\.jsonl")
FIRST_BYTES = 2**16  # that a line does not exceed


def file_name(side: str) -> str:
    """Returns the name of the index of a split, or of a role of a fold."""
    return f"{side}-cases.jsonl"


def is_index(path: str) -> bool:
    """Whether a file begins with a line as `write` makes it."""
    with files.opened(path) as file:
        line = file.read(FIRST_BYTES).partition(b"\n")[0]
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # also for bytes that are not text
        return False
    return isinstance(row, list) and len(row) == 2 and all(isinstance(one, str) for one in row)


def write(data_dir: str, name: str, rows: Iterable[tuple[str, str]]) -> schema.Index:
    """Writes an index, which appears only when it is complete.

    Args:
        data_dir: the data folder, local or gs://; it exists.
        name: the file's.
        rows: the name of each case, and a mark for each class.
    """
    count = size = crc = 0
    with files.writing(f"{data_dir}/{name}", "wb") as file:
        for row in rows:
            line = json_text.dumps(row, ensure_ascii=False).encode() + b"\n"
            file.write(line)
            count, size = count + 1, size + len(line)
            crc = google_crc32c.extend(crc, line)
    return schema.Index(name, count, size, f"{crc:08x}")


def read(data_dir: str, index: schema.Index) -> bytes:
    """Returns the content of an index.

    Raises:
        InputError: it is missing, or not the one that the manifest describes.
    """
    path = f"{data_dir}/{index.name}"
    if not files.exists(path):
        raise InputError(
            f"{path} is missing, though the manifest lists it; copy the folder again or prepare "
            "the data again."
        )
    with files.open_file(path, "rb") as file:
        content = file.read()
    crc = google_crc32c.value(content)
    found = schema.Index(index.name, content.count(b"\n"), len(content), f"{crc:08x}")
    if found != index:
        raise InputError(
            f"{path} is not the index of the manifest: {schema.differences(found, index)}; copy it "
            "again or prepare the data again."
        )
    return content


class Cases(Sequence[str]):
    """Names of cases, each decoded when it is asked for: 16 bytes a case beside the file's."""

    def __init__(self, content: bytes, lines: np.ndarray):
        """Takes the lines of indexes, and the numbers of those that count, int64 [N]."""
        self._content, self._lines = content, lines
        self._bytes = np.frombuffer(content, np.uint8)
        self._edges = np.append(0, np.flatnonzero(self._bytes == ord("\n")) + 1)

    def __len__(self) -> int:
        """The number of cases."""
        return len(self._lines)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[str, ...]: ...
    def __getitem__(self, place: int | slice) -> str | tuple[str, ...]:
        """The name of a case, or those of several."""
        if isinstance(place, slice):
            return tuple(self._row(line)[0] for line in self._lines[place])
        return self._row(self._lines[place])[0]

    def marks(self, start: int, stop: int, num_classes: int) -> tuple[str, ...]:
        """Returns of each class a text with a mark for each of these cases."""
        quotes = self._edges[self._lines[start:stop] + 1] - len('"]\n')  # behind the marks
        places = quotes - num_classes + np.arange(num_classes)[:, np.newaxis]
        return tuple(row.tobytes().decode() for row in self._bytes[places])

    def _row(self, line: int) -> list[str]:
        return json.loads(self._content[self._edges[line] : self._edges[line + 1]])


def with_cases(data_dir: str, manifest: schema.Manifest, splits: Iterable[str]) -> schema.Manifest:
    """Returns the manifest with the names of the cases of some splits, read where it has none.

    Raises:
        InputError: an index is missing, or not the one that the manifest describes.
    """
    found = {
        name: dataclasses.replace(split, cases=_cases(data_dir, manifest, split))
        for name in splits
        if (split := manifest.splits[name]).cases is None
    }
    return dataclasses.replace(manifest, splits={**manifest.splits, **found})


def with_marks(data_dir: str, manifest: schema.Manifest, split: str) -> schema.Manifest:
    """Returns the manifest with `present` of each shard of a split, read where indexes have it.

    Raises:
        InputError: an index is missing, or not the one that the manifest describes.
    """
    if manifest.indexes is None:
        return manifest
    entry = manifest.splits[split]
    cases, shards, end = _cases(data_dir, manifest, entry), [], 0
    for shard in entry.shards:
        start, end = end, end + shard.examples
        marks = cases.marks(start, end, manifest.num_classes)
        shards.append(dataclasses.replace(shard, present=marks))
    marked = dataclasses.replace(entry, shards=tuple(shards))
    return dataclasses.replace(manifest, splits={**manifest.splits, split: marked})


def of_splits(manifest: schema.Manifest, splits: Iterable[str]) -> list[schema.Index]:
    """Returns the indexes that have the cases of some splits; none where splits list them."""
    return _indexes(manifest, [manifest.splits[name] for name in splits])


def _indexes(manifest: schema.Manifest, splits: Iterable[schema.Split]) -> list[schema.Index]:
    names = {shard.rows.index for split in splits for shard in split.shards if shard.rows}
    return [index for index in manifest.indexes or () if index.name in names]


def _cases(data_dir: str, manifest: schema.Manifest, split: schema.Split) -> Cases:
    """Reads the cases of a split, of which a fold may be in several files."""
    contents, first_lines, total = [], dict[str, int](), 0
    for index in _indexes(manifest, [split]):
        contents.append(read(data_dir, index))
        first_lines[index.name] = total
        total += index.lines
    places = [(shard.rows, shard.examples) for shard in split.shards if shard.rows]
    starts = [(first_lines[rows.index] + rows.first, count) for rows, count in places]
    return Cases(
        b"".join(contents),
        np.concatenate([np.arange(start, start + count) for start, count in starts]),
    )
