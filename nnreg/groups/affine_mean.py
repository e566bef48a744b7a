"""The mean of affine maps, by the matrix logarithm, and its removal: the space that lies in the middle of a group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.linalg import expm, logm, polar

from nnreg.arrays import Doubles

ITERATIONS, SETTLED = 50, 1e-10
QUARTER_TURN = np.pi / 2


def centred(matrices: Sequence[Doubles]) -> list[Doubles]:
    """Affine maps from one space to each image of a group, moved to the space in the middle of them.

    The same matrix C is put before all, ``A_i C``, so that their logarithms have the mean zero: the exponential barycentre of Lie groups (Pennec and Arsigny
    2012), which is the same whatever space the maps began in. Where an image is turned by more than a quarter turn, the logarithm says little of its pose: then
    the space keeps the pose that it has, and the logarithms of the stretches have the mean zero.

    Parameters
    ----------
    matrices : arrays, shape (ndim+1, ndim+1), world mm, homogeneous

    Returns
    -------
    list of arrays, of the same shape
    """
    turned = any(_turn(matrix) > QUARTER_TURN for matrix in matrices)
    logarithm = _stretch if turned else _logarithm
    current = [np.asarray(matrix, dtype=np.float64) for matrix in matrices]
    for _ in range(ITERATIONS):
        mean = np.mean([logarithm(matrix) for matrix in current], axis=0)
        if np.abs(mean).max() < SETTLED:
            break
        step = expm(-mean)
        current = [matrix @ step for matrix in current]
    return current


def mean_logarithm(matrices: Sequence[Doubles]) -> float:
    """Largest entry of the mean of the logarithms of the linear parts, without unit: 0 for a group in the middle of which its space lies."""
    parts = [_stretch(matrix) if _turn(matrix) > QUARTER_TURN else _logarithm(matrix) for matrix in matrices]
    return float(np.abs(np.mean(parts, axis=0)[:-1, :-1]).max())


def _turn(matrix: Doubles) -> float:
    """Angle by which a map turns the world, radians."""
    rotation, _ = polar(matrix[:-1, :-1])
    if len(rotation) == 2:
        return float(abs(np.arctan2(rotation[1, 0], rotation[0, 0])))
    return float(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1)))


def _logarithm(matrix: Doubles) -> Doubles:
    return np.asarray(np.real(logm(matrix)), dtype=np.float64)


def _stretch(matrix: Doubles) -> Doubles:
    """The logarithm of the stretch, which is applied before the turn; no translation."""
    result = np.zeros_like(matrix)
    _, stretch = polar(matrix[:-1, :-1])
    result[:-1, :-1] = np.real(logm(stretch))
    return np.asarray(result, dtype=np.float64)
