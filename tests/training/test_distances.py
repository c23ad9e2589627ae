"""Signed distances, against SciPy's."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

from tests import rounding
from trainer.training import distances


def expected(truth, reach):
    """Returns the distances of one class in one image."""
    if truth.min() == truth.max():
        return np.zeros(truth.shape)
    outside, inside = (ndimage.distance_transform_edt(mask) for mask in (1 - truth, truth))
    return np.where(truth > 0, 1 - np.minimum(inside, reach), np.minimum(outside, reach))


@pytest.mark.parametrize("space", [(9, 14), (5, 8, 7)])
@pytest.mark.parametrize("reach", [3, 32])
def test_distances_are_those_of_scipy_up_to_their_reach(space, reach):
    truth = (np.random.default_rng(0).random((2, *space, 3)) < 0.06).astype(np.float32)
    truth[0, ..., 0], truth[1, ..., 1] = 0, 1
    found = distances.signed_distances(tf.constant(truth), reach)
    for image in range(2):
        for k in range(3):
            np.testing.assert_allclose(
                found[image, ..., k],
                expected(truth[image, ..., k], reach),
                rtol=rounding.tolerance(operations=3),
            )
