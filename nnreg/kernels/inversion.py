"""Inverse of a displacement field: coarse to fine fixed point iteration (Chen et al. 2008), so that few iterations are left for the full grid."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nnreg.kernels import volumes
from nnreg.kernels.volumes import block_means

Floats = npt.NDArray[np.float32]
TOLERANCE = 0.01  # voxels
SETTLED_SHARE = 0.995  # stop when this share of the voxels has less than that left
SHORTEST_STEP = np.float32(0.1)  # enough for maps that expand twentyfold along an axis
ITERATIONS = 40
COARSE_VOXELS = 300_000


def inverted_volume(field: Floats) -> Floats:
    """The field v with ``v(x) + u(x + v(x)) = 0`` of a field u (N, D, H, W), voxels."""
    shape = field.shape[1:]
    components = len(field)
    factors = tuple(2 if size >= 16 else 1 for size in shape)
    if np.prod(shape) > COARSE_VOXELS and max(factors) > 1:
        window = (slice(None), *(slice(0, size // factor * factor) for size, factor in zip(shape, factors, strict=True)))
        own = np.asarray(factors[3 - components :], np.float32).reshape(-1, 1, 1, 1)
        coarse = inverted_volume(np.ascontiguousarray(block_means(field[window], factors) / own))
        matrix = np.zeros((3, 4), np.float32)
        for axis, factor in enumerate(factors):
            matrix[axis, axis], matrix[axis, 3] = 1 / factor, (1 / factor - 1) / 2
        start = volumes.sample(coarse, shape=(shape[0], shape[1], shape[2]), matrix=matrix) * own
    else:
        start = -field
    return _iterated(field, np.ascontiguousarray(start))


def _iterated(field: Floats, result: Floats) -> Floats:
    left = volumes.sample(field, result)
    left += result
    length = np.sqrt((left**2).sum(axis=0))
    step = np.ones_like(length)
    for _ in range(ITERATIONS):
        if float(np.quantile(length[::2, ::2, ::2], SETTLED_SHARE)) < TOLERANCE:
            break
        result -= step * left
        volumes.sample(field, result, out=left)
        left += result
        before, length = length, np.sqrt((left**2).sum(axis=0))
        # where the map expands to more than twice the size the full step swings ever wider: shorter ones converge
        np.maximum(np.where(length > 0.9 * before, np.float32(0.5) * step, step), SHORTEST_STEP, out=step)
    return result
