"""Distances between the surfaces of truth and prediction, and what is made of them.

The surface of a mask is its voxels of which a neighbour across a face is outside; outside the map
is outside the mask. So MONAI has it for its Hausdorff distance, its average surface distance and,
without subvoxels, its surface Dice. The nearest voxels are found by a k-d tree of the surfaces: its
distances are those of a distance transform, without the memory that a box around a liver takes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage, spatial


class Distances(NamedTuple):
    """Of one class in one case, in the unit of the spacing.

    Attributes:
        of_truth: float64 [N], from each surface voxel of the truth to the surface of the
            prediction; infinite where that has none.
        of_prediction: float64 [M], the other way round.
        diagonal: of the whole map.
        tolerance: up to which two surfaces agree.
    """

    of_truth: np.ndarray
    of_prediction: np.ndarray
    diagonal: float
    tolerance: float


def distances(
    truth: np.ndarray,
    prediction: np.ndarray,
    num_classes: int,
    spacing: Sequence[float],
    tolerance: float,
) -> list[Distances | None]:
    """Returns the distances of each foreground class, None where it is in neither.

    Args:
        truth: uint8 [*S], class ids; what is no class belongs to none.
        prediction: uint8 [*S], likewise.
        num_classes: with the background.
        spacing: of the voxels, along each axis.
        tolerance: up to which two surfaces agree.
    """
    diagonal = float(np.linalg.norm(np.multiply(truth.shape, spacing)))
    maps = truth, prediction
    boxes = zip(*(ndimage.find_objects(ids, num_classes - 1) for ids in maps), strict=True)
    found: list[Distances | None] = []
    for k, (one, other) in enumerate(boxes, 1):
        if one is None and other is None:
            found.append(None)
            continue
        box = _around(one or other, other or one)
        a, b = (_surface(ids[box] == k) * np.asarray(spacing, np.float64) for ids in maps)
        found.append(Distances(_nearest(a, b), _nearest(b, a), diagonal, tolerance))
    return found


def hd95(found: Distances) -> float:
    """Returns the larger of the two directed 95th percentiles, linear between two voxels."""
    if _is_one_sided(found):
        return found.diagonal
    return float(max(np.percentile(x, 95) for x in (found.of_truth, found.of_prediction)))


def assd(found: Distances) -> float:
    """Returns the mean over the voxels of both surfaces together."""
    if _is_one_sided(found):
        return found.diagonal
    return float(np.mean(np.concatenate([found.of_truth, found.of_prediction])))


def nsd(found: Distances) -> float:
    """Returns the share of the voxels of both surfaces that are near the other one."""
    near = np.concatenate([found.of_truth, found.of_prediction]) <= found.tolerance
    return float(np.mean(near))


def _is_one_sided(found: Distances) -> bool:
    return not (len(found.of_truth) and len(found.of_prediction))


def _around(one: tuple[slice, ...], other: tuple[slice, ...]) -> tuple[slice, ...]:
    """Returns the smallest box around two boxes."""
    return tuple(
        slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, other, strict=True)
    )


def _surface(mask: np.ndarray) -> np.ndarray:
    """Returns the places of a mask's surface voxels, int64 [N, rank]."""
    return np.argwhere(mask & ~ndimage.binary_erosion(mask))


def _nearest(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    if not len(others):
        return np.full(len(points), np.inf)
    return spatial.KDTree(others).query(points)[0]
