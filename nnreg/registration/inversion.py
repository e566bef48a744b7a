"""Inverse of a map with a field: coarse to fine fixed point iteration, so that few iterations are left for the full grid."""

from __future__ import annotations

import numpy as np

from nnreg.geometry import AffineMap, FieldMap, Space, Transform
from nnreg.kernels import volumes
from nnreg.registration.grids import carried
from nnreg.registration.sides import Floats, block_means

TOLERANCE = 0.02  # voxels: stop when the 99th percentile of what is left is below
ITERATIONS = 30
COARSE_VOXELS = 300_000


def inverse_transform(transform: Transform, moving: Space) -> Transform:
    """The map from the moving to the fixed world.

    Fields are inverted on their own grid widened by how far they reach, so that what they push over its border has an inverse too.
    """
    stages = tuple(
        AffineMap(np.asarray(np.linalg.inv(stage.matrix))) if isinstance(stage, AffineMap) else inverse_field(stage) for stage in reversed(transform.stages)
    )
    return Transform(stages, transform.ndim)


def inverse_field(field: FieldMap) -> FieldMap:
    """Inverse of one field on its own grid."""
    volume = field.displacement if field.ndim == 3 else field.displacement[:, None]
    inverted = inverted_volume(np.ascontiguousarray(volume, dtype=np.float32))
    return FieldMap(inverted if field.ndim == 3 else inverted[:, 0], field.space)


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


__all__ = ["carried", "inverse_field", "inverse_transform", "inverted_volume"]
