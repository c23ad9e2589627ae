"""Where the voxels of a volume are in the patient, or under the microscope.

As ITK has it: millimetres, in a right-handed system whose axes point to the left, the back and the
head (LPS). A voxel [z, y, x] is at origin + direction · (x, y, z as distances).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

# Two grids with less than this between them are one: over 500 voxels it makes half a voxel. A
# header's float32 is exact to 1e-7, but NIfTI's quaternion to 5e-4 only where a turn nears 180°,
# because its first number is the root of a difference from 1.
TOLERANCE = 1e-3
# Of the origin, in voxels: files with decimal text are rounded, often to a thousandth of a mm.
ORIGIN_TOLERANCE = 1e-2


@dataclasses.dataclass(frozen=True)
class Geometry:
    """The grid of a volume.

    Attributes:
        spacing: mm between voxels along the axes of the array: D, H, W.
        origin: x, y, z of the first voxel, in mm.
        direction: ITK's matrix of direction cosines, row by row; its columns are the directions of
            the axes W, H and D.
    """

    spacing: tuple[float, ...] = (1.0, 1.0, 1.0)
    origin: tuple[float, ...] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        """Raises ValueError for what is no grid."""
        values = (*self.spacing, *self.origin, *self.direction)
        if len(values) != 15 or not all(map(math.isfinite, values)) or min(self.spacing) <= 0:
            raise ValueError(f"its grid has spacing {self.spacing}, origin {self.origin}")

    def differences(self, other: Geometry) -> str:
        """Returns what differs from another grid, and how; nothing if they are one grid."""
        near = ORIGIN_TOLERANCE * min(self.spacing)
        pairs = zip(self.spacing, other.spacing, strict=True)
        same = {
            "spacing": all(abs(a - b) <= TOLERANCE * a for a, b in pairs),
            "origin": _within(self.origin, other.origin, near),
            "direction": _within(self.direction, other.direction, TOLERANCE),
        }
        return "; ".join(
            f"{name} {_shown(getattr(self, name))} and {_shown(getattr(other, name))}"
            for name, is_same in same.items()
            if not is_same
        )

    def to_array(self) -> np.ndarray:
        """Returns float64 [15]: spacing, origin, direction."""
        return np.array([*self.spacing, *self.origin, *self.direction])

    @staticmethod
    def from_array(values: np.ndarray) -> Geometry:
        """Returns the grid of float64 [15]; see `to_array`."""
        spacing, origin, direction = np.split(np.asarray(values, np.float64), [3, 6])
        return Geometry(*(tuple(part.tolist()) for part in (spacing, origin, direction)))


def _within(ours: Sequence[float], theirs: Sequence[float], tolerance: float) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(ours, theirs, strict=True))


def _shown(values: Sequence[float]) -> str:
    return f"({', '.join(f'{value:.6g}' for value in values)})"
