"""How much a field bends the image: first differences (diffusion, elastic), second differences (bending), and folds."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nnreg.errors import ConfigurationError
from nnreg.geometry.fields import check_field
from nnreg.geometry.simplices import simplex_determinants
from nnreg.losses.base import LOSSES, full_precision

SLAB_VOXELS = 2**18


@LOSSES.register("diffusion")
class Diffusion(nn.Module):
    """Mean size of the forward differences of the displacement, averaged over axes and components.

    Parameters
    ----------
    norm
        ``l2`` squares the differences, ``l1`` takes their magnitude.
    """

    kind = "regularisation"
    splits_over_ranks = True

    def __init__(self, norm: Literal["l1", "l2"] = "l2") -> None:
        super().__init__()
        if norm not in ("l1", "l2"):
            raise ConfigurationError(f"the norm of diffusion must be 'l1' or 'l2', found {norm!r}.")
        self.norm = norm

    def forward(self, field: Tensor, spacing: Sequence[float] | None = None) -> Tensor:
        """Loss of a field (B, ndim, *spatial) in voxels; with `spacing` (mm, array axis order) of its gradient in mm per mm.

        An axis of one voxel has no difference and is left out.
        """
        with torch.autocast(device_type=field.device.type, enabled=False):
            values, steps = in_mm(field, spacing)
            terms = [_difference(values, axis) / step for axis, step in enumerate(steps, start=2) if values.shape[axis] > 1]
            sizes = [term.square().mean() if self.norm == "l2" else term.abs().mean() for term in terms]
            return torch.stack(sizes).mean() if sizes else values.sum() * 0.0


@LOSSES.register("bending")
class Bending(nn.Module):
    """Mean bending energy: the squares of all second derivatives of the displacement (Rueckert et al. 1999), mixed ones twice.

    Affine maps cost nothing, which suits images that were not aligned before.
    """

    kind = "regularisation"
    splits_over_ranks = True

    def forward(self, field: Tensor, spacing: Sequence[float] | None = None) -> Tensor:
        """Loss of a field (B, ndim, *spatial) in voxels; with `spacing` (mm, array axis order) in mm per square mm.

        A derivative whose axis is too short for it is left out.
        """
        with torch.autocast(device_type=field.device.type, enabled=False):
            values, steps = in_mm(field, spacing)
            total = values.sum() * 0.0
            for axis, step in enumerate(steps, start=2):
                if values.shape[axis] < 2:
                    continue
                first = _difference(values, axis) / step
                if first.shape[axis] > 1:
                    total = total + (_difference(first, axis) / step).square().mean()
                for other in range(axis + 1, values.ndim):
                    if first.shape[other] > 1:
                        total = total + 2.0 * (_difference(first, other) / steps[other - 2]).square().mean()
            return total


@LOSSES.register("elastic")
class Elastic(nn.Module):
    """Mean linear elastic energy: ``shear / 4 sum_ij (d_i u_j + d_j u_i)^2 + compression / 2 (div u)^2`` (Broit 1981). Small rotations cost nothing.

    Parameters
    ----------
    shear, compression
        Lame's constants mu and lambda.
    """

    kind = "regularisation"
    splits_over_ranks = True

    def __init__(self, shear: float = 1.0, compression: float = 1.0) -> None:
        super().__init__()
        if shear < 0 or compression < 0 or shear + compression <= 0:
            raise ConfigurationError(f"elastic needs shear and compression >= 0, not both 0, found {shear} and {compression}.")
        self.shear, self.compression = shear, compression

    def forward(self, field: Tensor, spacing: Sequence[float] | None = None) -> Tensor:
        """Loss of a field (B, ndim, *spatial) in voxels; with `spacing` (mm, array axis order) of its gradient in mm per mm.

        An axis of one voxel has no difference and is left out.
        """
        with torch.autocast(device_type=field.device.type, enabled=False):
            values, steps = in_mm(field, spacing)
            axes = [axis for axis in range(values.shape[1]) if values.shape[axis + 2] > 1]
            if not axes:
                return values.sum() * 0.0
            # all forward differences at the same voxels: those that have a neighbour along every axis
            inner = tuple(slice(0, size - 1) if size > 1 else slice(None) for size in values.shape[2:])
            gradient = {axis: _difference(values, axis + 2)[(slice(None), slice(None), *_other(inner, axis))] / steps[axis] for axis in axes}
            total = values.sum() * 0.0
            for one in axes:
                for other in axes:
                    total = total + self.shear / 4 * (gradient[one][:, other] + gradient[other][:, one]).square().mean()
            divergence = torch.stack([gradient[axis][:, axis] for axis in axes]).sum(dim=0)
            return total + self.compression / 2 * divergence.square().mean()


@LOSSES.register("ndv")
class NonDiffeomorphicVolume(nn.Module):
    """Share of the volume that the map turns inside out (Liu et al., IJCV 2024): a hundredth of :func:`nnreg.metrics.non_diffeomorphic_volume`.

    Zero, with a zero gradient, on a map without folds. The outermost voxels, which lack neighbours, are left out; spacing does not matter.

    Parameters
    ----------
    margin
        Determinants below this count by how far below they are; 0 is the volume itself, a little more keeps away from folding.
    """

    kind = "regularisation"
    splits_over_ranks = True

    def __init__(self, margin: float = 0.0) -> None:
        super().__init__()
        if margin < 0:
            raise ConfigurationError(f"ndv needs margin >= 0, found {margin}.")
        self.margin = margin

    def forward(self, field: Tensor, spacing: Sequence[float] | None = None) -> Tensor:
        """Loss of a field (B, ndim, *spatial) in voxels."""
        values, _ = in_mm(field, None)
        if min(values.shape[2:]) < 3:
            return values.sum() * 0.0
        with torch.autocast(device_type=field.device.type, enabled=False):
            total: Tensor = _FoldedVolume.apply(values, self.margin)
        return total


class _FoldedVolume(torch.autograd.Function):
    """Value and gradient slab by slab: the ten determinants of a volume and what their derivatives need would be hundreds of maps."""

    @staticmethod
    def forward(ctx: Any, field: Tensor, margin: float) -> Tensor:
        gradient, total = torch.zeros_like(field, memory_format=torch.contiguous_format), field.new_zeros(())
        inner = field.shape[2] - 2
        rows = max(1, SLAB_VOXELS // field[0, 0, 0].numel() // len(field))
        for start in range(0, inner, rows):
            part = slice(start, min(start + rows, inner) + 2)
            with torch.enable_grad():
                slab = field.detach()[:, :, part].clone().requires_grad_()
                value = torch.stack([(margin - determinant).clamp(min=0).sum() for determinant in simplex_determinants(slab)]).sum()
            gradient[:, :, part] += torch.autograd.grad(value, slab)[0]
            total += value.detach()
        voxels = len(field) * prod(size - 2 for size in field.shape[2:])
        # a determinant is this many times the volume of its simplex; half of each of the two splits is counted
        scale = 1 / (2 * (6 if field.shape[1] == 3 else 2) * voxels)
        ctx.save_for_backward(gradient.mul_(scale))
        return total * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0], None


def _other(inner: tuple[slice, ...], axis: int) -> tuple[slice, ...]:
    """`inner` along all axes but `axis`."""
    return tuple(slice(None) if other == axis else part for other, part in enumerate(inner))


def _difference(values: Tensor, axis: int) -> Tensor:
    last = values.shape[axis] - 1
    return values.narrow(axis, 1, last) - values.narrow(axis, 0, last)


def in_mm(field: Tensor, spacing: Sequence[float] | None) -> tuple[Tensor, tuple[float, ...]]:
    """The field with component k in the unit of axis k's spacing, and the spacing (1 where none is given)."""
    ndim = check_field(field)
    values = full_precision(field)
    if spacing is None:
        return values, (1.0,) * ndim
    if len(spacing) != ndim or min(spacing) <= 0:
        raise ConfigurationError(f"a field of {ndim} axes needs {ndim} positive spacings, found {tuple(spacing)}.")
    return values * torch.tensor(list(spacing), dtype=values.dtype, device=values.device).reshape(1, ndim, *(1,) * ndim), tuple(spacing)
