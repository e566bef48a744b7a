"""Grids of a pyramid of any size, exactly aligned.

Voxel i of a level lies at voxel ``stride * i`` of the finer one: that is where a strided convolution with odd kernel is centred. A level
therefore has ``ceil((size - 1) / stride) + 1`` voxels, so that it covers the finer one, at most one stride past its end. Padding every
image to a multiple of 16 and pretending that corners coincide would shift a coarse field by up to a voxel of the coarse level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as nnf

from nnreg.geometry import resize_field, warp


def coarser_shape(shape: Sequence[int], stride: Sequence[int]) -> tuple[int, ...]:
    """Size of the next level."""
    return tuple(math.ceil((size - 1) / step) + 1 for size, step in zip(shape, stride))


def pad_for(features: Tensor, stride: Sequence[int]) -> Tensor:
    """Repeat the last voxels of (B, C, *spatial) so that a convolution of this stride returns :func:`coarser_shape`."""
    shape = features.shape[2:]
    missing = [(coarse - 1) * step + 1 - size for coarse, step, size in zip(coarser_shape(shape, stride), stride, shape)]
    if not any(missing):
        return features
    return nnf.pad(features, [side for extra in reversed(missing) for side in (0, extra)], mode="replicate")


def finer_field(field: Tensor, stride: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Bring a field (B, ndim, *coarse) to the finer level of size `shape`, values in its voxels."""
    covered = [(size - 1) * step + 1 for size, step in zip(field.shape[2:], stride)]
    resized = resize_field(field, covered)
    for axis, size in enumerate(shape, start=2):
        resized = resized.narrow(axis, 0, size)
    return resized


def corner_aligned(field: Tensor, stride: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Resample a level's field so that its outermost voxels coincide with those of the input.

    Parameters
    ----------
    field : Tensor, shape (B, ndim, *coarse)
    stride
        From the input to the level, per axis.
    shape
        Of the input.

    Returns
    -------
    Tensor, same shape, in the voxels of its new grid (the convention of ``geometry.resize_field``)
    """
    ndim = len(shape)
    # share of the level's extent that the input fills; exactly 1 for sizes k * stride + 1
    ratios = [(size - 1) / (step * (coarse - 1)) if coarse > 1 else 1.0 for size, step, coarse in zip(shape, stride, field.shape[2:])]
    if all(ratio == 1.0 for ratio in ratios):
        return field
    spans = [torch.arange(coarse, dtype=torch.float32, device=field.device) * (ratio - 1.0) for ratio, coarse in zip(ratios, field.shape[2:])]
    inwards = torch.stack(torch.meshgrid(*spans, indexing="ij")).expand(field.shape[0], -1, *(-1,) * ndim)
    scale = torch.tensor(ratios, device=field.device).reshape(1, ndim, *(1,) * ndim)
    return warp(field, inwards) / scale
