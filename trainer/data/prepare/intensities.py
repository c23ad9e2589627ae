"""Exact histograms of intensities, which add up to the same whatever their order."""

from collections.abc import Sequence

import numpy as np

from trainer.errors import InputError

PERCENTILES = (0.5, 99.5)  # between which nnU-Net keeps the intensities of CT

Histogram = tuple[np.ndarray, np.ndarray]


def histogram(values: np.ndarray) -> Histogram:
    """Returns the whole numbers, ascending, that values are rounded to, and how many of each.

    Hounsfield units are whole; where a scanner's slope makes fractions, a half more or less is far
    below the noise.

    Args:
        values: [N], finite.
    """
    return np.unique(np.rint(values).astype(np.int64), return_counts=True)


def figures(histograms: Sequence[Histogram], name: str) -> tuple[float, float, float, float]:
    """Returns mean, standard deviation and the two PERCENTILES of the values of all histograms.

    Args:
        histograms: of parts of the values.
        name: of the channel, for the message.

    Raises:
        InputError: there are no values.
    """
    if not sum(len(values) for values, _ in histograms):
        raise InputError(
            f"No training volume has a voxel of the foreground, by whose intensities the channel "
            f"{name} is normalised; check --masks and --classes, or give the channel another name."
        )
    levels, places = np.unique(
        np.concatenate([values for values, _ in histograms]), return_inverse=True
    )
    counts = np.zeros(len(levels), np.int64)
    np.add.at(counts, places, np.concatenate([numbers for _, numbers in histograms]))
    total = int(counts.sum())
    mean = int(counts @ levels) / total
    variance = float(counts @ (levels - mean) ** 2) / total
    low, high = (_percentile(levels, counts, share) for share in PERCENTILES)
    return mean, variance**0.5, low, high


def _percentile(levels: np.ndarray, counts: np.ndarray, percent: float) -> float:
    """Returns a percentile, linear between two neighbours in order as `numpy.percentile`'s."""
    ends = np.cumsum(counts)
    place = percent / 100 * (int(ends[-1]) - 1)
    first = int(place)
    below, above = (
        int(levels[np.searchsorted(ends, min(k, ends[-1] - 1), side="right")])
        for k in (first, first + 1)
    )
    return below + (above - below) * (place - first)
