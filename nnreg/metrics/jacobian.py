"""How regular a displacement field is, by its Jacobian determinants.

A field is ``(ndim, *spatial)`` or ``(B, ndim, *spatial)``, voxels, component k along array axis k; a mask is ``(*spatial)`` with any leading
axes of length 1. No torch is loaded for arrays.
"""

from __future__ import annotations

import math

import numpy as np

from nnreg.arrays import Doubles, Floats
from nnreg.errors import GeometryError
from nnreg.geometry import FieldMap, Space
from nnreg.metrics.arrays import ArrayOrTensor, as_numpy, is_tensor

NAN = float("nan")


def sdlogj(field: ArrayOrTensor, mask: ArrayOrTensor | None = None) -> float:
    """Standard deviation of the logarithm of the Jacobian determinant, over voxels where it is positive.

    Central differences, one-sided on the border. Folded voxels have no logarithm: :func:`folding_percent` counts them. NaN on a grid of
    one slice, or if every voxel folds.
    """
    determinants = _determinants(field, mask)
    return _deviation(np.log(determinants[determinants > 0]))


def sdlogj_learn2reg(field: ArrayOrTensor, mask: ArrayOrTensor | None = None) -> float:
    """The figure that Learn2Reg's evaluation calls SDlogJ: deviation of ``log(clip(J + 3, 1e-9, 1e9))``, two voxels of border left out.

    The 3 hides mild folding and makes the figure about four times smaller than :func:`sdlogj`; only compare it with itself. NaN on grids of
    fewer than five voxels along an axis.
    """
    return _deviation(np.log(np.clip(_determinants(field, mask, border=2) + 3, 1e-9, 1e9)))


def folding(field: ArrayOrTensor, mask: ArrayOrTensor | None = None) -> tuple[float, float]:
    """Voxels whose Jacobian determinant (central differences) is zero or negative: how many per field, and their percentage.

    The count is called NJD by others. Both are NaN on a grid of one slice.
    """
    determinants = _determinants(field, mask)
    if not determinants.size:
        return NAN, NAN
    folded = np.count_nonzero(determinants <= 0)
    return folded / _batch(field), 100 * folded / determinants.size


def folding_count(field: ArrayOrTensor, mask: ArrayOrTensor | None = None) -> float:
    """The count of :func:`folding`."""
    return folding(field, mask)[0]


def folding_percent(field: ArrayOrTensor, mask: ArrayOrTensor | None = None) -> float:
    """The percentage of :func:`folding`."""
    return folding(field, mask)[1]


def _determinants(field: ArrayOrTensor, mask: ArrayOrTensor | None, *, border: int = 0) -> Doubles:
    """The determinants (N,) at the voxels that count; none of a grid that has no differences, or nothing but its border."""
    shape = tuple(field.shape)
    ndim = len(shape) - 1 if len(shape) in (3, 4) and shape[0] == len(shape) - 1 else len(shape) - 2
    if ndim not in (2, 3) or shape[-ndim - 1] != ndim:
        raise GeometryError(f"a displacement field is (ndim, *spatial) or (B, ndim, *spatial), found shape {shape}.")
    spatial = shape[-ndim:]
    if min(spatial) < 2 or min(spatial) <= 2 * border:
        return np.empty(0)
    inner = tuple(slice(border, size - border) for size in spatial)
    found = _of_each(field.reshape(-1, ndim, *spatial), spatial)[(slice(None), *inner)]
    if mask is None:
        return found.astype(np.float64).reshape(-1)
    return found[_inside(mask, len(found), spatial)[(slice(None), *inner)]].astype(np.float64)


def _batch(field: ArrayOrTensor) -> int:
    """How many fields."""
    return 1 if field.shape[0] == field.ndim - 1 and field.ndim in (3, 4) else int(field.shape[0])


def _of_each(fields: ArrayOrTensor, spatial: tuple[int, ...]) -> Floats:
    """Determinants (B, *spatial) of a batch; those of tensors are found on their device."""
    if is_tensor(fields):
        from nnreg.geometry import jacobian_determinant

        return np.asarray(as_numpy(jacobian_determinant(fields)), np.float32)
    space = Space.plain(spatial)
    return np.stack([FieldMap(np.asarray(field, dtype=np.float32), space).determinants() for field in fields])


def _inside(mask: ArrayOrTensor, count: int, spatial: tuple[int, ...]) -> np.ndarray:
    """Voxels that count, boolean (B, *spatial). A mask may have leading axes of length 1."""
    chosen = as_numpy(mask) != 0
    if chosen.shape[-len(spatial) :] != spatial or math.prod(chosen.shape[: -len(spatial)]) not in (1, count):
        raise GeometryError(f"a mask of shape {chosen.shape} does not lie on the field's grid {spatial}.")
    return np.broadcast_to(chosen.reshape(-1, *spatial), (count, *spatial))


def _deviation(values: Doubles) -> float:
    return float(values.std()) if values.size else NAN
