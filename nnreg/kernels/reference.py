"""What the fused kernels compute, written plainly in torch: differentiable, any float type, any device. Slow; tests hold the kernels against it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as nnf


def box_sum(values: Tensor, radii: Sequence[int]) -> Tensor:
    """Sums over centred boxes of (..., D, H, W), zero outside."""
    for axis, radius in zip((-3, -2, -1), radii, strict=True):
        moved = values.movedim(axis, -1)
        padded = nnf.pad(moved, (radius, radius))
        values = padded.unfold(-1, 2 * radius + 1, 1).sum(-1).movedim(-1, axis)
    return values


def correlation(
    fixed: Tensor,
    warped: Tensor,
    radii: Sequence[int],
    *,
    floor: float,
    other_floor: float | None = None,
    mask: Tensor | None = None,
    signed: bool = False,
) -> Tensor:
    """Mean squared (or signed) local correlation of (D, H, W) volumes over windows that count only what lies inside the volume and `mask`."""
    inside = torch.ones_like(fixed) if mask is None else (mask > 0).to(fixed.dtype)
    count = box_sum(inside, radii).clamp(min=1)
    fixed, warped = (torch.where(inside > 0, image, 0) for image in (fixed, warped))
    mean_fixed, mean_warped = box_sum(fixed, radii) / count, box_sum(warped, radii) / count
    cross = box_sum(fixed * warped, radii) - count * mean_fixed * mean_warped
    variance_fixed = box_sum(fixed**2, radii) - count * mean_fixed**2
    variance_warped = box_sum(warped**2, radii) - count * mean_warped**2
    product = variance_fixed.clamp(min=floor) * variance_warped.clamp(min=floor if other_floor is None else other_floor)
    scores = cross / product.sqrt() if signed else cross**2 / product
    return (scores * inside).sum() / inside.sum().clamp(min=1)


def sample(image: Tensor, field: Tensor, matrix: Tensor | None = None) -> Tensor:
    """``image(matrix (x + field(x)))``: image (C, D, H, W), field (2 or 3, D', H', W'), border values outside."""
    shape = field.shape[1:]
    axes = torch.meshgrid(*[torch.arange(size, dtype=field.dtype, device=field.device) for size in shape], indexing="ij")
    position = torch.stack(axes)
    position = torch.cat([position[: 3 - len(field)], position[3 - len(field) :] + field])
    if matrix is not None:
        position = torch.einsum("ij,j...->i...", matrix[:, :3], position) + matrix[:, 3].reshape(3, 1, 1, 1)
    sizes = torch.tensor(image.shape[1:], dtype=field.dtype, device=field.device).reshape(3, 1, 1, 1)
    grid = (position * (2 / (sizes - 1).clamp(min=1)) - 1).flip(0).movedim(0, -1)
    return nnf.grid_sample(image[None], grid[None], mode="bilinear", padding_mode="border", align_corners=True)[0]


def compose(outer: Tensor, inner: Tensor, scale: float = 1.0) -> Tensor:
    """Field of the map that applies ``scale inner`` first, then `outer`; fields (2 or 3, D, H, W) on one grid."""
    return scale * inner + sample(outer, scale * inner)


def smooth(volume: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Separable filter of (C, D, H, W), border values continued outside."""
    for axis, taps in zip((1, 2, 3), weights, strict=True):
        radius = len(taps) // 2
        index = torch.arange(-radius, volume.shape[axis] + radius, device=volume.device).clamp(0, volume.shape[axis] - 1)
        padded = volume.index_select(axis, index)
        volume = (padded.unfold(axis, len(taps), 1) * taps.to(volume.dtype)).sum(-1)
    return volume


def force(gradient: Tensor, warped: Tensor, components: int) -> Tensor:
    """``sum_i gradient_i grad(warped_i)`` by central differences, 0 across a border: (components, D, H, W)."""
    parts = []
    for axis in range(4 - components, 4):
        slope = torch.zeros_like(warped)
        size = warped.shape[axis]
        if size > 2:
            slope.narrow(axis, 1, size - 2).copy_((warped.narrow(axis, 2, size - 2) - warped.narrow(axis, 0, size - 2)) / 2)
        parts.append((gradient * slope).sum(0))
    return torch.stack(parts)
