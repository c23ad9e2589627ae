"""How prepare cuts training images and volumes, by the rules, before there is a manifest."""

import math
from collections.abc import Sequence

import numpy as np

from trainer.data.planning import auto_rules, nnunet_rules
from trainer.data.planning.fingerprint import SLICE, Fingerprint


def tile(shapes: Sequence[Sequence[int]]) -> int:
    """Returns the side of tiles for images of such sizes; 0 where they stay whole.

    Args:
        shapes: height and width of each training image.
    """
    areas = [math.prod(shape) for shape in shapes]
    if max(areas) < auto_rules.MIXED * np.median(areas):
        return 0
    flat = [(1, *shape) for shape in shapes]
    data = _fingerprint(2, flat, [(SLICE, 1.0, 1.0)] * len(flat))
    return 2 * auto_rules.for_cpu(data).topology.patch[0]


def block(
    shapes: Sequence[Sequence[int]],
    spacings: Sequence[Sequence[float]],
    target: tuple[float, ...] | None,
) -> int:
    """Returns the side of blocks that no patch of the rules exceeds.

    Args:
        shapes: depth, height and width of each training volume.
        spacings: of each, in mm.
        target: to which they are resampled; None: by the rule.
    """
    plans = nnunet_rules.plan(_fingerprint(3, shapes, spacings, target))
    return max((plans.full or plans.flat).topology.patch)


def _fingerprint(
    rank: int,
    shapes: Sequence[Sequence[int]],
    spacings: Sequence[Sequence[float]],
    target: tuple[float, ...] | None = None,
) -> Fingerprint:
    return Fingerprint(
        rank=rank,
        shapes=tuple(map(tuple, shapes)),
        spacings=tuple(map(tuple, spacings)),
        channels=1,
        num_classes=2,  # more of them make a patch smaller
        shares=(),
        num_cases=len(shapes),
        pixels=sum(map(math.prod, shapes)),
        target=target,
    )
