"""How regular a displacement field is, by its Jacobian determinants.

A field is ``(ndim, *spatial)`` or ``(B, ndim, *spatial)``, voxels, component k along array axis k; a mask is ``(*spatial)`` with any leading
axes of length 1. No torch is loaded for arrays.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nnreg.arrays import Floats
from nnreg.errors import GeometryError
from nnreg.geometry import FieldMap, Space
from nnreg.metrics.arrays import ArrayOrTensor, as_numpy, is_tensor

if TYPE_CHECKING:
    from torch import Tensor

NAN = float("nan")
PART = 2**20  # determinants whose logarithms are taken at a time


def sdlogj(field: ArrayOrTensor, mask: ArrayOrTensor | None = None) -> float:
    """Standard deviation of the logarithm of the Jacobian determinant, over voxels where it is positive.

    Central differences, one-sided on the border. Folded voxels have no logarithm: :func:`folding_percent` counts them. NaN on a grid of
    one slice, or if every voxel folds.
    """
    if is_tensor(field):
        return float(_reductions().sdlogj(*_tensors(field, mask)))
    return regularity(field, mask)[0]


def sdlogj_learn2reg(field: ArrayOrTensor, mask: ArrayOrTensor | None = None) -> float:
    """The figure that Learn2Reg's evaluation calls SDlogJ: deviation of ``log(clip(J + 3, 1e-9, 1e9))``, two voxels of border left out.

    The 3 hides mild folding and makes the figure about four times smaller than :func:`sdlogj`; only compare it with itself. NaN on grids of
    fewer than five voxels along an axis.
    """
    if is_tensor(field):
        return float(_reductions().sdlogj_learn2reg(*_tensors(field, mask)))
    values = np.log(np.clip(_determinants(field, mask, border=2).astype(np.float64) + 3, 1e-9, 1e9))
    return float(values.std()) if values.size else NAN


def regularity(field: ArrayOrTensor, mask: ArrayOrTensor | None = None) -> tuple[float, float, float]:
    """:func:`sdlogj`, then what :func:`folding` gives, of determinants that are computed once."""
    if is_tensor(field):
        return (sdlogj(field, mask), *folding(field, mask))
    deviation, count, percent = regularity_of([_determinants(field, mask)])
    return deviation, count / _batch(field), percent


def regularity_of(parts: Iterable[npt.NDArray[np.floating]]) -> tuple[float, float, float]:
    """:func:`regularity` of determinants that come in parts: of a large image they would not fit beside it in double precision."""
    counts, sums = np.zeros(2, np.int64), np.zeros(2)
    for part in parts:
        for values in np.array_split(part.ravel(), max(1, part.size // PART)):
            logarithms = np.log(values[values > 0], dtype=np.float64)
            counts += values.size, logarithms.size
            sums += logarithms.sum(), logarithms @ logarithms
    seen, positive = (int(count) for count in counts)
    if not seen:
        return NAN, NAN, NAN
    mean, square = sums / max(1, positive)
    return math.sqrt(max(0.0, square - mean**2)) if positive else NAN, float(seen - positive), 100 * (seen - positive) / seen


def folding(field: ArrayOrTensor, mask: ArrayOrTensor | None = None) -> tuple[float, float]:
    """Voxels whose Jacobian determinant (central differences) is zero or negative: how many per field, and their percentage.

    The count is called NJD by others. Both are NaN on a grid of one slice.
    """
    if is_tensor(field):
        count, percent = _reductions().folding(*_tensors(field, mask))
        return float(count), float(percent)
    return regularity(field, mask)[1:]


def folding_count(field: ArrayOrTensor, mask: ArrayOrTensor | None = None) -> float:
    """The count of :func:`folding`."""
    return folding(field, mask)[0]


def folding_percent(field: ArrayOrTensor, mask: ArrayOrTensor | None = None) -> float:
    """The percentage of :func:`folding`."""
    return folding(field, mask)[1]


def _checked(field: ArrayOrTensor) -> int:
    """Number of axes of a field.

    Raises
    ------
    GeometryError
        If it is none.
    """
    shape = tuple(field.shape)
    ndim = len(shape) - 1 if len(shape) in (3, 4) and shape[0] == len(shape) - 1 else len(shape) - 2
    if ndim not in (2, 3) or shape[-ndim - 1] != ndim:
        raise GeometryError(f"a displacement field is (ndim, *spatial) or (B, ndim, *spatial), found shape {shape}.")
    return ndim


def _reductions() -> ModuleType:
    """Metrics of tensors, on their device; torch is loaded already where there is one."""
    from nnreg.metrics import reductions

    return reductions


def _tensors(field: Tensor, mask: ArrayOrTensor | None) -> tuple[Tensor, Tensor | None]:
    """A field as a batch, and its mask as a tensor."""
    import torch

    ndim = _checked(field)
    return field.reshape(-1, ndim, *field.shape[-ndim:]), mask if mask is None or is_tensor(mask) else torch.from_numpy(np.asarray(mask))


def _determinants(field: npt.NDArray[np.generic], mask: ArrayOrTensor | None, *, border: int = 0) -> Floats:
    """The determinants (N,) at the voxels that count; none of a grid that has no differences, or nothing but its border."""
    ndim = _checked(field)
    spatial = field.shape[-ndim:]
    if min(spatial) < 2 or min(spatial) <= 2 * border:
        return np.empty(0, np.float32)
    inner = tuple(slice(border, size - border) for size in spatial)
    space = Space.plain(spatial)
    fields = field.reshape(-1, ndim, *spatial)
    found = np.stack([FieldMap(np.asarray(each, dtype=np.float32), space).determinants() for each in fields])[(slice(None), *inner)]
    if mask is None:
        return found.reshape(-1)
    return found[_inside(mask, len(found), spatial)[(slice(None), *inner)]]


def _batch(field: ArrayOrTensor) -> int:
    """How many fields."""
    return 1 if field.shape[0] == field.ndim - 1 and field.ndim in (3, 4) else int(field.shape[0])


def _inside(mask: ArrayOrTensor, count: int, spatial: tuple[int, ...]) -> np.ndarray:
    """Voxels that count, boolean (B, *spatial). A mask may have leading axes of length 1."""
    chosen = as_numpy(mask) != 0
    if chosen.shape[-len(spatial) :] != spatial or math.prod(chosen.shape[: -len(spatial)]) not in (1, count):
        raise GeometryError(f"a mask of shape {chosen.shape} does not lie on the field's grid {spatial}.")
    return np.broadcast_to(chosen.reshape(-1, *spatial), (count, *spatial))
