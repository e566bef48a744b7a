"""Pairs whose true map is known, small enough to register in a second, on grids that share nothing."""

from __future__ import annotations

import numpy as np
import torch

from nnreg.geometry import AffineMap, FieldMap, Space, Transform, resample_image, resample_labels, resize, resize_field
from nnreg.imageio import Image


def textured(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """A smooth random texture inside an ellipsoid on dark ground, (1, *shape): something to see everywhere inside."""
    generator = torch.Generator().manual_seed(seed)
    texture = resize(torch.rand(1, 1, *(max(3, size // 4) for size in shape), generator=generator), shape)[0]
    axes = torch.meshgrid(*[torch.linspace(-1, 1, size) for size in shape], indexing="ij")
    radius = sum(((axis / scale) ** 2 for axis, scale in zip(axes, (0.8, 0.7, 0.75))), torch.zeros(()))
    return ((torch.sigmoid((1 - radius) * 8) * (0.3 + texture)).numpy() * 300).astype(np.float32)


def halves(shape: tuple[int, ...]) -> np.ndarray:
    """Labels 1 to 3 in the ellipsoid of :func:`textured`."""
    axes = np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij")
    radius = sum((axis / scale) ** 2 for axis, scale in zip(axes, (0.8, 0.7, 0.75)))
    return np.where(radius < 1, 1 + (axes[0] > 0) + (axes[1] > 0.1), 0).astype(np.int16)[None]


def grids(ndim: int) -> tuple[Space, Space]:
    """A fixed and a moving grid of other size, spacing, orientation and place."""
    if ndim == 2:
        fixed = Space((40, 46), (1.1, 0.9), (5.0, -3.0), (1.0, 0.0, 0.0, 1.0))
        return fixed, Space((52, 44), (0.8, 1.2), (48.0, -4.0), (-1.0, 0.0, 0.0, 1.0))
    fixed = Space((22, 30, 26), (2.0, 1.4, 1.6), (10.0, -20.0, 5.0), tuple(np.eye(3).ravel().tolist()))
    return fixed, Space((34, 26, 30), (1.3, 1.7, 1.5), (52.0, 20.0, 4.0), (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0))


def known_pair(ndim: int, largest: float = 2.5, seed: int = 0) -> tuple[Image, Image, Image, Image, Transform]:
    """Fixed, moving, their labels, and the true map from the fixed to the moving world (`largest` voxels of smooth deformation, and a small shift)."""
    fixed_space, moving_space = grids(ndim)
    array, labels = textured(moving_space.shape, seed), halves(moving_space.shape)
    generator = torch.Generator().manual_seed(seed + 1)
    field = resize_field(torch.randn(1, ndim, *(4,) * ndim, generator=generator), fixed_space.shape)[0].numpy()
    shift = np.eye(ndim + 1)
    shift[:ndim, ndim] = moving_space.centre - fixed_space.centre
    truth = Transform((FieldMap(field * np.float32(largest / np.abs(field).max()), fixed_space), AffineMap(shift)), ndim)
    fixed = resample_image(array, moving=moving_space, fixed=fixed_space, transform=truth)
    fixed_labels = resample_labels(labels, moving=moving_space, fixed=fixed_space, transform=truth)
    return Image(fixed, fixed_space), Image(array, moving_space), Image(fixed_labels, fixed_space), Image(labels, moving_space), truth


def error_voxels(found: Transform, truth: Transform, fixed: Image) -> float:
    """Mean distance of two maps inside the fixed body, voxels of the fixed grid."""
    body = fixed.array[0] > 60
    difference = found.sampled_on(fixed.space).displacement - truth.sampled_on(fixed.space).displacement
    return float(np.sqrt((difference**2).sum(axis=0))[body].mean())
