"""Displacement fields: how regular they are, and how far from the truth or from their inverse.

A field is ``(ndim, *spatial)`` or ``(B, ndim, *spatial)``, voxels, component k along array axis k; a mask is ``(*spatial)`` with any leading
axes of length 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nnreg.errors import GeometryError
from nnreg.geometry import compose, identity_grid, jacobian_determinant
from nnreg.geometry.simplices import simplex_determinants
from nnreg.metrics.arrays import ArrayOrTensor, as_fields, as_mask, spacing_column

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


def sdlogj(field: ArrayOrTensor, mask: ArrayOrTensor | None = None) -> float:
    """Standard deviation of the logarithm of the Jacobian determinant, over voxels where it is positive.

    Central differences, one-sided on the border. Folded voxels have no logarithm: :func:`folding_percent` counts them. NaN on a grid of
    one slice, or if every voxel folds.
    """
    fields = as_fields(field)
    if min(fields.shape[2:]) < 2:
        return NAN
    determinant = jacobian_determinant(fields)[as_mask(mask, fields)].double()
    return _deviation(determinant[determinant > 0].log())


def sdlogj_learn2reg(field: ArrayOrTensor, mask: ArrayOrTensor | None = None) -> float:
    """The figure that Learn2Reg's evaluation calls SDlogJ: deviation of ``log(clip(J + 3, 1e-9, 1e9))``, two voxels of border left out.

    The 3 hides mild folding and makes the figure about four times smaller than :func:`sdlogj`; only compare it with itself. NaN on grids of
    fewer than five voxels along an axis.
    """
    fields = as_fields(field)
    if min(fields.shape[2:]) < 5:
        return NAN
    inner = (slice(None), *(slice(2, -2),) * (fields.ndim - 2))
    determinant = jacobian_determinant(fields)[inner][as_mask(mask, fields)[inner]].double()
    return _deviation((determinant + 3).clamp(1e-9, 1e9).log())


def folding(field: ArrayOrTensor, mask: ArrayOrTensor | None = None) -> tuple[float, float]:
    """Voxels whose Jacobian determinant (central differences) is zero or negative: how many per field, and their percentage.

    The count is called NJD by others. Both are NaN on a grid of one slice.
    """
    fields = as_fields(field)
    if min(fields.shape[2:]) < 2:
        return NAN, NAN
    folded = jacobian_determinant(fields)[as_mask(mask, fields)] <= 0
    return (float(folded.sum()) / len(fields), 100 * float(folded.double().mean())) if folded.numel() else (NAN, NAN)


def folding_count(field: ArrayOrTensor, mask: ArrayOrTensor | None = None) -> float:
    """The count of :func:`folding`."""
    return folding(field, mask)[0]


def folding_percent(field: ArrayOrTensor, mask: ArrayOrTensor | None = None) -> float:
    """The percentage of :func:`folding`."""
    return folding(field, mask)[1]


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


def _deviation(values: Tensor) -> float:
    return float(values.std(correction=0)) if values.numel() else NAN
