"""Volumes on another grid, axis by axis and in parts: by cubic splines, linearly or by the nearest.

Voxels fill the volume, however many there are: of m on n, the centre of voxel i lies at
(i + ½)·n/m − ½. Beyond its ends a volume continues as its outermost voxels (scipy.ndimage's grid
mode, "nearest").
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from scipy import ndimage, sparse

# Voxels repeated beyond each end for splines: of those further away a coefficient has 0.27^12.
BEYOND = 12
CHUNK_BYTES = 2**25  # of float64 that are resampled at a time

Slab = tuple[int, np.ndarray]  # the first slice along the first axis, and values [n, …]


def resample(
    values: np.ndarray, shape: Sequence[int], order: int, coarse_axis: int | None = None
) -> np.ndarray:
    """Returns a volume on another grid; itself, no copy, where no axis changes.

    Args:
        values: float32 [D, H, W, C].
        shape: the new D, H, W.
        order: 3: cubic spline, 1: linear, 0: the nearest voxel.
        coarse_axis: along which the nearest is taken, whatever the order; None: there is none.

    Returns:
        float32 [*shape, C]; the arithmetic is float64.
    """
    # Shrinks first, so that less is in between.
    for axis in sorted(range(3), key=lambda axis: shape[axis] / values.shape[axis]):
        if shape[axis] != values.shape[axis]:
            values = _along(values, axis, shape[axis], 0 if axis == coarse_axis else order)
    return values


def resample_mask(
    ids: np.ndarray, shape: Sequence[int], coarse_axis: int | None = None
) -> np.ndarray:
    """Returns class ids on another grid: in each voxel the one with the largest linear share.

    Args:
        ids: uint8 [D, H, W]; what does not count is a class like the others.
        shape: the new D, H, W.
        coarse_axis: see `resample`.

    Returns:
        uint8 [*shape]; of equal shares the lowest id.
    """
    if ids.shape == tuple(shape):
        return ids
    found, largest = np.zeros(shape, np.uint8), np.zeros(shape, np.float32)
    for k in np.unique(ids):
        is_class = (ids == k).astype(np.float32)[..., np.newaxis]
        share = resample(is_class, shape, 1, coarse_axis)[..., 0]
        found[share > largest] = k
        np.maximum(largest, share, out=largest)
    return found


def resample_slabs(
    slabs: Iterable[Slab], depth: int, shape: Sequence[int], coarse_axis: int | None = None
) -> Iterator[Slab]:
    """Resamples a volume linearly while it comes, from its first slice to its last.

    Args:
        slabs: of the volume, float32 [n, H, W, K], without gaps.
        depth: of the whole volume.
        shape: the new D, H, W.
        coarse_axis: see `resample`.

    Yields:
        Slabs of the new volume without gaps, as `resample` would make them.
    """
    order = 0 if coarse_axis == 0 else 1
    weights = _weights(depth, shape[0], order)
    needed = _nearest(depth, shape[0])[:, np.newaxis] if order == 0 else _around(depth, shape[0])[0]
    held: np.ndarray | None = None  # the slices from `top` on
    top = done = 0
    for _, slab in slabs:
        held = slab if held is None else np.concatenate([held, slab])
        ready = int(np.searchsorted(needed[:, -1], top + len(held)))
        size = max(1, CHUNK_BYTES // (8 * held[0].size))
        for first in range(done, ready, size):
            end = min(first + size, ready)
            rows = slice(needed[first, 0], needed[end - 1, -1] + 1)
            part = held[rows.start - top : rows.stop - top]
            lines = part.reshape(len(part), -1).astype(np.float64)
            found = (weights[first:end, rows] @ lines).astype(np.float32)
            found = found.reshape(end - first, *part.shape[1:])
            yield first, resample(found, (len(found), *shape[1:]), 1, coarse_axis)
        done = ready
        if done < len(needed):
            over = min(needed[done, 0] - top, len(held))
            held, top = held[over:], top + over


def _along(values: np.ndarray, axis: int, length: int, order: int) -> np.ndarray:
    """Resamples one axis, a few slices across it at a time."""
    count = values.shape[axis]
    if order == 0:
        return np.take(values, _nearest(count, length), axis)
    weights = _weights(count, length, order)
    shape = (*values.shape[:axis], length, *values.shape[axis + 1 :])
    result = np.empty(shape, np.float32)
    across = 1 if axis == 0 else 0
    slices = values.shape[across]
    size = max(1, CHUNK_BYTES * slices // (8 * max(values.size, result.size)))
    for first in range(0, slices, size):
        chunk = (slice(None),) * across + (slice(first, first + size),)
        part = np.moveaxis(values[chunk], axis, 0)
        lines = part.reshape(count, -1).astype(np.float64)
        if order == 3:
            lines = np.pad(lines, ((BEYOND, BEYOND), (0, 0)), mode="edge")
            lines = ndimage.spline_filter1d(lines, order, axis=0, mode="mirror")
        found = (weights @ lines).reshape(length, *part.shape[1:])
        result[chunk] = np.moveaxis(found, 0, axis)
    return result


def _weights(count: int, length: int, order: int) -> sparse.csr_array:
    """Returns what each new voxel takes of each old one, or of the coefficients of a spline."""
    if order == 0:
        columns, parts = _nearest(count, length)[:, np.newaxis], np.ones((length, 1))
    elif order == 1:
        columns, part = _around(count, length)
        parts = np.stack([1 - part, part], axis=1)
    else:
        last, t = _position(count, length)
        columns = last[:, np.newaxis] + np.arange(-1, 3) + BEYOND
        basis = [(1 - t) ** 3, 4 - 6 * t**2 + 3 * t**3, 1 + 3 * t + 3 * t**2 - 3 * t**3, t**3]
        parts = np.stack(basis, axis=1) / 6
        count += 2 * BEYOND
    rows = np.repeat(np.arange(length), columns.shape[1])
    entries = (parts.ravel(), (rows, columns.ravel()))
    return sparse.csr_array(entries, shape=(length, count))


def _nearest(count: int, length: int) -> np.ndarray:
    """Returns the old voxel that each new one's centre is in; of two the later one."""
    return (2 * np.arange(length) + 1) * count // (2 * length)


def _around(count: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the two old voxels around each new one, int [length, 2], and the second's part."""
    first, part = _position(count, length)
    second = first + (part > 0)
    return np.clip(np.stack([first, second], axis=1), 0, count - 1), part


def _position(count: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns where each new voxel's centre lies among the old ones, as whole voxels and the rest.

    It is computed in integers, so that what coincides does so exactly.
    """
    whole, rest = np.divmod((2 * np.arange(length) + 1) * count - length, 2 * length)
    return whole, rest / (2 * length)
