"""Global search of large motion: costs of many shifts on a coarse grid, made one smooth field by coupled convex optimisation, both ways alike.

Siebert, Hansen, Heinrich: ConvexAdam, IEEE TMI 2024; the coupling is that of Heinrich et al., MICCAI 2014.
"""

from __future__ import annotations

import itertools

import numpy as np
from scipy.ndimage import uniform_filter

from nnreg.arrays import Floats
from nnreg.engine.grids import Level
from nnreg.engine.mind import mind
from nnreg.engine.similarity_terms import volume_of_side
from nnreg.kernels import search_cpu, volumes
from nnreg.kernels.threads import in_parts
from nnreg.kernels.volumes import block_means

COUPLINGS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
CONSISTENCY_STEPS = 15
LARGEST_COSTS = 40_000_000  # numbers of the cost volume: bounds its memory to 160 MB


def search(level: Level, reach: float) -> Floats:
    """Field (N, D, H, W) in voxels of the level that matches self-similarity within `reach` mm, smooth and inverse consistent.

    Parameters
    ----------
    level : Level
        Its features are averaged over blocks of two voxels; shifts are whole blocks.
    reach : float, mm
        Largest shift along each axis.
    """
    matched = level.resampled()
    factors = tuple(2 if size >= 8 else 1 for size in level.grid)
    sides = (volume_of_side(level), level.fixed.mask), (_volume(matched.moving.image), matched.moving.mask)
    features = [_features(image, factors) for image, _ in sides]
    seen = [_seen(mask, level.grid, factors) for _, mask in sides]
    shape = features[0].shape[:3]
    steps = [step * factor for step, factor in zip(level.steps, factors, strict=True)]
    extent = [0 if size == 1 else int(min(round(reach / step), size // 2)) for size, step in zip(shape, steps, strict=True)]
    while np.prod([2 * radius + 1 for radius in extent]) * np.prod(shape) > LARGEST_COSTS and max(extent) > 1:
        extent[int(np.argmax(extent))] -= 1
    shifts = np.array(list(itertools.product(*[range(-radius, radius + 1) for radius in extent])))
    forward, backward = (_coupled(one, other, shifts, where) for (one, other), where in zip((features, features[::-1]), seen, strict=True))
    coarse = _consistent(forward, backward)
    return _on_level(coarse, level, factors)


def _volume(image: Floats) -> Floats:
    return image if image.ndim == 4 else image[:, None]


def _features(image: Floats, factors: tuple[int, ...]) -> Floats:
    """MIND maps averaged over blocks, channels last."""
    return np.ascontiguousarray(np.moveaxis(_blocks(mind(np.ascontiguousarray(image)), factors), 0, -1))


def _blocks(volume: Floats, factors: tuple[int, ...]) -> Floats:
    window = tuple(slice(0, size // factor * factor) for size, factor in zip(volume.shape[1:], factors, strict=True))
    return block_means(np.ascontiguousarray(volume[(slice(None), *window)]), factors)


def _seen(mask: Floats | None, grid: tuple[int, int, int], factors: tuple[int, ...]) -> Floats | None:
    """Share of each block that may be looked at; None for all of all."""
    return None if mask is None else _blocks(mask.reshape(1, *grid), factors)[0]


def _coupled(fixed: Floats, moving: Floats, shifts: np.ndarray, seen: Floats | None) -> Floats:
    """Best shifts (3, D, H, W), in turn matched and smoothed, held together ever more tightly.

    What may not be looked at costs nothing wherever it goes, and follows its surroundings.
    """
    shape = fixed.shape[:3]
    costs = np.empty((*shape, len(shifts)), np.float32)
    in_parts(search_cpu.shift_costs, shape[0], costs, fixed, moving, shifts)
    chosen, real = np.empty((3, *shape), np.float32), np.ascontiguousarray(shifts.T, np.float32)
    if seen is not None:
        costs *= seen[..., None]
    # one pass without coupling, on costs smoothed over neighbours
    spare = np.empty_like(costs)
    for axis in range(3):
        if shape[axis] > 1:
            in_parts(search_cpu.mean_of_three, shape[0], spare, costs, axis)
            costs, spare = spare, costs
    field = np.zeros_like(chosen)
    for coupling in (0.0, *COUPLINGS):
        in_parts(search_cpu.nearest_minimum, shape[0], chosen, costs, field, real, np.float32(coupling))
        field = _averaged(chosen)
    return field


def _averaged(field: Floats) -> Floats:
    window = (1, *(3 if size > 1 else 1 for size in field.shape[1:]))
    return np.asarray(uniform_filter(uniform_filter(field, window, mode="nearest"), window, mode="nearest"))


def _consistent(forward: Floats, backward: Floats) -> Floats:
    """Half way between the forward field and the inverse of the backward one, by iteration."""
    for _ in range(CONSISTENCY_STEPS):
        there, back = volumes.sample(backward, forward), volumes.sample(forward, backward)
        forward, backward = np.float32(0.5) * (forward - there), np.float32(0.5) * (backward - back)
    return forward


def _on_level(coarse: Floats, level: Level, factors: tuple[int, ...]) -> Floats:
    """From blocks to voxels, vectors in voxels."""
    matrix = np.zeros((3, 4), np.float32)
    for axis, factor in enumerate(factors):
        matrix[axis, axis], matrix[axis, 3] = 1 / factor, (1 / factor - 1) / 2
    field = volumes.sample(coarse, shape=level.grid, matrix=matrix) * np.asarray(factors, np.float32).reshape(3, 1, 1, 1)
    return np.ascontiguousarray(field[3 - level.fixed.space.ndim :])
