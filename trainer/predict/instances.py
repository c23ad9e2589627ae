"""Objects of a mask: connected regions of one class, numbered and measured, in bounded memory."""

import csv
import dataclasses
import io
from collections.abc import Sequence

import numpy as np
from scipy import ndimage, sparse

from trainer.data.formats.npy_stream import RowFile

BAND_PIXELS = 2**22
COLUMNS = (
    *("instance", "class", "area", "centroid_y", "centroid_x"),
    *("top", "left", "height", "width"),
)


@dataclasses.dataclass(frozen=True)
class Table:
    """The objects of a mask, in the order of their first pixels; their numbers begin at 1.

    Attributes:
        classes: int64 [N], class ids.
        areas: int64 [N], in pixels.
        centroids: float64 [N, 2], rows and columns.
        boxes: int64 [N, 4], first row and column, and those after the last.
    """

    classes: np.ndarray
    areas: np.ndarray
    centroids: np.ndarray
    boxes: np.ndarray

    def to_csv(self, names: Sequence[str]) -> str:
        """Returns a line for each object; centroids to a hundredth of a pixel."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for n, (top, left, bottom, right) in enumerate(self.boxes):
            y, x = (f"{value:.2f}" for value in self.centroids[n])
            box = (top, left, bottom - top, right - left)
            writer.writerow([n + 1, names[self.classes[n]], self.areas[n], y, x, *box])
        return text.getvalue()


def label(ids: RowFile, path: str) -> tuple[RowFile, Table]:
    """Numbers the regions of equal class, connected by sides, except the background.

    Bands are numbered by themselves first; regions that touch across their seams are one.

    Args:
        ids: uint8 [H, W], class ids.
        path: of the file to make for the numbers, uint16 or int32 [H, W].
    """
    provisional = RowFile(f"{path}.first", ids.shape, np.dtype(np.int32))
    parts: list[np.ndarray] = []
    seams: list[np.ndarray] = []
    above_ids = above = None
    top = count = 0
    for band in ids.bands(BAND_PIXELS):
        numbers, measured = _label_band(band, top, count)
        if above is not None:
            touching = (above > 0) & (above_ids == band[0])
            seams.append(np.unique(np.stack([above[touching], numbers[0][touching]]), axis=1))
        parts.append(measured)
        provisional.append(numbers)
        above_ids, above = band[-1], numbers[-1]
        top, count = top + len(band), count + len(measured)
    measured = np.concatenate(parts)
    pairs = np.concatenate(seams, axis=1) - 1 if seams else np.zeros((2, 0), np.int64)
    graph = sparse.coo_array((np.ones(pairs.shape[1], bool), pairs), shape=(count, count))
    groups = sparse.csgraph.connected_components(graph, directed=False)[1] if count else []
    table, final = _merge(measured, np.asarray(groups, np.int64))
    dtype = np.dtype(np.uint16 if len(table.areas) < 2**16 else np.int32)
    result = RowFile(path, ids.shape, dtype)
    lookup = np.concatenate([[0], final]).astype(dtype)
    for band in provisional.bands(BAND_PIXELS):
        result.append(lookup[band])
    provisional.close()
    return result, table


_FIELDS = [
    *[("class", np.int64), ("area", np.int64), ("y", np.float64), ("x", np.float64)],
    *[("top", np.int64), ("left", np.int64), ("bottom", np.int64), ("right", np.int64)],
    ("first", np.int64),
]


def _label_band(band: np.ndarray, top: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the numbers, from count + 1 on, int32 [h, W], and what was measured of each."""
    numbers = np.zeros(band.shape, np.int32)
    parts: list[np.ndarray] = []
    for k in (int(k) for k in np.unique(band) if k > 0):
        labels, found = ndimage.label(band == k)
        rows, columns = np.nonzero(labels)
        at = labels[rows, columns] - 1
        part = np.zeros(found, _FIELDS)
        part["class"], part["area"] = k, np.bincount(at, minlength=found)
        part["y"] = np.bincount(at, rows + top, found)
        part["x"] = np.bincount(at, columns, found)
        for n, (vertical, horizontal) in enumerate(ndimage.find_objects(labels)):
            part["top"][n], part["bottom"][n] = vertical.start + top, vertical.stop + top
            part["left"][n], part["right"][n] = horizontal.start, horizontal.stop
        first = np.unique(at, return_index=True)[1]
        part["first"] = (rows[first] + top) * band.shape[1] + columns[first]
        numbers[rows, columns] = at + 1 + count + sum(len(part) for part in parts)
        parts.append(part)
    return numbers, np.concatenate(parts) if parts else np.zeros(0, _FIELDS)


def _merge(measured: np.ndarray, groups: np.ndarray) -> tuple[Table, np.ndarray]:
    """Returns the objects, and the final number of each region that was measured."""
    number = int(groups.max(initial=-1)) + 1
    first = np.full(number, np.iinfo(np.int64).max)
    np.minimum.at(first, groups, measured["first"])
    place = np.empty(number, np.int64)
    place[np.argsort(first)] = np.arange(number)
    at = place[groups]
    areas = np.bincount(at, measured["area"], number).astype(np.int64)
    sums = np.stack([np.bincount(at, measured[axis], number) for axis in "yx"], axis=1)
    boxes = np.zeros((number, 4), np.int64)
    for column, side in enumerate(("top", "left")):
        boxes[:, column] = np.iinfo(np.int64).max
        np.minimum.at(boxes[:, column], at, measured[side])
    for column, side in enumerate(("bottom", "right"), 2):
        np.maximum.at(boxes[:, column], at, measured[side])
    classes = np.zeros(number, np.int64)
    classes[at] = measured["class"]
    return Table(classes, areas, sums / np.maximum(areas, 1)[:, np.newaxis], boxes), at + 1
