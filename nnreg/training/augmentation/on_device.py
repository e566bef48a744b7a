"""Affine maps of images and labels that lie on a GPU: what the compiled loops do on a CPU, in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as nnf

from nnreg.arrays import Doubles


def is_compiled(tensor: Tensor) -> bool:
    """Whether the compiled loops can work on a tensor: it lies in the computer's memory."""
    return tensor.device.type == "cpu"


def sample_linear(image: Tensor, matrix: Doubles) -> Tensor:
    """``image(matrix x)`` on the image's own grid, linear, border values outside.

    Parameters
    ----------
    image : Tensor, shape (C, *spatial), float32
    matrix : array, shape (ndim+1, ndim+1), voxels, array axis order
    """
    theta = torch.from_numpy(_normalised(matrix, image.shape[1:])).float().to(image.device, non_blocking=True)
    grid = nnf.affine_grid(theta[None], [1, *image.shape], align_corners=True)
    return nnf.grid_sample(image[None], grid, mode="bilinear", padding_mode="border", align_corners=True)[0]


def _normalised(matrix: Doubles, shape: Sequence[int]) -> Doubles:
    """The map (ndim, ndim+1) between positions from -1 to 1, x first, as torch has them."""
    n = len(shape)
    half = (np.asarray(shape, dtype=float) - 1) / 2
    to_voxels, from_voxels = np.eye(n + 1), np.eye(n + 1)
    to_voxels[range(n), range(n)], to_voxels[:n, n] = half, half
    inverse = np.divide(1.0, half, out=np.zeros(n), where=half > 0)  # an axis of one voxel has no extent
    from_voxels[range(n), range(n)], from_voxels[:n, n] = inverse, -1.0
    found = from_voxels @ matrix @ to_voxels
    return np.ascontiguousarray(np.concatenate([found[:n, :n][::-1, ::-1], found[:n, n:][::-1]], axis=1))


def sample_nearest(labels: Tensor, matrix: Doubles) -> Tensor:
    """``labels[:, round(matrix x)]`` on their own grid, 0 outside; the dtype stays. A half is rounded up, as on a CPU.

    Parameters
    ----------
    labels : Tensor, shape (C, *spatial)
    matrix : array, shape (ndim+1, ndim+1), voxels, array axis order
    """
    shape, device = tuple(labels.shape[1:]), labels.device
    n = len(shape)
    kind = torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs have no double precision
    axes = [torch.arange(size, dtype=kind, device=device).reshape([-1 if axis == other else 1 for other in range(n)]) for axis, size in enumerate(shape)]
    index, inside = torch.zeros((), dtype=torch.int64, device=device), torch.ones((), dtype=torch.bool, device=device)
    for axis, size in enumerate(shape):
        # added in the order of the compiled loop, so that both round alike
        position = float(matrix[axis, 0]) * axes[0]
        for other in range(1, n - 1):
            position = position + float(matrix[axis, other]) * axes[other]
        position = (position + float(matrix[axis, n]) + 0.5) + float(matrix[axis, n - 1]) * axes[n - 1]
        nearest = position.floor().long()
        inside = inside & (nearest >= 0) & (nearest < size)
        index = index * size + nearest.clamp_(0, size - 1)
    found = labels.reshape(len(labels), -1)[:, index.reshape(-1)].reshape(labels.shape)
    return torch.where(inside, found, torch.zeros((), dtype=labels.dtype, device=device))
