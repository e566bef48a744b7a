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

from nnreg.errors import ConfigurationError
from nnreg.geometry import resize_field, warp
from nnreg.geometry.fields import constant


def coarser_shape(shape: Sequence[int], stride: Sequence[int]) -> tuple[int, ...]:
    """Size of the next level."""
    return tuple(math.ceil((size - 1) / step) + 1 for size, step in zip(shape, stride))


def field_stages(strides: Sequence[Sequence[int]], field_resolution: int, *, at_least: int = 1) -> tuple[int, list[tuple[int, ...]]]:
    """First stage whose stride relative to the input reaches `field_resolution` along an axis, and the strides of it and all coarser stages.

    Raises
    ------
    ConfigurationError
        If fewer than `at_least` stages are left to find the field with.
    """
    total, relative = (1,) * len(strides[0]), []
    for stride in strides:
        total = tuple(before * step for before, step in zip(total, stride))
        relative.append(total)
    finest = next((stage for stage, reached in enumerate(relative) if max(reached) >= field_resolution), len(strides))
    if field_resolution < 1 or len(strides) - finest < at_least:
        raise ConfigurationError(f"field_resolution {field_resolution} leaves {len(strides) - finest} of {len(strides)} stages, {at_least} needed: lower it.")
    return finest, relative[finest:]


def pad_for(features: Tensor, stride: Sequence[int]) -> Tensor:
    """Repeat the last voxels of (B, C, *spatial) so that a convolution of this stride returns :func:`coarser_shape`."""
    shape = features.shape[2:]
    missing = [(coarse - 1) * step + 1 - size for coarse, step, size in zip(coarser_shape(shape, stride), stride, shape)]
    if not any(missing):
        return features
    return nnf.pad(features, [side for extra in reversed(missing) for side in (0, extra)], mode="replicate")


def crop_to(features: Tensor, shape: Sequence[int]) -> Tensor:
    """The first voxels of (B, C, *spatial) along every axis."""
    for axis, size in enumerate(shape, start=2):
        features = features.narrow(axis, 0, size)
    return features


def finer_field(field: Tensor, stride: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Bring a field (B, ndim, *coarse) to the finer level of size `shape`, values in its voxels."""
    covered = [(size - 1) * step + 1 for size, step in zip(field.shape[2:], stride)]
    return crop_to(resize_field(field, covered), shape)


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
    scale = constant(tuple(ratios), field.device).reshape(1, ndim, *(1,) * ndim)
    return warp(field, inwards) / scale
