"""Local correlation of two feature maps."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from nnreg.geometry.fields import is_traced

Radii = tuple[int, int, int]
Slices = tuple[slice, ...]


def normalised(features: Tensor) -> Tensor:
    """Features (B, C, *spatial) divided by their root mean square over channels, so that a product's mean is a cosine."""
    return features * torch.rsqrt(features.square().mean(dim=1, keepdim=True) + 1e-6)


def local_correlation(fixed: Tensor, moving: Tensor, radius: int) -> Tensor:
    """Mean over channels of the product of `fixed` at a voxel and `moving` at each of its neighbours.

    Parameters
    ----------
    fixed, moving : Tensor, shape (B, C, *spatial)
        2 or 3 axes.
    radius
        Neighbours per axis and direction; beyond the border features are zero.

    Returns
    -------
    Tensor, shape (B, (2 * radius + 1) ** ndim, *spatial)
        Offsets in array order, the last axis fastest.
    """
    if fixed.device.type == "cpu" and fixed.itemsize < 4:
        fixed = fixed.float()  # the compiled kernel knows float32 alone; products in half precision took half of a training step
    moving = moving.to(fixed.dtype)  # a warp returns float32 where autocast made the features half
    products: Callable[[Tensor, Tensor, Radii], Tensor] = _by_slices if is_traced() else _Correlation.apply
    if fixed.ndim == 4:
        return products(fixed.unsqueeze(2), moving.unsqueeze(2), (0, radius, radius)).squeeze(2)
    return products(fixed, moving, (radius,) * 3)


def _by_slices(fixed: Tensor, moving: Tensor, radii: Radii) -> Tensor:
    """In torch alone."""
    result = fixed.new_zeros(fixed.shape[0], len(_offsets(radii)), *fixed.shape[2:])
    for offset, (here, there) in enumerate(_overlaps(radii, fixed.shape[2:])):
        result[:, offset : offset + 1][here] = (fixed[here] * moving[there]).mean(dim=1, keepdim=True)
    return result


class _Correlation(torch.autograd.Function):
    """No product is kept: all of them together would be the largest tensor of the network, (2r+1)^ndim times its features."""

    @staticmethod
    def forward(ctx: Any, fixed: Tensor, moving: Tensor, radii: Radii) -> Tensor:
        ctx.save_for_backward(fixed, moving)
        ctx.radii = radii
        if _compiled(fixed, moving):
            from nnreg.kernels.matching_cpu import correlate

            return correlate(fixed, moving, radii).div_(fixed.shape[1])
        return _by_slices(fixed, moving, radii)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        fixed, moving = ctx.saved_tensors
        gradient = gradients[0] / fixed.shape[1]
        if _compiled(fixed, moving):
            from nnreg.kernels.matching_cpu import correlate_backward

            return correlate_backward(gradient, moving, ctx.radii, 1), correlate_backward(gradient, fixed, ctx.radii, -1), None
        on_fixed, on_moving = torch.zeros_like(fixed), torch.zeros_like(moving)
        for offset, (here, there) in enumerate(_overlaps(ctx.radii, fixed.shape[2:])):
            share = gradient[:, offset : offset + 1][here]
            on_fixed[here].addcmul_(share, moving[there])
            on_moving[there].addcmul_(share, fixed[here])
        return on_fixed, on_moving, None


def _compiled(fixed: Tensor, moving: Tensor) -> bool:
    return fixed.device.type == "cpu" and fixed.dtype == moving.dtype == torch.float32


def _offsets(radii: Radii) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(-radius, radius + 1) for radius in radii)))


def _overlaps(radii: Radii, shape: Sequence[int]) -> Iterator[tuple[Slices, Slices]]:
    """For every offset, where it can be read and where it leads: indices of (B, C, *shape)."""
    for offset in _offsets(radii):
        here = tuple(slice(max(0, -step), max(0, min(size, size - step))) for step, size in zip(offset, shape))
        there = tuple(slice(max(0, step), max(0, min(size, size + step))) for step, size in zip(offset, shape))
        yield (slice(None), slice(None), *here), (slice(None), slice(None), *there)
