"""Histograms of intensities."""

import numpy as np
import pytest

from trainer.data.prepare import intensities
from trainer.errors import InputError


def test_figures_are_those_of_all_values_together_whatever_their_order():
    values = np.random.default_rng(0).integers(-1024, 3000, 5000)
    parts = [intensities.histogram(part) for part in np.split(values, [10, 700, 4000])]
    expected = [values.mean(), values.std(), *np.percentile(values, intensities.PERCENTILES)]
    np.testing.assert_allclose(intensities.figures(parts, "CT"), expected, rtol=1e-12)
    assert intensities.figures(parts, "CT") == intensities.figures(parts[::-1], "CT")


def test_fractions_are_rounded_and_a_constant_has_no_deviation():
    levels, counts = intensities.histogram(np.array([0.6, 1.4, 2.0], np.float32))
    assert (levels.tolist(), counts.tolist()) == ([1, 2], [2, 1])
    one = intensities.histogram(np.full(3, 7.0))
    assert intensities.figures([one], "CT") == (7.0, 0.0, 7.0, 7.0)


def test_a_channel_needs_a_foreground():
    empty = intensities.histogram(np.zeros(0))
    with pytest.raises(InputError, match="No training volume has a voxel of the foreground"):
        intensities.figures([empty], "CT")
