"""Inverse of a displacement field: coarse to fine fixed point iteration (Chen et al. 2008), so that few iterations are left for the full grid."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nnreg.kernels import volumes
from nnreg.kernels.volumes import block_means

Floats = npt.NDArray[np.float32]
TOLERANCE = 0.02  # voxels: stop when the 99th percentile of what is left is below
ITERATIONS = 30
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
    sampled = np.empty_like(field)
    relaxation, before = np.float32(1.0), np.inf
    for _ in range(ITERATIONS):
        volumes.sample(field, result, out=sampled)
        sampled += result
        left = float(np.quantile(np.sqrt((sampled[:, ::2, ::2, ::2] ** 2).sum(axis=0)), 0.99))
        if left < TOLERANCE:
            break
        if left > 0.9 * before:
            # where the map compresses strongly the full step swings between two values
            relaxation = max(np.float32(0.3), relaxation * np.float32(0.7))
        before = left
        sampled *= relaxation
        result -= sampled
    return result
