"""Strides and kernels of a network's levels, as flags write them: 1,2,2/2/2.

Levels are separated by slashes, axes by commas; a number alone is that of all axes.
"""

import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from trainer.errors import InputError

# Residual blocks at each level of nnU-Net's residual encoder, the last number that of all below.
ENCODER_BLOCKS = (1, 3, 4, 6)
LEVEL = re.compile(r"[1-9]\d*(,[1-9]\d*)*")


class Level(NamedTuple):
    """One resolution of a network.

    Attributes:
        stride: by which the next level's resolution is lower, along each axis; 1 at the bottom.
        kernel: sides of the convolutions' kernels.
        number: of convolutions of this resolution, on the way down and up.
    """

    stride: tuple[int, ...]
    kernel: tuple[int, ...]
    number: int


def numbers(model: str, depth: int) -> list[int]:
    """Returns how many convolutions a network has one after the other at each level.

    Args:
        model: a row of `trainer.models.MODELS`; what is none of ours is taken for a U-Net.
        depth: of the network.
    """
    if model != "residual_encoder_unet":
        return [4] * depth + [2]  # of a U-Net++, no way is longer
    found = [2 * ENCODER_BLOCKS[min(n, len(ENCODER_BLOCKS) - 1)] + 1 for n in range(depth + 1)]
    found[0] += 1  # the stem
    found[-1] -= 1  # the bottom is not on the way up
    return found


def parse(name: str, text: str, number: int, depth: int) -> tuple[tuple[int, ...], ...]:
    """Returns the numbers of each level, one for all axes or one for each.

    Args:
        name: of the flag.
        text: its value.
        number: of levels that it must have.
        depth: of the network.

    Raises:
        InputError: these are not so many levels of whole numbers from 1 up.
    """
    levels = text.split("/")
    if not all(LEVEL.fullmatch(level) for level in levels):
        raise InputError(
            f"--{name}={text} is not whole numbers from 1 up, with slashes between levels and "
            f"commas between axes; write for example --{name}=1,2,2/2/2."
        )
    found = tuple(tuple(map(int, level.split(","))) for level in levels)
    if len({len(level) for level in found} - {1}) > 1:
        raise InputError(
            f"--{name}={text} has levels of different numbers of axes; give each as many, or a "
            "number alone for all axes."
        )
    if len(found) != number:
        fitting = len(found) - (number - depth)
        options = f"--depth={fitting}, or {number} levels" if fitting else f"{number} levels"
        raise InputError(
            f"--{name}={text} has {len(found)} level{'s' * (len(found) > 1)} and --depth={depth} "
            f"takes {number}; give {options}."
        )
    return found


def axes_of(levels: Iterable[Sequence[int]]) -> int | None:
    """Returns for how many axes levels have a number each; None where one is for all axes."""
    return next((len(level) for level in levels if len(level) > 1), None)


def along(level: Sequence[int], rank: int) -> tuple[int, ...]:
    """Returns the number of each axis of a level that has one for all axes, or one for each."""
    return tuple(level) if len(level) == rank else tuple(level) * rank


def total_stride(levels: Iterable[Level]) -> tuple[int, ...]:
    """Returns by how much the bottom's resolution is lower than the image's, along each axis."""
    return tuple(map(math.prod, zip(*(level.stride for level in levels), strict=True)))
