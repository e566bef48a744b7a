"""Similarity of two images on one grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nnreg.arrays import AnyArray, Doubles
from nnreg.errors import GeometryError
from nnreg.metrics.arrays import ArrayOrTensor, as_numpy, is_tensor, same_shape

if TYPE_CHECKING:
    from torch import Tensor

PART = 2**18  # values that are taken in double precision at a time
SSIM_SIGMA, SSIM_REACH = 1.5, 5  # voxels


def ncc(fixed: ArrayOrTensor, warped: ArrayOrTensor, mask: ArrayOrTensor | None = None) -> float:
    """Correlation coefficient of all values, in [-1, 1]; NaN if either image is flat.

    Parameters
    ----------
    fixed, warped : arrays of one shape
    mask : array that broadcasts to them, optional
        Only voxels where it is not zero count.
    """
    if is_tensor(fixed) and is_tensor(warped):
        return _reduced("ncc", fixed, warped, mask)
    first, second = _chosen(as_numpy(fixed), as_numpy(warped), mask)
    if not first.size:
        return float("nan")
    means = first.mean(dtype=np.float64), second.mean(dtype=np.float64)
    powers, product = np.zeros(2), 0.0
    for start in range(0, first.size, PART):
        one, other = (values[start : start + PART] - mean for values, mean in zip((first, second), means, strict=True))
        powers += one @ one, other @ other
        product += float(one @ other)
    scale = float(np.sqrt(powers.prod()))
    return product / scale if scale > 0 else float("nan")


def mse(fixed: ArrayOrTensor, warped: ArrayOrTensor, mask: ArrayOrTensor | None = None) -> float:
    """Mean squared difference of all values (within the mask)."""
    if is_tensor(fixed) and is_tensor(warped):
        return _reduced("mse", fixed, warped, mask)
    first, second = _values(fixed, warped, mask)
    return float(np.mean((first - second) ** 2)) if first.size else float("nan")


def mae(fixed: ArrayOrTensor, warped: ArrayOrTensor, mask: ArrayOrTensor | None = None) -> float:
    """Mean absolute difference of all values (within the mask)."""
    if is_tensor(fixed) and is_tensor(warped):
        return _reduced("mae", fixed, warped, mask)
    first, second = _values(fixed, warped, mask)
    return float(np.mean(np.abs(first - second))) if first.size else float("nan")


def rmse(fixed: ArrayOrTensor, warped: ArrayOrTensor, mask: ArrayOrTensor | None = None) -> float:
    """Root of the mean squared difference of all values (within the mask)."""
    return math.sqrt(mse(fixed, warped, mask))


def psnr(reference: ArrayOrTensor, prediction: ArrayOrTensor, mask: ArrayOrTensor | None = None, *, data_range: float | None = None) -> float:
    """Peak signal-to-noise ratio, ``20 log10(data_range / rmse)`` dB; infinite for equal images, NaN for a flat reference.

    Parameters
    ----------
    reference, prediction : arrays of one shape
    mask : array that broadcasts to them, optional
        Only voxels where it is not zero count.
    data_range
        Largest minus smallest value that there may be; of the reference (within the mask) if absent.
    """
    first, second = _values(reference, prediction, mask)
    return decibels(_extent(first, data_range), math.sqrt(float(np.mean((first - second) ** 2))) if first.size else float("nan"))


def decibels(data_range: float, error: float) -> float:
    """:func:`psnr` of a root mean square `error`; NaN without a range."""
    if not data_range > 0:
        return float("nan")
    return 20 * math.log10(data_range / error) if error else math.inf


def ssim(reference: ArrayOrTensor, prediction: ArrayOrTensor, mask: ArrayOrTensor | None = None, *, data_range: float | None = None) -> float:
    """Mean structural similarity of two images (*spatial) of one channel: Wang et al. 2004, Gaussian window of sigma 1.5 that ends after 5 voxels.

    Where an axis is shorter than the window of 11 voxels, it is left out: thin volumes are compared slice by slice. Windows that reach beyond the image or
    the mask are not counted; NaN where there is no other, or the reference is flat.

    Parameters
    ----------
    reference, prediction : arrays of one shape (*spatial)
    mask : array of that shape, optional
        Voxels where it is not zero count.
    data_range
        As for :func:`psnr`.
    """
    first, second = (np.asarray(as_numpy(image), dtype=np.float64) for image in (reference, prediction))
    same_shape(first, second)
    valid = np.ones(first.shape, bool) if mask is None else np.asarray(as_numpy(mask) != 0)
    similarity, counted = ssim_map(first, second, valid, extent=_extent(first[valid], data_range), axes=ssim_axes(first.shape))
    return float(similarity[counted].mean()) if counted.any() else float("nan")


def ssim_axes(shape: Sequence[int]) -> tuple[int, ...]:
    """Axes along which :func:`ssim` has a window: those that are not shorter than it."""
    return tuple(axis for axis, size in enumerate(shape) if size > 2 * SSIM_REACH)


def ssim_map(first: Doubles, second: Doubles, valid: npt.NDArray[np.bool_], *, extent: float, axes: Sequence[int]) -> tuple[Doubles, npt.NDArray[np.bool_]]:
    """Similarity at every voxel, and where it counts: the window, along `axes`, is within the array and `valid`. Nowhere, if there is no axis or no extent."""
    from scipy import ndimage

    if not axes or not extent > 0:
        return np.zeros(first.shape), np.zeros(first.shape, bool)
    first, second = np.where(valid, first, 0), np.where(valid, second, 0)

    def mean(values: Doubles) -> Doubles:
        return np.asarray(ndimage.gaussian_filter(values, SSIM_SIGMA, radius=SSIM_REACH, axes=tuple(axes), mode="nearest"))

    one, other = mean(first), mean(second)
    variances = mean(first**2) - one**2 + mean(second**2) - other**2
    covariance = mean(first * second) - one * other
    small, smaller = (0.01 * extent) ** 2, (0.03 * extent) ** 2
    similarity = (2 * one * other + small) * (2 * covariance + smaller) / ((one**2 + other**2 + small) * (variances + smaller))
    window = np.ones([2 * SSIM_REACH + 1 if axis in axes else 1 for axis in range(first.ndim)], bool)
    return similarity, ndimage.binary_erosion(valid, window, border_value=0)


def _reduced(name: str, fixed: Tensor, warped: Tensor, mask: ArrayOrTensor | None) -> float:
    """A metric of tensors, found on their device."""
    import torch

    from nnreg.metrics import reductions

    return float(getattr(reductions, name)(fixed, warped, mask if mask is None or is_tensor(mask) else torch.from_numpy(np.asarray(mask))))


def _extent(values: Doubles, given: float | None) -> float:
    return given if given is not None else float(np.ptp(values)) if values.size else float("nan")


def _values(fixed: ArrayOrTensor, warped: ArrayOrTensor, mask: ArrayOrTensor | None) -> tuple[Doubles, Doubles]:
    first, second = _chosen(as_numpy(fixed), as_numpy(warped), mask)
    return first.astype(np.float64), second.astype(np.float64)


def _chosen(first: AnyArray, second: AnyArray, mask: ArrayOrTensor | None) -> tuple[AnyArray, AnyArray]:
    """Values (N,) of two images of one shape, those that the mask has."""
    same_shape(first, second)
    if mask is None:
        return first.ravel(), second.ravel()
    try:
        inside = np.broadcast_to(as_numpy(mask) != 0, first.shape)
    except ValueError:
        raise GeometryError(f"a mask of shape {tuple(mask.shape)} does not fit images of shape {first.shape}.") from None
    return first[inside], second[inside]
