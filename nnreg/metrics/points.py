"""Landmarks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nnreg.metrics.arrays import ArrayOrTensor, as_numpy, same_shape


def point_distances(mapped: ArrayOrTensor, target: ArrayOrTensor) -> npt.NDArray[np.float64]:
    """Distance of each point to its counterpart.

    Parameters
    ----------
    mapped, target : shape (N, ndim), mm
        Fixed landmarks mapped into the moving world, and the moving landmarks they belong to.

    Returns
    -------
    array, shape (N,), mm

    Raises
    ------
    GeometryError
        If the shapes differ.
    """
    first, second = np.asarray(as_numpy(mapped), dtype=float), np.asarray(as_numpy(target), dtype=float)
    same_shape(first, second)
    return np.asarray(np.linalg.norm(first - second, axis=-1))


def tre(mapped: ArrayOrTensor, target: ArrayOrTensor) -> float:
    """Target registration error: the mean of :func:`point_distances`, NaN without points."""
    distances = point_distances(mapped, target)
    return float(distances.mean()) if distances.size else float("nan")
