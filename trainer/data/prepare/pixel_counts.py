"""Counts and sums over the pixels of a split, of which its manifest entry is made."""

import dataclasses
import fractions
import math

import numpy as np

from trainer.data.dataset import schema


@dataclasses.dataclass
class Tally:
    """Counts and sums over the pixels of one or more images.

    Attributes:
        pixels: int64 [num_classes], number of pixels of each class.
        ignored_pixels: number of pixels that do not count.
        sums: of each channel's values; exact, so that their order does not matter.
        squares: sums of each channel's squared values.
    """

    pixels: np.ndarray
    ignored_pixels: int
    sums: list[fractions.Fraction]
    squares: list[fractions.Fraction]

    def add(self, other: "Tally") -> None:
        """Adds the counts and sums of other images to these."""
        self.pixels = self.pixels + other.pixels
        self.ignored_pixels += other.ignored_pixels
        self.sums = [a + b for a, b in zip(self.sums, other.sums, strict=True)]
        self.squares = [a + b for a, b in zip(self.squares, other.squares, strict=True)]

    def moments(self, num_pixels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Returns the mean and the standard deviation of each channel."""
        means = [value / num_pixels for value in self.sums]
        variances = [
            square / num_pixels - mean**2 for square, mean in zip(self.squares, means, strict=True)
        ]
        # A float image's squares are rounded, which may take a variance of 0 below it.
        deviations = [math.sqrt(max(0.0, float(variance))) for variance in variances]
        return tuple(map(float, means)), tuple(deviations)


def empty(num_classes: int, channels: int) -> Tally:
    """Returns the counts and sums of no example."""
    zeros = [fractions.Fraction(0)] * channels
    return Tally(np.zeros(num_classes, np.int64), 0, zeros, zeros)


def of_example(image: np.ndarray, mask: np.ndarray, num_classes: int) -> Tally:
    """Returns the counts and sums of one example.

    Args:
        image: uint8, uint16 or float32 [*S, C].
        mask: uint8 [*S], class ids; schema.IGNORE where a pixel does not count.
        num_classes: number of classes.
    """
    counts = np.bincount(mask.ravel(), minlength=schema.IGNORE + 1)
    moments = [_power_sums(image[..., channel]) for channel in range(image.shape[-1])]
    return Tally(
        pixels=counts[:num_classes],
        ignored_pixels=int(counts[schema.IGNORE]),
        sums=[fractions.Fraction(first) for first, _ in moments],
        squares=[fractions.Fraction(second) for _, second in moments],
    )


def _power_sums(values: np.ndarray) -> tuple[float, float]:
    """Returns the sums of the values and of their squares: of integers exact ones, by counting."""
    if values.dtype.kind == "f":
        wide = values.astype(np.float64)
        return float(wide.sum()), float(np.square(wide).sum())
    counts = np.bincount(values.ravel())
    levels = np.arange(len(counts))
    return int(counts @ levels), int(counts @ levels**2)
