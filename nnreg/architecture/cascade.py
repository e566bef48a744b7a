"""A network that goes on from the field of another one, which was trained on a coarser grid."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nnreg.architecture.backbone import sampled_along_axes
from nnreg.geometry import compose, resize_field, warp
from nnreg.geometry.fields import constant

BLUR_REACH = 3.0  # standard deviations


class Cascade(nn.Module):
    """``network(fixed=..., moving=...) -> [field, half, quarter, ...]``: the second network's fields, composed with the first one's.

    The first network sees both images on its own grid and is not trained. The second one sees the moving image as the first left it.

    Parameters
    ----------
    first, second
        Registration networks.
    coarse : voxels
        Grid of the first one. Both grids have one centre.
    step
        Size of its voxels in voxels of the images, per axis.
    """

    def __init__(self, first: nn.Module, second: nn.Module, *, coarse: Sequence[int], step: Sequence[float]) -> None:
        super().__init__()
        self.stage_before, self.second = first.requires_grad_(False), second
        self.coarse, self.step = tuple(coarse), tuple(step)
        self.stage_before.deep_supervision = False  # type: ignore[assignment]

    @property
    def field_count(self) -> int | None:
        """How many fields a call returns; None if the second network does not say."""
        return getattr(self.second, "field_count", None)

    def train(self, mode: bool = True) -> Cascade:
        """The first network always predicts."""
        super().train(mode)
        self.stage_before.eval()
        return self

    def forward(self, *, fixed: Tensor, moving: Tensor) -> list[Tensor]:
        """Fields that warp `moving` (B, C, *spatial) onto `fixed` (same shape)."""
        start = self.start(fixed, moving)
        return [compose(resize_field(start, field.shape[2:]), field) for field in self.second(fixed=fixed, moving=warp(moving, start))]

    @torch.no_grad()
    def start(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """The first network's field (B, ndim, *spatial), voxels of the images."""
        fine = tuple(fixed.shape[2:])
        images = torch.cat([fixed, moving]).float()
        for axis, step in enumerate(self.step):
            images = _blurred(images, axis + 2, math.sqrt(max(step**2 - 1, 0) / 12))  # as preprocessing smooths for a coarser grid
        there = [_centred(size, count, step, fixed.device) for size, count, step in zip(self.coarse, fine, self.step, strict=True)]
        seen = sampled_along_axes(images, there)
        field = self.stage_before(fixed=seen[: len(fixed)], moving=seen[len(fixed) :])[0].float()
        back = [_centred(count, size, 1 / step, fixed.device) for size, count, step in zip(self.coarse, fine, self.step, strict=True)]
        return sampled_along_axes(field, back) * constant(self.step, fixed.device).reshape(1, -1, *(1,) * len(fine))


def _centred(count: int, size: int, step: float, device: torch.device) -> Tensor:
    """Positions of `count` voxels `step` apart, in voxels of an axis of `size` with the same centre; those beyond it are at its ends."""
    steps = torch.arange(count, dtype=torch.float32, device=device) - (count - 1) / 2
    return (steps * step + (size - 1) / 2).clamp(0, size - 1)


def _blurred(images: Tensor, axis: int, sigma: float) -> Tensor:
    """A Gaussian along one axis, the last voxels repeated beyond the ends."""
    reach = math.ceil(BLUR_REACH * sigma)
    if not reach:
        return images
    size = images.shape[axis]
    weights = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-reach, reach + 1)]
    places = torch.arange(size, device=images.device)
    shifted = (weight * images.index_select(axis, (places + offset).clamp(0, size - 1)) for offset, weight in zip(range(-reach, reach + 1), weights))
    return torch.stack(list(shifted)).sum(dim=0) / sum(weights)
