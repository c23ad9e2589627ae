"""Arguments that all builders of networks take: their rules, and what follows for each level."""

import math

import keras

from trainer.errors import InputError
from trainer.models import axes, norms


def check_numbers(input_shape, rank, n_filters, num_classes, depth, dropout):
    """Raises InputError for a number out of its range."""
    check_choice("rank", rank, tuple(axes.NAMES))
    if len(input_shape) != rank + 1 or not input_shape[-1]:
        example = {2: (256, 256, 1), 3: (64, 64, 64, 1)}[rank]
        raise InputError(
            f"input_shape={tuple(input_shape)} is not ({', '.join(axes.NAMES[rank])}, channels) "
            f"with a known number of channels; use for example {example}."
        )
    whole = {"n_filters": n_filters, "num_classes": num_classes, "depth": depth}
    for name, value in whole.items():
        if value < 1:
            raise InputError(f"{name}={value} must be at least 1.")
    if not 0 <= dropout < 1:
        raise InputError(f"dropout={dropout} is not a fraction; use at least 0 and less than 1.")


def check_choices(activation, norm, upsampling, rank):
    """Raises InputError for a layer that does not exist, or that Keras has not for a rank."""
    check_choice("norm", norm, tuple(norms.NORMS))
    try:
        keras.activations.get(activation)
    except ValueError:
        raise InputError(
            f"activation={activation} is not an activation of Keras; use relu."
        ) from None
    check_choice("upsampling", upsampling, ("transpose", "bilinear"))
    if upsampling == "bilinear" and rank != 2:
        raise InputError(f"upsampling=bilinear is for images; with rank={rank} use transpose.")


def filters(first, most, number):
    """Returns the channels of each of a number of levels, which double up to a limit.

    Raises:
        InputError: at most so many are less than the first level has.
    """
    if most and most < first:
        raise InputError(f"max_filters={most} is less than n_filters={first}; use 0 for no limit.")
    return [min(first * 2**level, most or math.inf) for level in range(number)]


def levels(strides, kernel_size, kernels, depth, rank):
    """Returns the strides and the kernels of each level along each axis.

    Args:
        strides: of the levels but the bottom, a number or one for each axis; empty: 2 everywhere.
        kernel_size: side of the kernels where `kernels` is empty.
        kernels: of all levels, likewise.
        depth: number of levels but the bottom.
        rank: number of axes.

    Raises:
        InputError: they are not as many as levels and axes, or not whole numbers from 1 up.
    """
    if kernel_size < 1:
        raise InputError(f"kernel_size={kernel_size} must be at least 1.")
    return (
        _along("strides", strides, 2, depth, rank),
        _along("kernels", kernels, kernel_size, depth + 1, rank),
    )


def _along(name, given, default, number, rank):
    """Returns the numbers of each level along each axis, see `levels`."""
    found = [axes.along(level, rank) for level in given or [default] * number]
    if len(found) != number:
        raise InputError(f"{name}={given} has {len(found)} levels; give {number}, by depth.")
    if any(len(level) != rank or min(level) < 1 for level in found):
        raise InputError(
            f"{name}={given} is not whole numbers from 1 up, one or {rank} for each level."
        )
    return found


def check_choice(name, value, choices):
    """Raises InputError unless `value` is one of `choices`."""
    if value not in choices:
        allowed = ", ".join(str(choice) for choice in choices)
        raise InputError(f"{name}={value} is not a choice; use one of: {allowed}.")
