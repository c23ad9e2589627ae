"""The flags that say patch and levels of a network, from what the rules plan."""

import dataclasses
from collections.abc import Sequence

from trainer.data.dataset import schema
from trainer.data.planning.fingerprint import times
from trainer.data.planning.nnunet_rules import Configuration, Plans, Topology
from trainer.data.planning.plan_file import Choice
from trainer.errors import InputError


def of_data(plans: Plans, rank: int) -> Configuration:
    """Returns what is planned for the data, its axes in their order rather than nnU-Net's.

    Args:
        plans: nnU-Net's.
        rank: of the data: 2 for images, whose plan is that of slices, 3 for volumes. A volume that
            is one slice deep has the plan of slices, with 1 along the axis across them.
    """
    if rank == 2:
        return plans.flat
    found = plans.full or _across(plans.flat)
    levels = found.topology
    return dataclasses.replace(
        found,
        spacing=_ordered(plans.axes, found.spacing),
        median_shape=_ordered(plans.axes, found.median_shape),
        topology=Topology(
            patch=_ordered(plans.axes, levels.patch),
            strides=tuple(_ordered(plans.axes, stride) for stride in levels.strides),
            kernels=tuple(_ordered(plans.axes, kernel) for kernel in levels.kernels),
            divisors=_ordered(plans.axes, levels.divisors),
        ),
    )


def _across(flat: Configuration) -> Configuration:
    levels = flat.topology
    return dataclasses.replace(
        flat,
        spacing=(1.0, *flat.spacing),
        median_shape=(1.0, *flat.median_shape),
        topology=Topology(
            patch=(1, *levels.patch),
            strides=tuple((1, *stride) for stride in levels.strides),
            kernels=tuple((1, *kernel) for kernel in levels.kernels),
            divisors=(1, *levels.divisors),
        ),
    )


def _ordered(axes: Sequence[int], values: Sequence) -> tuple:
    return tuple(value for _, value in sorted(zip(axes, values, strict=True)))


def check_blocks(manifest: schema.Manifest, patch: Sequence[int]) -> None:
    """Raises InputError if training volumes were cut into blocks that are smaller than a patch."""
    block = manifest.volumes.block if manifest.volumes else None
    if block is not None and any(side > most for side, most in zip(patch, block, strict=True)):
        raise InputError(
            f"The patch of {times(patch)} voxels that the rules plan is larger than the blocks of "
            f"{times(block)} into which prepare cut large volumes; prepare them again with "
            f"--block={max(patch)}."
        )


def crop(patch: Sequence[int], reason: str) -> Choice:
    """Returns --crop: one side where all are equal."""
    sides = tuple(patch)
    return Choice("crop", sides[0] if len(set(sides)) == 1 else sides, reason)


def deep_supervision(found: Topology, reason: str) -> list[Choice]:
    """Returns --deep_supervision where there are levels enough for more than one output."""
    return [Choice("deep_supervision", True, reason)] if len(found.strides) > 3 else []


def levels(found: Topology) -> list[Choice]:
    """Returns --depth, and --strides and --kernels where they are not the same everywhere."""
    strides, kernels = found.strides[1:], found.kernels
    if not strides:  # the patch is too small to be halved, and a network has two levels at least
        strides, kernels = ((1,) * len(found.patch),), found.kernels * 2
    smallest = [side // by for side, by in zip(found.patch, found.divisors, strict=True)]
    choices = [
        Choice(
            "depth",
            len(strides),
            "Levels: axes are halved while they have 8 or more, the coarser ones only once the "
            f"others are as coarse. {times(found.patch)} ends as {times(smallest)}.",
        )
    ]
    if set(strides) != {(2,) * len(found.patch)}:
        choices.append(
            Choice(
                "strides",
                text_of(strides),
                "Which axes each level halves: at first those less than twice as coarse as the "
                "finest.",
            )
        )
    if set(kernels) != {(3,) * len(found.patch)}:
        choices.append(
            Choice(
                "kernels",
                text_of(kernels),
                "Kernels are flat along an axis as long as it is twice as coarse as the finest.",
            )
        )
    return choices


def text_of(levels: Sequence[Sequence[int]]) -> str:
    """Returns levels as flags have them: 1,2,2/2/2."""
    return "/".join(
        str(level[0]) if len(set(level)) == 1 else ",".join(map(str, level)) for level in levels
    )
