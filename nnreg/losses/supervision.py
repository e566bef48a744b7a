"""What a field is held against besides images: a true field, the field back, corresponding points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from nnreg.errors import ConfigurationError
from nnreg.geometry.fields import check_field, compose, identity_grid
from nnreg.losses.base import LOSSES, full_precision, masked
from nnreg.losses.ranks import mean_over_ranks
from nnreg.losses.regularization import in_mm

Norm = Literal["l2", "squared"]


def _check_norm(name: str, norm: str) -> None:
    if norm not in ("l2", "squared"):
        raise ConfigurationError(f"the norm of {name} must be 'l2' (mean length) or 'squared' (mean square), found {norm!r}.")


def _sizes(difference: Tensor, axis: int, norm: str) -> Tensor:
    squares = difference.square().sum(dim=axis)
    # the root of zero has no gradient: what is right already takes a one in its place and counts 0
    return squares if norm == "squared" else torch.where(squares > 0, torch.where(squares > 0, squares, 1.0).sqrt(), 0.0)


def _mean_size(difference: Tensor, inside: Tensor | None, norm: str) -> Tensor:
    """Mean length (or its square) of vectors (B, ndim, *spatial) where `inside` (B, 1, *spatial) is true."""
    sizes = _sizes(masked(difference, inside), 1, norm)
    count = sizes.numel() if inside is None else inside.sum()
    return mean_over_ranks(sizes.sum() / (count if isinstance(count, int) else count.clamp(min=1)), count)


@LOSSES.register("dvf")
class TrueField(nn.Module):
    """Distance of a field from the true one, in mm with `spacing`.

    Parameters
    ----------
    norm
        ``squared``: mean squared length of the difference. ``l2``: mean length, the end-point error.
    """

    kind = "true_field"
    splits_over_ranks = True

    def __init__(self, norm: Norm = "squared") -> None:
        super().__init__()
        _check_norm("dvf", norm)
        self.norm = norm

    def forward(self, field: Tensor, truth: Tensor, spacing: Sequence[float] | None = None, mask: Tensor | None = None) -> Tensor:
        """Loss of fields (B, ndim, *spatial) in voxels, over the voxels where `mask` (B, 1, *spatial) is true."""
        if field.shape != truth.shape:
            raise ConfigurationError(f"dvf: the field {tuple(field.shape)} and the true one {tuple(truth.shape)} must have one shape.")
        inside = None if mask is None else mask.bool()
        with torch.autocast(device_type=field.device.type, enabled=False):
            difference = masked(full_precision(field) - full_precision(truth), inside)
            return _mean_size(in_mm(difference, spacing)[0], inside, self.norm)


@LOSSES.register("inverse_consistency")
class InverseConsistency(nn.Module):
    """How far a voxel is from where it started after going forth and back, in mm with `spacing`. What leaves the grid does not count: nothing is known there.

    Parameters
    ----------
    norm
        ``squared`` or ``l2`` (mean length).
    """

    kind = "inverse_consistency"
    splits_over_ranks = True

    def __init__(self, norm: Norm = "squared") -> None:
        super().__init__()
        _check_norm("inverse_consistency", norm)
        self.norm = norm

    def forward(self, field: Tensor, backward: Tensor, spacing: Sequence[float] | None = None, mask: Tensor | None = None) -> Tensor:
        """Loss of a field and the field back (B, ndim, *spatial) in voxels, over the voxels where `mask` (B, 1, *spatial) is true."""
        check_field(field)
        if field.shape != backward.shape:
            raise ConfigurationError(f"inverse_consistency: fields {tuple(field.shape)} and {tuple(backward.shape)} must have one shape.")
        with torch.autocast(device_type=field.device.type, enabled=False):
            forth, back = full_precision(field), full_precision(backward)
            position = identity_grid(forth.shape[2:], forth.device) + forth.detach()
            last = torch.tensor([size - 1 for size in forth.shape[2:]], device=forth.device).reshape(1, -1, *(1,) * (forth.ndim - 2))
            inside = ((position >= 0) & (position <= last)).all(dim=1, keepdim=True)
            if mask is not None:
                inside = inside & mask.bool()
            return _mean_size(in_mm(compose(back, forth), spacing)[0], inside, self.norm)


@LOSSES.register("keypoints")
class Keypoints(nn.Module):
    """Mean distance of mapped fixed points from the moving points they belong to (target registration error), mm.

    Parameters
    ----------
    norm
        ``l2``: mean distance. ``squared``: mean squared distance, on which the worst points weigh more.
    """

    kind = "keypoints"
    splits_over_ranks = True

    def __init__(self, norm: Norm = "l2") -> None:
        super().__init__()
        _check_norm("keypoints", norm)
        self.norm = norm

    def forward(self, mapped: Tensor, target: Tensor) -> Tensor:
        """Loss of points (B, N, ndim) in mm; a pair of points of which a coordinate is NaN is not there."""
        if mapped.shape != target.shape:
            raise ConfigurationError(f"keypoints: {tuple(mapped.shape)} mapped points and {tuple(target.shape)} targets. Points must correspond one to one.")
        with torch.autocast(device_type=mapped.device.type, enabled=False):
            difference = full_precision(mapped) - full_precision(target)
            present = difference.isfinite().all(dim=-1, keepdim=True)
            sizes = _sizes(torch.where(present, difference, 0.0), -1, self.norm)
            return mean_over_ranks(sizes.sum() / present.sum().clamp(min=1), present.sum())
