"""Displacement fields: how regular they are, and how far from the truth or from their inverse.

A field is ``(ndim, *spatial)`` or ``(B, ndim, *spatial)``, voxels, component k along array axis k; a mask is ``(*spatial)`` with any leading
axes of length 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from nnreg.errors import GeometryError
from nnreg.geometry import compose, identity_grid
from nnreg.geometry.simplices import simplex_determinants
from nnreg.metrics.arrays import ArrayOrTensor, as_numpy, is_tensor

SLAB_VOXELS = 2**19  # bounds the memory of the ten determinants whatever the image
NAN = float("nan")


def endpoint_error(field: ArrayOrTensor, truth: ArrayOrTensor, *, spacing: Sequence[float] | None = None, mask: ArrayOrTensor | None = None) -> float:
    """Mean length of the difference of two fields, in voxels, or in mm if `spacing` (mm, array axis order) is given.

    Raises
    ------
    GeometryError
        If the fields lie on different grids.
    """
    first, second = _alike(field, truth)
    return _mean_length(first - second, spacing, as_mask(mask, first))


def inverse_consistency_error(
    forward: ArrayOrTensor, backward: ArrayOrTensor, *, spacing: Sequence[float] | None = None, mask: ArrayOrTensor | None = None
) -> float:
    """Mean length of ``backward(forward(x)) - x``, voxels or (with `spacing`) mm; zero for a map and its inverse.

    Positions that `forward` sends outside the grid do not count: nothing is known there.
    """
    first, second = _alike(forward, backward)
    position = identity_grid(first.shape[2:], first.device) + first
    last = torch.tensor([size - 1 for size in first.shape[2:]], device=first.device).reshape(1, -1, *(1,) * (first.ndim - 2))
    inside = ((position >= 0) & (position <= last)).all(dim=1)
    return _mean_length(compose(second, first), spacing, as_mask(mask, first) & inside)


def grad_l2(field: ArrayOrTensor, *, spacing: Sequence[float] | None = None) -> float:
    """Mean squared forward difference over components, axes and voxels: the energy that the diffusion regulariser lowers.

    With `spacing` the differences are mm per mm. An axis of one voxel has none and is left out; NaN if there is no other.
    """
    fields = as_fields(field)
    scaled = fields if spacing is None else fields * spacing_column(spacing, fields)
    steps = (1.0,) * (fields.ndim - 2) if spacing is None else tuple(spacing)
    means = [
        float(((torch.diff(scaled, dim=axis + 2) / step).double() ** 2).mean())
        for axis, (size, step) in enumerate(zip(fields.shape[2:], steps, strict=True))
        if size > 1
    ]
    return sum(means) / len(means) if means else NAN


def non_diffeomorphic_volume(field: ArrayOrTensor, mask: ArrayOrTensor | None = None) -> float:
    """Volume that the map turns inside out, in percent of the volume measured (area in 2D).

    Between voxel centres the map is taken as linear on simplices: a cube of eight centres splits into five tetrahedra in two ways, and
    with both splits ten finite-difference determinants belong to each voxel (two splits of a square into two triangles and four determinants
    in 2D). Half of the negative volume of each is summed. Central differences (:func:`folding_percent`) miss folds that alternate from voxel to
    voxel, and count a fold without saying how large it is.

    Liu et al., On finite difference Jacobian computation in deformable image registration, IJCV 2024. The outermost voxels, which lack neighbours,
    are left out. NaN on grids of fewer than three voxels along an axis.
    """
    fields = as_fields(field)
    if min(fields.shape[2:]) < 3:
        return NAN
    inner = (slice(None), *(slice(1, -1),) * (fields.ndim - 2))
    inside = as_mask(mask, fields)[inner]
    count = int(inside.sum())
    if not count:
        return NAN
    simplex = 6 if fields.ndim == 5 else 2  # a determinant is this many times the volume of its simplex
    negative = 0.0
    rows = max(1, SLAB_VOXELS // inside[0, 0].numel())
    for start in range(0, inside.shape[1], rows):
        part = inside[:, start : start + rows]
        for determinant in simplex_determinants(fields[:, :, start : start + rows + 2]):
            negative += float((-determinant).clamp(min=0)[part].double().sum())
    return 100 * negative / (2 * simplex) / count


def _alike(first: ArrayOrTensor, second: ArrayOrTensor) -> tuple[Tensor, Tensor]:
    one, other = as_fields(first), as_fields(second)
    if one.shape != other.shape:
        raise GeometryError(f"fields of shape {tuple(one.shape)} and {tuple(other.shape)} cannot be compared: bring both onto the fixed grid first.")
    return one, other.to(one.device)


def _mean_length(difference: Tensor, spacing: Sequence[float] | None, inside: Tensor) -> float:
    if spacing is not None:
        difference = difference * spacing_column(spacing, difference)
    lengths = difference.norm(dim=1)[inside]
    return float(lengths.double().mean()) if lengths.numel() else NAN


def as_fields(field: ArrayOrTensor) -> Tensor:
    """A field (ndim, *spatial) or (B, ndim, *spatial) as a float32 batch on its own device.

    Raises
    ------
    GeometryError
        If it is neither.
    """
    tensor = field.detach() if is_tensor(field) else torch.from_numpy(np.ascontiguousarray(field))
    if tensor.ndim in (3, 4) and tensor.shape[0] == tensor.ndim - 1:
        tensor = tensor[None]
    if tensor.ndim not in (4, 5) or tensor.shape[1] != tensor.ndim - 2:
        raise GeometryError(f"a displacement field is (ndim, *spatial) or (B, ndim, *spatial), found shape {tuple(tensor.shape)}.")
    return tensor.float()


def as_mask(mask: ArrayOrTensor | None, field: Tensor) -> Tensor:
    """Voxels that count, boolean (B, *spatial); all of them without a mask. A mask may have leading axes of length 1.

    Raises
    ------
    GeometryError
        If the mask lies on another grid than the field.
    """
    spatial = tuple(field.shape[2:])
    if mask is None:
        return torch.ones((field.shape[0], *spatial), dtype=torch.bool, device=field.device)
    tensor = torch.as_tensor(as_numpy(mask) != 0, device=field.device)
    if tuple(tensor.shape[-len(spatial) :]) != spatial or math.prod(tensor.shape[: -len(spatial)]) not in (1, field.shape[0]):
        raise GeometryError(f"a mask of shape {tuple(tensor.shape)} does not lie on the field's grid {spatial}.")
    return tensor.reshape(-1, *spatial).expand(field.shape[0], *spatial)


def spacing_column(spacing: Sequence[float], field: Tensor) -> Tensor:
    """Spacing (mm, array axis order) as (1, ndim, 1, ...), to turn components into mm."""
    ndim = field.shape[1]
    if len(spacing) != ndim:
        raise GeometryError(f"a field with {ndim} components needs {ndim} spacings, found {len(spacing)}.")
    return torch.tensor(tuple(spacing), dtype=torch.float32, device=field.device).reshape(1, ndim, *(1,) * ndim)
