"""A huge image that several workers predict: each a band of its rows, until a start joins them.

    DIR/parts/bands/HASH/2-of-8

is the second of eight, under the hash of the image's name: a line of JSON, which tells the
prediction and the image, and the values that outputs are made of as `.npy` arrays. The bands have
the rows, the tiles and the sums that the whole image has, so its files are the same, but for
rounding where tiles share a step.
"""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from typing import IO, Any

import numpy as np

from trainer import config, json_text
from trainer.data.formats import discovery
from trainer.errors import InputError
from trainer.predict import outputs, parts, predictor, record
from trainer.storage import files

ALL = f"{parts.FOLDER}/bands"  # below the folder of predictions
MOST = 100  # bands of an image
MEGABYTE = 10**6
ASKED = ("uncertainty", "probabilities")  # what is in bands only where these flags are given


@dataclasses.dataclass(frozen=True)
class Band:
    """Some of the rows of an image.

    Attributes:
        source: the image.
        origin: what tells it from others.
        number: of the band, from 1.
        count: of the image's bands.
    """

    source: discovery.Source
    origin: record.Origin
    number: int
    count: int

    def path(self, output: str) -> str:
        """Returns its file."""
        name = f"{self.number}-of-{self.count}"
        return os.path.join(output, ALL, folder_of(self.source.name), name)

    def to_key(self) -> str:
        """Returns it as one text."""
        return json_text.dumps(dataclasses.asdict(self))

    @classmethod
    def of_key(cls, key: str) -> "Band":
        """Returns what `to_key` was made of."""
        content = json.loads(key)
        source = discovery.Source(**content.pop("source"))
        return cls(source, record.Origin(**content.pop("origin")), **content)


def of_image(
    settings: config.Predict, source: discovery.Source, origin: record.Origin
) -> list[Band]:
    """Returns the bands of an image; none if it is predicted as a whole."""
    count = min(MOST, -(-origin.bytes // (settings.band_megabytes * MEGABYTE)))
    if count < 2 or origin.row is not None:  # the file has other images, too
        return []
    return [Band(source, origin, number, count) for number in range(1, count + 1)]


def write(
    settings: config.Predict,
    band: Band,
    networks: predictor.Predictor,
    facts: Mapping[str, Any],
    local: discovery.Source,
) -> None:
    """Predicts a band and writes its file, unless it is there.

    Args:
        settings: the user's.
        band: which.
        networks: what predicts.
        facts: what the prediction depends on, see `outputs.Folder.plan`.
        local: the image, on the local disk.

    Raises:
        InputError: the image cannot be read, or the folder not be made.
    """
    path = band.path(settings.output)
    names = ["ids", "sums", *(name for name in ASKED if getattr(settings, name))]
    if files.exists(path) and _is_of(path, facts, band.origin, names):
        return
    raster = networks.open(local, settings.max_pixels)
    head = {"facts": facts, "origin": dataclasses.asdict(band.origin), "names": names}
    if not files.is_remote(path):
        files.make_folder_of("output", os.path.dirname(path))
    with files.writing(path, "wb") as file:
        file.write(json_text.dumps(head).encode() + b"\n")
        for found in networks.stream([(0, lambda: raster)], (band.number, band.count)):
            if isinstance(found, predictor.Failure):
                raise found.error
            values = outputs.values_of(found, names)
            for name in names:
                _write_array(file, np.ascontiguousarray(values[name]))


def there(output: str) -> set[str]:
    """Returns the folders of images that have bands, see `folder_of`."""
    names = files.list_folder(os.path.join(output, ALL))
    return {name for name in names if re.fullmatch("[0-9a-f]{32}", name)}


def folder_of(name: str) -> str:
    """Returns the folder of the bands of an image."""
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def find(
    output: str, task: outputs.Task, facts: Mapping[str, Any], needs: Collection[str]
) -> list[str]:
    """Returns the files of an image's bands from top to bottom; none unless all are there.

    Args:
        output: the folder of predictions.
        task: of the image.
        facts: what this prediction depends on; others' bands do not count.
        needs: what must be in them, see `outputs.values_of`.
    """
    folder = os.path.join(output, ALL, folder_of(task.source.name))
    names = set(files.list_folder(folder))
    counts = {int(found[1]) for name in names if (found := re.fullmatch(r"1-of-(\d+)", name))}
    for count in sorted(counts):
        wanted = [f"{number}-of-{count}" for number in range(1, count + 1)]
        paths = [os.path.join(folder, name) for name in wanted if name in names]
        if len(paths) == count and all(_is_of(path, facts, task.origin, needs) for path in paths):
            return paths
    return []


def read(path: str, scratch: str) -> Iterator[dict[str, np.ndarray]]:
    """Yields the values of a band, some rows at a time; see `outputs.values_of`.

    Args:
        path: of its file.
        scratch: a folder for a copy, where that is in a store.

    Raises:
        InputError: the file is damaged.
    """
    local = path
    if files.is_remote(path):
        local = os.path.join(scratch, "band")
        files.copy_from_store(path, local)
    with open(local, "rb") as file:
        head = _head(file, path)
        while file.peek(1):
            try:
                values = {name: np.lib.format.read_array(file) for name in head["names"]}
            except ValueError:
                raise _damaged(path) from None
            yield values


def remove(output: str) -> None:
    """Removes all bands."""
    found = there(output)
    for folder in found:
        files.remove_folder(os.path.join(output, ALL, folder))
    if found and not files.is_remote(output):
        for above in (ALL, parts.FOLDER):
            files.remove_empty_folder(os.path.join(output, above))


def _write_array(file: IO[bytes], array: np.ndarray) -> None:
    """Writes an array as `.npy`; NumPy's own function does not say that a disk is full."""
    header = np.lib.format.header_data_from_array_1_0(array)
    np.lib.format.write_array_header_1_0(file, header)
    file.write(array.data)


def _is_of(
    path: str, facts: Mapping[str, Any], origin: record.Origin, needs: Collection[str]
) -> bool:
    """Whether a band is of this prediction and image, and has what is needed."""
    with files.opened(path) as file:
        head = _head(file, path)
    return (
        all(outputs.are_same(head["facts"].get(name), value) for name, value in facts.items())
        and record.Origin(**head["origin"]) == origin
        and set(needs) <= set(head["names"])
    )


def _head(file: IO[bytes], path: str) -> dict[str, Any]:
    """Reads the first line of a band; raises InputError if it is damaged."""
    try:
        head: dict[str, Any] = json.loads(file.readline())
    except ValueError:
        raise _damaged(path) from None
    return head


def _damaged(path: str) -> InputError:
    return InputError(f"{path} is damaged; remove it, and start again.")
