"""How much a field bends the image: first differences (diffusion) and second differences (bending)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from nnreg.errors import ConfigurationError
from nnreg.geometry.fields import check_field
from nnreg.losses.base import LOSSES, full_precision


@LOSSES.register("diffusion")
class Diffusion(nn.Module):
    """Mean size of the forward differences of the displacement, averaged over axes and components.

    Parameters
    ----------
    norm
        ``l2`` squares the differences, ``l1`` takes their magnitude.
    """

    kind = "regularisation"

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
            values, steps = _in_mm(field, spacing)
            terms = [_difference(values, axis) / step for axis, step in enumerate(steps, start=2) if values.shape[axis] > 1]
            sizes = [term.square().mean() if self.norm == "l2" else term.abs().mean() for term in terms]
            return torch.stack(sizes).mean() if sizes else values.sum() * 0.0


@LOSSES.register("bending")
class Bending(nn.Module):
    """Mean bending energy: the squares of all second derivatives of the displacement (Rueckert et al. 1999), mixed ones twice.

    Affine maps cost nothing, which suits images that were not aligned before.
    """

    kind = "regularisation"

    def forward(self, field: Tensor, spacing: Sequence[float] | None = None) -> Tensor:
        """Loss of a field (B, ndim, *spatial) in voxels; with `spacing` (mm, array axis order) in mm per square mm.

        A derivative whose axis is too short for it is left out.
        """
        with torch.autocast(device_type=field.device.type, enabled=False):
            values, steps = _in_mm(field, spacing)
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


def _difference(values: Tensor, axis: int) -> Tensor:
    last = values.shape[axis] - 1
    return values.narrow(axis, 1, last) - values.narrow(axis, 0, last)


def _in_mm(field: Tensor, spacing: Sequence[float] | None) -> tuple[Tensor, tuple[float, ...]]:
    """The field with component k in the unit of axis k's spacing, and the spacing (1 where none is given)."""
    ndim = check_field(field)
    values = full_precision(field)
    if spacing is None:
        return values, (1.0,) * ndim
    if len(spacing) != ndim or min(spacing) <= 0:
        raise ConfigurationError(f"a field of {ndim} axes needs {ndim} positive spacings, found {tuple(spacing)}.")
    return values * torch.tensor(list(spacing), dtype=values.dtype, device=values.device).reshape(1, ndim, *(1,) * ndim), tuple(spacing)
