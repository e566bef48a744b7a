"""How much a field bends the image: diffusion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from nnreg.errors import ConfigurationError
from nnreg.geometry.fields import check_field
from nnreg.losses.base import LOSSES, full_precision


def _in_mm(field: Tensor, spacing: Sequence[float] | None) -> tuple[Tensor, tuple[float, ...]]:
    """The field with component k in the unit of axis k's spacing, and that spacing (1 where none is given)."""
    ndim = check_field(field)
    values = full_precision(field)
    if spacing is None:
        return values, (1.0,) * ndim
    if len(spacing) != ndim:
        raise ConfigurationError(f"a field of {ndim} axes needs {ndim} spacings, found {tuple(spacing)}.")
    return values * torch.tensor(list(spacing), dtype=values.dtype, device=values.device).reshape(1, ndim, *(1,) * ndim), tuple(spacing)


@LOSSES.register("diffusion")
class Diffusion(nn.Module):
    """Mean size of the forward differences of the displacement, averaged over axes and components.

    Parameters
    ----------
    norm
        ``l2`` squares the differences, ``l1`` takes their magnitude.
    """

    def __init__(self, norm: Literal["l1", "l2"] = "l2") -> None:
        super().__init__()
        if norm not in ("l1", "l2"):
            raise ConfigurationError(f"the norm of diffusion must be 'l1' or 'l2', found {norm!r}.")
        self.norm = norm

    def forward(self, field: Tensor, spacing: Sequence[float] | None = None) -> Tensor:
        """Loss of a field (B, ndim, *spatial) in voxels; with `spacing` (mm, array axis order) of its gradient in mm per mm."""
        with torch.autocast(device_type=field.device.type, enabled=False):
            values, steps = _in_mm(field, spacing)
            terms = []
            for axis, step in enumerate(steps, start=2):
                if values.shape[axis] < 2:
                    continue  # nothing to difference; the mean of nothing is NaN
                difference = values.narrow(axis, 1, values.shape[axis] - 1) - values.narrow(axis, 0, values.shape[axis] - 1)
                terms.append(difference.square().mean() / step**2 if self.norm == "l2" else difference.abs().mean() / step)
            return torch.stack(terms).mean() if terms else values.sum() * 0.0
