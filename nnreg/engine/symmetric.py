"""Both directions of a registration brought to agree."""

from __future__ import annotations

import numpy as np

from nnreg.arrays import Floats
from nnreg.engine.grids import Level
from nnreg.kernels import volumes
from nnreg.kernels.inversion import MOST_UNSETTLED, inverted_volume, unsettled


def opposite(field: Floats, level: Level) -> Floats | None:
    """The inverse of a map, seen from the other side.

    Parameters
    ----------
    field : array (N, D, H, W), voxels of the moving grid of `level`
        A map that takes the moving image as the fixed one: ``y -> A^-1 (y + v(y))`` with A the linear map of the level.
    level : Level

    Returns
    -------
    array (N, D, H, W), voxels of the fixed grid: u with ``A (x + u(x))`` the inverse of that map at x. None if the iteration did not find it.
    """
    inverse = inverted_volume(field)
    if unsettled(field, inverse)[0] > MOST_UNSETTLED:
        return None
    first = 3 - len(inverse)
    inverse = volumes.sample(inverse, shape=level.grid, matrix=level.matrix)
    return volumes.turned(inverse, np.linalg.inv(level.matrix[first:, first:3].astype(float)))


def halfway(field: Floats, backward: Floats, level: Level) -> Floats | None:
    """The mean of a map and of the inverse of the map of the opposite direction, on the fixed grid of `level`; None where that inverse was not found."""
    inverse = opposite(backward, level)
    return None if inverse is None else (field + inverse) / np.float32(2)
