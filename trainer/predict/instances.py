"""Objects of a mask: connected regions of one class, numbered and measured, in bounded memory.

Of images and of volumes: a band is some rows or slices; what is said of pixels holds for voxels.
"""

import csv
import dataclasses
import io
import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage, sparse

from trainer.data.formats.npy_stream import Rows, TemporaryRows
from trainer.evaluate.components import Decision

BAND_PIXELS = 2**22
COLUMNS = {
    2: ("instance", "class", "area", "centroid_y", "centroid_x", "top", "left", "height", "width"),
    3: (
        *("instance", "class", "voxels", "centroid_z", "centroid_y", "centroid_x"),
        *("z", "y", "x", "depth", "height", "width"),
    ),
}


@dataclasses.dataclass(frozen=True)
class Table:
    """The objects of a mask, in the order of their first pixels; their numbers begin at 1.

    Attributes:
        classes: int64 [N], class ids.
        areas: int64 [N], in pixels.
        centroids: float64 [N, rank], along each axis.
        boxes: int64 [N, 2, rank], the first pixel along each axis, and the one after the last.
    """

    classes: np.ndarray
    areas: np.ndarray
    centroids: np.ndarray
    boxes: np.ndarray

    def to_csv(self, names: Sequence[str]) -> str:
        """Returns a line for each object; centroids to a hundredth of a pixel."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS[self.centroids.shape[1]])
        for n, (low, high) in enumerate(self.boxes):
            centroid = (f"{value:.2f}" for value in self.centroids[n])
            row = (n + 1, names[self.classes[n]], self.areas[n], *centroid, *low, *(high - low))
            writer.writerow(row)
        return text.getvalue()


def label(ids: Rows, folder: str) -> tuple[Rows, Table]:
    """Numbers the regions of equal class, connected by sides, except the background.

    Bands are numbered by themselves first; regions that touch across their seams are one.

    Args:
        ids: uint8 [*S], class ids.
        folder: for what does not fit into memory.

    Returns:
        The numbers, uint16 or int32 [*S], to be closed, and what was measured.
    """
    provisional = TemporaryRows(folder, ids.shape, np.dtype(np.int32))
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
    result = TemporaryRows(folder, ids.shape, dtype)
    lookup = np.concatenate([[0], final]).astype(dtype)
    for band in provisional.bands(BAND_PIXELS):
        result.append(lookup[band])
    provisional.close()
    return result, table


def keep(ids: Rows, folder: str, decision: Decision) -> Rows:
    """Returns the class ids of the components that are kept, as `Decision.apply` does in memory.

    Args:
        ids: uint8 [*S], class ids; closed when it was replaced.
        folder: for what does not fit into memory.
        decision: what is kept.
    """
    if decision.foreground:
        foreground = TemporaryRows(folder, ids.shape, ids.dtype)
        for band in ids.bands(BAND_PIXELS):
            foreground.append(band > 0)
        ids = _keep_largest(ids, foreground, folder, (1,))
        foreground.close()
    if decision.classes:
        ids = _keep_largest(ids, ids, folder, decision.classes)
    return ids


def _keep_largest(ids: Rows, regions: Rows, folder: str, classes: Sequence[int]) -> Rows:
    """Returns class ids without all but the largest region of some classes.

    Args:
        ids: uint8 [*S], class ids; closed when done.
        regions: uint8 [*S], whose regions count; `ids` or its foreground.
        folder: for what does not fit into memory.
        classes: of the regions.
    """
    numbers, table = label(regions, folder)
    kept = np.ones(len(table.areas) + 1, bool)
    for k in classes:
        own = table.classes == k
        if own.any():
            kept[1:][own] = False
            kept[1 + np.argmax(np.where(own, table.areas, -1))] = True
    result = TemporaryRows(folder, ids.shape, ids.dtype)
    pairs = zip(ids.bands(BAND_PIXELS), numbers.bands(BAND_PIXELS), strict=True)
    for band, numbered in pairs:
        result.append(np.where(kept[numbered], band, 0))
    for file in (ids, numbers):
        file.close()
    return result


def _fields(rank: int) -> np.dtype:
    """Returns what is measured of a region: along each axis the sum of places, first and last."""
    return np.dtype(
        [
            *(("class", np.int64), ("area", np.int64), ("sums", np.float64, (rank,))),
            *(("low", np.int64, (rank,)), ("high", np.int64, (rank,)), ("first", np.int64)),
        ]
    )


def _label_band(band: np.ndarray, top: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the numbers, from count + 1 on, int32 [n, …], and what was measured of each."""
    numbers = np.zeros(band.shape, np.int32)
    parts: list[np.ndarray] = [np.zeros(0, _fields(band.ndim))]
    above = np.array([top, *[0] * (band.ndim - 1)])
    for k in (int(k) for k in np.unique(band) if k > 0):
        labels, found = ndimage.label(band == k)
        places = np.nonzero(labels)
        at = labels[places] - 1
        part = np.zeros(found, _fields(band.ndim))
        part["class"], part["area"] = k, np.bincount(at, minlength=found)
        for axis, place in enumerate(places):
            part["sums"][:, axis] = np.bincount(at, place + above[axis], found)
        for n, box in enumerate(ndimage.find_objects(labels)):
            part["low"][n] = [side.start for side in box] + above
            part["high"][n] = [side.stop for side in box] + above
        first = np.unique(at, return_index=True)[1]
        lines = np.ravel_multi_index([place[first] for place in places], band.shape)
        part["first"] = lines + top * math.prod(band.shape[1:])
        numbers[places] = at + 1 + count + sum(map(len, parts))
        parts.append(part)
    return numbers, np.concatenate(parts)


def _merge(measured: np.ndarray, groups: np.ndarray) -> tuple[Table, np.ndarray]:
    """Returns the objects, and the final number of each region that was measured."""
    number, rank = int(groups.max(initial=-1)) + 1, measured["low"].shape[1]
    first = np.full(number, np.iinfo(np.int64).max)
    np.minimum.at(first, groups, measured["first"])
    place = np.empty(number, np.int64)
    place[np.argsort(first)] = np.arange(number)
    at = place[groups]
    areas = np.bincount(at, measured["area"], number).astype(np.int64)
    sums = np.zeros((number, rank))
    np.add.at(sums, at, measured["sums"])
    boxes = np.zeros((number, 2, rank), np.int64)
    boxes[:, 0] = np.iinfo(np.int64).max
    np.minimum.at(boxes[:, 0], at, measured["low"])
    np.maximum.at(boxes[:, 1], at, measured["high"])
    classes = np.zeros(number, np.int64)
    classes[at] = measured["class"]
    return Table(classes, areas, sums / np.maximum(areas, 1)[:, np.newaxis], boxes), at + 1
