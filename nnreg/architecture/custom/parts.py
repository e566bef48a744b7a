"""Small parts that several networks of this folder share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf
from torch.utils.checkpoint import checkpoint

from nnreg.architecture.blocks import convolution


def conv(ndim: int, inputs: int, outputs: int, kernel: int | Sequence[int] = 3, *, dilation: int = 1, bias: bool = True) -> nn.Module:
    """A convolution that keeps the size; kernels are odd, and axes of kernel 1 are not dilated."""
    size = tuple(kernel) if isinstance(kernel, Sequence) else (kernel,) * ndim
    dilations = tuple(dilation if width > 1 else 1 for width in size)
    padding = tuple(step * (width // 2) for width, step in zip(size, dilations))
    return convolution(ndim)(inputs, outputs, size, padding=padding, dilation=dilations, bias=bias)  # type: ignore[arg-type]


class ConvNormReLU(nn.Sequential):
    """Convolution, instance normalisation, ReLU."""

    def __init__(self, ndim: int, inputs: int, outputs: int, kernel: int | Sequence[int] = 3, *, dilation: int = 1, bias: bool = True) -> None:
        super().__init__(conv(ndim, inputs, outputs, kernel, dilation=dilation, bias=bias), norm(ndim, outputs), nn.ReLU())


def norm(ndim: int, features: int) -> nn.Module:
    """Instance normalisation with weights: batches are of one or two pairs."""
    return (nn.InstanceNorm2d if ndim == 2 else nn.InstanceNorm3d)(features, affine=True)


def resized(features: Tensor, shape: Sequence[int]) -> Tensor:
    """Linear resize of (B, C, *spatial), voxels as blocks (their outer borders coincide, not their centres)."""
    if tuple(features.shape[2:]) == tuple(shape):
        return features
    return nnf.interpolate(features, size=tuple(shape), mode="bilinear" if features.ndim == 4 else "trilinear", align_corners=False)


def pooled(features: Tensor, stride: Sequence[int], pool_type: str) -> Tensor:
    """Largest (``max``) or mean (``avg``) value of every block of `stride` voxels; what is left over at the end is a block of its own.

    A map that would become a single voxel stays as it is: that voxel would have no statistics to be normalised by.
    """
    step = [min(by, size) for by, size in zip(stride, features.shape[2:])]
    if max(step) == 1 or all(by == size for by, size in zip(step, features.shape[2:])):
        return features
    if pool_type == "max":
        return (nnf.max_pool2d if features.ndim == 4 else nnf.max_pool3d)(features, step, ceil_mode=True)
    if features.ndim == 4:
        return nnf.avg_pool2d(features, step, ceil_mode=True, count_include_pad=False)
    return nnf.avg_pool3d(features, step, ceil_mode=True, count_include_pad=False)


def maybe_checkpointed(active: bool, function: Callable[..., Any], *tensors: Tensor) -> Any:
    """``function(*tensors)``; with `active`, what it computes on the way is not kept but computed again in the backward pass."""
    if active and torch.is_grad_enabled():
        return checkpoint(function, *tensors, use_reentrant=False)
    return function(*tensors)
