"""Tests of where voxels are, and of what counts as one grid."""

import dataclasses

import numpy as np
import pytest

from trainer.data.geometry import Geometry

GRID = Geometry((3.0, 0.5, 0.4), (-120.0, 7.5, 900.0))


def test_a_grid_survives_an_array_exactly():
    values = GRID.to_array()
    assert values.dtype == np.float64
    assert values[:6].tolist() == [3, 0.5, 0.4, -120, 7.5, 900]
    assert Geometry.from_array(values) == GRID


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"spacing": (3.002, 0.5, 0.4)}, ""),  # 0.7 thousandths
        ({"spacing": (3.004, 0.5, 0.4)}, "spacing (3, 0.5, 0.4) and (3.004, 0.5, 0.4)"),
        ({"origin": (-120.0, 7.503, 900.0)}, ""),  # of a voxel of 0.4
        ({"origin": (-120.0, 7.505, 900.0)}, "origin (-120, 7.5, 900) and (-120, 7.505, 900)"),
        (
            {"direction": (-1, 0, 0, 0, -1, 0, 0, 0, 1)},
            "direction (1, 0, 0, 0, 1, 0, 0, 0, 1) and ",
        ),
    ],
)
def test_grids_differ_by_more_than_what_headers_round(changed, told):
    other = dataclasses.replace(GRID, **changed)
    differences = GRID.differences(other)
    assert differences.startswith(told)
    assert bool(differences) == bool(told)


@pytest.mark.parametrize("spacing", [(0.0, 1.0, 1.0), (float("nan"), 1.0, 1.0), (1.0, 1.0)])
def test_what_is_no_grid_is_refused(spacing):
    with pytest.raises(ValueError, match="its grid has spacing"):
        Geometry(spacing)
