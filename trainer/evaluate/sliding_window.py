"""Large images, or volumes, in overlapping tiles whose seams cannot be seen.

A pixel takes its value from tiles that see its whole receptive field: the outermost `halo` of a
tile's inner edges never counts, and between two tiles a linear ramp hands over. A tile is a box: it
has a size, a halo and a stride along each axis, and what is said of an axis holds for each.
"""

import functools
import itertools
from collections.abc import Callable, Sequence

import numpy as np

from trainer.errors import InputError


def halo_of(depth: int, kernel_size: int) -> int:
    """Returns how far a U-Net looks in pixels, rounded up to its stride.

    Two k×k convolutions at each of the encoder's and decoder's `depth` levels and at the bottom
    reach (k - 1)·(3·2^depth - 2) pixels; pooling and up-sampling add less than 2·2^depth.
    """
    stride = 2**depth
    radius = (kernel_size - 1) * (3 * stride - 2) + 2 * stride
    return -(-radius // stride) * stride


def starts(length: int, tile: int, halo: int, stride: int) -> list[int]:
    """Returns where tiles begin along an axis, in multiples of `stride`; the last one ends it.

    Args:
        length: pixels of the axis, a multiple of `stride`.
        tile: pixels of a tile, a multiple of `stride`, at most `length`.
        halo: pixels at an inner edge that do not count, a multiple of `stride`.
        stride: alignment, and width of the ramp between two tiles.
    """
    if tile == length:
        return [0]
    step = tile - 2 * halo - stride
    if step <= 0:
        raise InputError(
            f"--tile={tile} leaves nothing between halos of {halo} pixels; "
            f"use at least {2 * halo + 2 * stride}."
        )
    return [*range(0, length - tile, step), length - tile]


def ramp(start: int, length: int, tile: int, halo: int, stride: int) -> np.ndarray:
    """Returns a tile's weights along an axis, float32 [tile]; they are 1 at the image's edges."""
    rise = np.clip((np.arange(tile) - halo + 1) / stride, 0, 1)
    weights = np.ones(tile)
    if start > 0:
        weights *= rise
    if start + tile < length:
        weights *= rise[::-1]
    return weights.astype(np.float32)


def shares(length: int, tile: int, halo: int, stride: int) -> dict[int, np.ndarray]:
    """Returns the weights of every tile along an axis, by where it starts; they sum to 1.

    Arguments are those of `starts`; values are float32 [tile].
    """
    total = np.zeros(length, np.float32)
    ramps = {y: ramp(y, length, tile, halo, stride) for y in starts(length, tile, halo, stride)}
    for start, weights in ramps.items():
        total[start : start + tile] += weights
    return {start: weights / total[start : start + tile] for start, weights in ramps.items()}


def predict_tiled(
    image: np.ndarray,
    predict: Callable[[np.ndarray], np.ndarray],
    *,
    tile: Sequence[int],
    halo: Sequence[int],
    stride: Sequence[int],
    batch_size: int,
) -> np.ndarray:
    """Returns the prediction of a whole image, put together from those of its tiles.

    Args:
        image: float32 [*S, C]; *S is (H, W), or (D, H, W) of a volume, in multiples of `stride`.
        predict: float32 [batch_size, *s, C] → float32 [batch_size, *s, K], at any one *s.
        tile: sides of a tile along the axes on which the image is longer, multiples of `stride`.
        halo: along each axis, see `halo_of`.
        stride: of the model's deepest level, along each axis.
        batch_size: tiles per call; the last call repeats its last tile.

    Returns:
        float32 [*S, K].
    """
    shape = image.shape[:-1]
    sides = tuple(map(min, tile, shape))
    axes = list(zip(shape, sides, halo, stride, strict=True))
    corners = list(itertools.product(*(starts(*axis) for axis in axes)))
    total, weight = None, np.zeros((*shape, 1), np.float32)
    for first in range(0, len(corners), batch_size):
        some = corners[first : first + batch_size]
        filled = some + [some[-1]] * (batch_size - len(some))
        values = predict(np.stack([image[_box(corner, sides)] for corner in filled]))
        if total is None:
            total = np.zeros((*shape, values.shape[-1]), np.float32)
        for corner, value in zip(some, values, strict=False):
            ramps = (ramp(start, *axis) for start, axis in zip(corner, axes, strict=True))
            share = functools.reduce(np.multiply.outer, ramps)[..., np.newaxis]
            total[_box(corner, sides)] += value * share
            weight[_box(corner, sides)] += share
    assert total is not None
    return total / weight


def _box(corner: Sequence[int], sides: Sequence[int]) -> tuple[slice, ...]:
    """Returns where a box is in an image, by its first corner and its sides."""
    return tuple(slice(start, start + side) for start, side in zip(corner, sides, strict=True))
