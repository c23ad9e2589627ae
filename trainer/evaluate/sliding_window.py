"""Large images, or volumes, in overlapping tiles whose seams cannot be seen.

Of images, a pixel takes its value from tiles that see its whole receptive field: the outermost
`halo` of a tile's inner edges never counts, and between two tiles a linear ramp hands over. A tile
is a box: it has a size, a halo and a stride along each axis, and what is said of an axis holds for
each.

Volumes have windows of the size of the training crops, as in nnU-Net (Isensee et al., 2021): the
network may see more than a window holds, so windows overlap by half, and count most in the middle.
"""

import functools
import itertools
import math
import operator
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from trainer import terminal
from trainer.config import network_levels
from trainer.errors import InputError
from trainer.evaluate.stitching import Mosaic


def halo_of(levels: Sequence[network_levels.Level]) -> tuple[int, ...]:
    """Returns how far a U-Net looks along each axis, in pixels, rounded up to its stride.

    Args:
        levels: of the network, the bottom last.
    """
    strides = zip(*(level.stride for level in levels), strict=True)
    kernels = zip(*(level.kernel for level in levels), strict=True)
    numbers = [level.number for level in levels]
    return tuple(_halo_along(*of_axis, numbers) for of_axis in zip(strides, kernels, strict=True))


def _halo_along(strides: Sequence[int], kernels: Sequence[int], numbers: Sequence[int]) -> int:
    """Returns the halo along one axis.

    The convolutions of each level reach half a kernel each, in places that are as many pixels as
    the strides above make them; pooling and up-sampling add less than twice the whole stride.
    """
    pixels = list(itertools.accumulate(strides[:-1], operator.mul, initial=1))
    each = zip(numbers, kernels, pixels, strict=True)
    radius = sum(number * (kernel // 2) * size for number, kernel, size in each)
    stride = pixels[-1]
    return -(-(radius + 2 * stride) // stride) * stride


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
        _tell(first, len(corners))
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


def predict_windows(
    image: np.ndarray,
    predict: Callable[[np.ndarray], np.ndarray],
    *,
    box: Sequence[int],
    batch_size: int,
) -> Iterator[tuple[int, np.ndarray]]:
    """Predicts a whole volume, or image, in windows of one size; see `window_weights`.

    Args:
        image: float32 [*S, C]; *S is (D, H, W), or (H, W) of an image. Where it is smaller than a
            window it is mirrored.
        predict: float32 [batch_size, *box, C] → float32 [batch_size, *box, K].
        box: sides of a window.
        batch_size: windows per call; the last call repeats its last window.

    Yields:
        (first, float32 [n, *S without the first, K]): slabs along the first axis, without gaps from
        its first slice to its last, each as soon as its windows are done.
    """
    shape = image.shape[:-1]
    for axis, (length, side) in enumerate(zip(shape, box, strict=True)):
        if length < side:
            image = np.take(image, mirror(np.arange(side), length), axis)
    mosaic = Mosaic(shape, list(map(window_weights, image.shape[:-1], box)))
    for first in range(0, len(mosaic.corners), batch_size):
        some = mosaic.corners[first : first + batch_size]
        _tell(first, len(mosaic.corners))
        filled = some + [some[-1]] * (batch_size - len(some))
        values = predict(np.stack([image[_box(corner, box)] for corner in filled]))
        for corner, value in zip(some, values, strict=False):
            yield from mosaic.add(corner, value)


def _tell(done: int, total: int) -> None:
    """Says how many tiles of an image, or windows of a volume, are done, if there are several."""
    if total > 1:
        terminal.part(f"{done}/{total} tiles")


def window_weights(length: int, side: int) -> dict[int, np.ndarray]:
    """Returns the weights of the windows along an axis, by where they start; they sum to 1.

    Windows are evenly spread, at most half a side apart. Before they are made to sum to 1, weights
    are a normal distribution about the middle with a deviation of an eighth of the side.

    Args:
        length: of the axis, at least `side`.
        side: of a window.

    Returns:
        start → float32 [side], above 0 everywhere.
    """
    steps = math.ceil(2 * (length - side) / side)
    starts = [round(n * (length - side) / max(steps, 1)) for n in range(steps + 1)]
    importance = np.exp(-0.5 * ((np.arange(side) - (side - 1) / 2) / (side / 8)) ** 2)
    total = np.zeros(length)
    for start in starts:
        total[start : start + side] += importance
    return {
        start: (importance / total[start : start + side]).astype(np.float32) for start in starts
    }


def mirror(index: np.ndarray, size: int) -> np.ndarray:
    """Folds indices into [0, size) by reflection at the first and last, as evaluation pads."""
    period = max(2 * (size - 1), 1)
    index = index % period
    return np.minimum(index, period - index)
