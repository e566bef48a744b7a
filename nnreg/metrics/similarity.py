"""Similarity of two images on one grid."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nnreg.errors import GeometryError
from nnreg.metrics.arrays import ArrayOrTensor, as_numpy, same_shape

FloatArray = npt.NDArray[np.float64]


def ncc(fixed: ArrayOrTensor, warped: ArrayOrTensor, mask: ArrayOrTensor | None = None) -> float:
    """Correlation coefficient of all values, in [-1, 1]; NaN if either image is flat.

    Parameters
    ----------
    fixed, warped : arrays of one shape
    mask : array that broadcasts to them, optional
        Only voxels where it is not zero count.
    """
    first, second = _values(fixed, warped, mask)
    if not first.size:
        return float("nan")
    first, second = first - first.mean(), second - second.mean()
    scale = float(np.sqrt((first @ first) * (second @ second)))
    return float(first @ second) / scale if scale > 0 else float("nan")


def mse(fixed: ArrayOrTensor, warped: ArrayOrTensor, mask: ArrayOrTensor | None = None) -> float:
    """Mean squared difference of all values (within the mask)."""
    first, second = _values(fixed, warped, mask)
    return float(np.mean((first - second) ** 2)) if first.size else float("nan")


def mae(fixed: ArrayOrTensor, warped: ArrayOrTensor, mask: ArrayOrTensor | None = None) -> float:
    """Mean absolute difference of all values (within the mask)."""
    first, second = _values(fixed, warped, mask)
    return float(np.mean(np.abs(first - second))) if first.size else float("nan")


def _values(fixed: ArrayOrTensor, warped: ArrayOrTensor, mask: ArrayOrTensor | None) -> tuple[FloatArray, FloatArray]:
    first, second = np.asarray(as_numpy(fixed), dtype=np.float64), np.asarray(as_numpy(warped), dtype=np.float64)
    same_shape(first, second)
    if mask is None:
        return first.ravel(), second.ravel()
    try:
        inside = np.broadcast_to(as_numpy(mask) != 0, first.shape)
    except ValueError:
        raise GeometryError(f"a mask of shape {tuple(mask.shape)} does not fit images of shape {first.shape}.") from None
    return first[inside], second[inside]
