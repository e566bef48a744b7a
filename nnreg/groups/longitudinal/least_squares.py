"""Small displacements between two images, by least squares seen from halfway: neither image is the fixed one, and 0.01 voxels are told from none.

The engine's descent takes steps of a share of a voxel and smooths the whole field after each, which bends well and measures small changes badly. Here the
displacement w minimises ``sum (B(m + w/2) - A(m - w/2))^2 + weight sum |Laplacian w|^2`` by Gauss and Newton's method. Each step is linear and solved by
conjugate gradients. The Laplacian does not hold back uniform growth. Exchanging A and B gives ``-w``, to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.fft import dctn, idctn

from nnreg.arrays import Floats
from nnreg.kernels import volumes

STEPS = 3
SOLVING = 12  # iterations of conjugate gradients in a step
SETTLED = 0.02  # of the first residual: a step ends there
REACH = 3.0  # mm: changes over a shorter way are smoothed; found by trial on two brains
SHADING = 12.0  # mm: intensities that differ over so far are shading, not anatomy
BLOCK = 6  # voxels: what lies in one block falls to one half of the data
FAINT = 0.02  # of an image in [0, 1]: keeps the gain in air near 1


@dataclass(frozen=True, eq=False)
class Halves:
    """Displacements (ndim, D, H, W), voxels, by all data, and by two halves that share no voxel."""

    whole: Floats
    one: Floats
    other: Floats


def measured(first: Floats, second: Floats, start: Floats, spacing: tuple[float, ...], weights: Floats | None = None, smoothness: float = 1.0) -> Halves:
    """The displacement w with ``first`` at ``m - w/2`` what ``second`` is at ``m + w/2``.

    Parameters
    ----------
    first, second : arrays, shape (C, D, H, W), in [0, 1]
    start : array, shape (ndim, D, H, W), voxels
        Near enough for the images to overlap.
    spacing : mm of the ndim axes
    weights : array, shape (D, H, W), optional
        How much each voxel counts.
    smoothness
        Factor on the distance over which changes are smoothed.
    """
    steps = np.asarray(spacing, np.float32).reshape(-1, 1, 1, 1)
    counted = np.ones(first.shape[1:], np.float32) if weights is None else weights
    field, penalty = start.astype(np.float32), _Bending(start.shape, spacing)
    for _ in range(STEPS):
        linear = _Linear.at(first, second, field, spacing, smoothness)
        field = field + linear.step(field, counted, penalty, steps)
    linear = _Linear.at(first, second, field, spacing, smoothness)
    chosen = _checkerboard(first.shape[1:])
    halves = [field + linear.step(field, counted * part, penalty, steps) for part in (chosen, 1 - chosen)]
    return Halves(field, halves[0], halves[1])


def _checkerboard(shape: tuple[int, ...]) -> Floats:
    blocks = np.indices(shape).astype(np.int32) // BLOCK
    return (blocks.sum(axis=0) % 2).astype(np.float32)


@dataclass(frozen=True, eq=False)
class _Bending:
    """``|Laplacian|^2`` of fields in mm, each component on its own; mirrored at the border, where cosines diagonalise it."""

    shape: tuple[int, ...]
    spacing: tuple[float, ...]

    @property
    def eigenvalues(self) -> Floats:
        """Of the squared Laplacian, (D, H, W), per mm^4."""
        total = np.zeros(self.shape[1:], np.float32)
        for axis, step in zip(range(3 - len(self.spacing), 3), self.spacing, strict=True):
            size = self.shape[1 + axis]
            wave = (2 * np.cos(np.pi * np.arange(size) / size) - 2) / step**2
            total += wave.astype(np.float32).reshape([-1 if other == axis else 1 for other in range(3)])
        return total**2

    def filtered(self, field: Floats, gains: Floats) -> Floats:
        """Every cosine of each component multiplied with its gain."""
        axes = (0, 1, 2)
        return np.stack([idctn(dctn(part, axes=axes, norm="ortho") * gains, axes=axes, norm="ortho") for part in field]).astype(np.float32)


@dataclass(frozen=True, eq=False)
class _Linear:
    """The problem near a field: gradients (C, ndim, D, H, W) per mm of the mean image, differences (C, D, H, W), weight of the bending."""

    gradients: Floats
    differences: Floats
    bending: float

    @classmethod
    def at(cls, first: Floats, second: Floats, field: Floats, spacing: tuple[float, ...], smoothness: float) -> _Linear:
        """About the displacement `field`, voxels."""
        half = np.ascontiguousarray(field / np.float32(2))
        a, b = volumes.sample(first, -half), volumes.sample(second, half)
        width = [SHADING / step for step in (1e9,) * (3 - len(spacing)) + tuple(spacing)]
        low_a, low_b = (volumes.smooth(image, (width[0] if len(spacing) == 3 else 0.0, width[1], width[2])) for image in (a, b))
        gain = np.sqrt((low_a + np.float32(FAINT)) / (low_b + np.float32(FAINT)))
        a, b = a / gain, b * gain
        middle = (a + b) / np.float32(2)
        axes = range(4 - len(spacing), 4)
        slopes = np.stack([np.gradient(middle, axis=axis) / np.float32(step) for axis, step in zip(axes, spacing, strict=True)], axis=1)
        strength = float(np.square(slopes).sum(axis=(0, 1)).mean(where=np.square(slopes).sum(axis=(0, 1)) > 1e-6))
        return cls(slopes.astype(np.float32), b - a, strength * (smoothness * REACH) ** 4)

    def step(self, field: Floats, weights: Floats, penalty: _Bending, steps: Floats) -> Floats:
        """The change of `field`, voxels, that solves the linear problem."""
        waves = np.float32(self.bending) * penalty.eigenvalues

        def product(x: Floats) -> Floats:
            along = np.einsum("ckzyx,kzyx->czyx", self.gradients, x) * weights
            return np.einsum("ckzyx,czyx->kzyx", self.gradients, along) + penalty.filtered(x, waves)

        usual = float((np.square(self.gradients).sum(axis=(0, 1)) * weights).mean()) / len(steps)
        right = -np.einsum("ckzyx,czyx->kzyx", self.gradients, self.differences * weights) - penalty.filtered(field * steps, waves)
        found = _conjugate_gradients(product, right, lambda x: penalty.filtered(x, 1 / (waves + np.float32(usual + 1e-12))))
        return found / steps


def _conjugate_gradients(product: Callable[[Floats], Floats], right: Floats, condition: Callable[[Floats], Floats]) -> Floats:
    """``product(x) = right`` for a symmetric, positive product, helped by an approximate inverse."""
    found, left = np.zeros_like(right), right
    ready = condition(left)
    way, size = ready, float(np.vdot(left, ready))
    first = size
    for _ in range(SOLVING):
        if not size > SETTLED**2 * first:
            break
        image = product(way)
        length = np.float32(size / float(np.vdot(way, image)))
        found, left = found + length * way, left - length * image
        ready = condition(left)
        size, before = float(np.vdot(left, ready)), size
        way = ready + np.float32(size / before) * way
    return found
