"""From what networks say to the values of masks."""

from collections.abc import Sequence

import numpy as np


def every_class(probabilities: np.ndarray) -> np.ndarray:
    """Returns the probability of each class: [..., 1] becomes [..., 2]."""
    if probabilities.shape[-1] > 1:
        return probabilities
    return np.concatenate([1 - probabilities, probabilities], axis=-1)


def class_ids(probabilities: np.ndarray) -> np.ndarray:
    """Returns the most probable class: uint8 [...]; of two the second from a half on."""
    if probabilities.shape[-1] == 1:
        return (probabilities[..., 0] >= 0.5).astype(np.uint8)
    if probabilities.shape[-1] == 2:
        return (probabilities[..., 1] >= 0.5).astype(np.uint8)
    return np.argmax(probabilities, axis=-1).astype(np.uint8)


def ids_of_logits(logits: np.ndarray) -> np.ndarray:
    """Returns the most probable class: uint8 [...]; of two the second from a logit of 0 on."""
    if logits.shape[-1] == 1:
        return (logits[..., 0] >= 0).astype(np.uint8)
    return np.argmax(logits, axis=-1).astype(np.uint8)


def smallest_dtype(values: Sequence[int]) -> np.dtype:
    """Returns the first of uint8, uint16, int16 and int32 that holds all values."""
    for dtype in (np.uint8, np.uint16, np.int16):
        if np.iinfo(dtype).min <= min(values) and max(values) <= np.iinfo(dtype).max:
            return np.dtype(dtype)
    return np.dtype(np.int32)


def lookup(values: Sequence[int]) -> np.ndarray:
    """Returns masks' values by class id, in the smallest integers that hold them."""
    return np.array(values, smallest_dtype(values))
