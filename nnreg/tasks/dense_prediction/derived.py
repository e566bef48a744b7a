"""What can be told from labels besides labels: distances, normals, structure tensors, directions, derived from each patch after it was augmented."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from nnreg.arrays import Floats, Mask

UNKNOWN = -100.0  # where nothing is known; losses leave it out
COHERENT = 0.05  # of the largest eigenvalue: nearer ones are not told apart
FAR = 1e6  # distance where a patch shows no surface


def signed_distance(mask: Mask, spacing: Sequence[float]) -> Floats:
    """Distance to the surface of `mask`, negative inside.

    Half a voxel lies between the surface and the centres on either side of it, so that the slope across the surface is 1, not 2.

    Parameters
    ----------
    mask : array, shape (*spatial)
    spacing
        Of the voxels, in the unit of the distances.

    Returns
    -------
    array, shape (*spatial)
        Without a surface `FAR` or, if all is inside, its negative.
    """
    if not mask.any() or mask.all():
        return np.full(mask.shape, -FAR if mask.any() else FAR, np.float32)
    step = [float(value) for value in spacing]
    half = 0.5 * min(step)
    outside = ndimage.distance_transform_edt(~mask, sampling=step)
    inside = ndimage.distance_transform_edt(mask, sampling=step)
    return np.where(mask, half - inside, outside - half).astype(np.float32)


def distance_transform(mask: Mask, spacing: Sequence[float], distance_type: str = "signed") -> Floats:
    """(1, *spatial): the signed distance, or one side of it, 0 on the other; unknown where the patch shows no surface to be near to."""
    signed = signed_distance(mask, spacing)
    sides = {"signed": signed, "inside": np.maximum(-signed, 0), "outside": np.maximum(signed, 0)}
    chosen = sides[distance_type][None]
    return np.where(np.abs(chosen) < FAR, chosen, UNKNOWN).astype(np.float32)


def surface_normals(mask: Mask, spacing: Sequence[float]) -> Floats:
    """(ndim, *spatial): unit vectors away from the object, component k along array axis k; 0 where there is none (no surface, or midway between two)."""
    gradient = _gradient(signed_distance(mask, spacing), spacing)
    length = np.sqrt((gradient**2).sum(axis=0, keepdims=True))
    return np.where(length > 0.1, gradient / np.maximum(length, 1e-6), 0.0).astype(np.float32)


def structure_tensor(mask: Mask, spacing: Sequence[float], compute_from: str = "sdt", grad_sigma: float = 1.0, tensor_sigma: float = 1.5) -> Floats:
    """(ndim (ndim + 1) / 2, *spatial): smoothed products of the gradient, upper triangle in array axis order; unknown outside the object and without a surface.

    Parameters
    ----------
    compute_from : ``sdt`` (signed distance) or ``binary``
        What the gradient is of.
    grad_sigma, tensor_sigma : voxels
        Gaussian before the gradient and after the products.
    """
    products = _products(mask, spacing, compute_from, grad_sigma, tensor_sigma)
    known = mask & (products[_diagonal(mask.ndim)].sum(axis=0) > 1e-8)
    return np.where(known, products, UNKNOWN).astype(np.float32)


def inplane_direction(mask: Mask, spacing: Sequence[float], compute_from: str = "sdt", grad_sigma: float = 1.0, tensor_sigma: float = 1.5) -> Floats:
    """(ndim, *spatial): unit vector along which the structure changes least, its largest component positive; unknown where two directions do as well.

    Arguments as of :func:`structure_tensor`. The sign means nothing: a loss should be invariant to it.
    """
    ndim = mask.ndim
    products = _products(mask, spacing, compute_from, grad_sigma, tensor_sigma)
    tensors = np.empty((int(mask.sum()), ndim, ndim))
    for place, (row, column) in enumerate(zip(*np.triu_indices(ndim), strict=True)):
        tensors[:, row, column] = tensors[:, column, row] = products[place][mask]
    values, vectors = np.linalg.eigh(tensors)
    least = vectors[:, :, 0]
    sign = np.sign(np.take_along_axis(least, np.abs(least).argmax(axis=1)[:, None], axis=1))
    clear = (values[:, -1] > 1e-8) & (values[:, 1] - values[:, 0] > COHERENT * values[:, -1])
    result = np.full((ndim, *mask.shape), UNKNOWN, np.float32)
    result[:, mask] = np.where(clear[:, None], least * sign, UNKNOWN).T
    return result


def _products(mask: Mask, spacing: Sequence[float], compute_from: str, grad_sigma: float, tensor_sigma: float) -> Floats:
    base = mask.astype(np.float32) if compute_from == "binary" else signed_distance(mask, spacing)
    gradient = _gradient(ndimage.gaussian_filter(base, grad_sigma, mode="nearest"), spacing)
    pairs = [gradient[row] * gradient[column] for row, column in zip(*np.triu_indices(mask.ndim), strict=True)]
    return np.stack([ndimage.gaussian_filter(product, tensor_sigma, mode="nearest") for product in pairs])


def _gradient(values: Floats, spacing: Sequence[float]) -> Floats:
    """(ndim, *spatial) by central differences, one-sided on the border; 0 along an axis of one voxel."""
    parts = [np.gradient(values, step, axis=axis) if values.shape[axis] > 1 else np.zeros_like(values) for axis, step in enumerate(spacing)]
    return np.stack(parts).astype(np.float32)


def _diagonal(ndim: int) -> list[int]:
    return [place for place, (row, column) in enumerate(zip(*np.triu_indices(ndim), strict=True)) if row == column]
