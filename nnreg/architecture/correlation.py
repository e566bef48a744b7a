"""Local correlation of two feature maps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as nnf


def correlation_offsets(shape: Sequence[int], radius: int) -> list[tuple[int, ...]]:
    """Every offset of at most `radius` voxels per axis; an axis of one voxel has only 0."""
    return list(itertools.product(*(range(-radius, radius + 1) if size > 1 else (0,) for size in shape)))


def local_correlation(fixed: Tensor, moving: Tensor, radius: int) -> Tensor:
    """Mean over channels of the product of `fixed` at a voxel and `moving` at each of its neighbours.

    Parameters
    ----------
    fixed, moving : Tensor, shape (B, C, *spatial)
    radius
        Neighbours per axis and direction; beyond the border features are zero.

    Returns
    -------
    Tensor, shape (B, (2 * radius + 1) ** ndim, *spatial)
        Offsets that do not exist (an axis of one voxel) are left out of the products but keep their channel, as zeros.
    """
    shape = fixed.shape[2:]
    padded = nnf.pad(moving, [radius, radius] * len(shape))
    channels = []
    for offset in itertools.product(range(-radius, radius + 1), repeat=len(shape)):
        shifted = padded
        for axis, (step, size) in enumerate(zip(offset, shape), start=2):
            shifted = shifted.narrow(axis, radius + step, size)
        # one product at a time: all of them together would be the largest tensor of the network
        channels.append((fixed * shifted).mean(dim=1))
    return torch.stack(channels, dim=1)
