"""Small displacements between two images, by least squares seen from halfway: neither image is the fixed one, and 0.01 voxels are told from none.

The engine's descent takes steps of a share of a voxel and smooths the whole field after each, which bends well and measures small changes badly. Here the
displacement w minimises ``sum (B(m + w/2) - A(m - w/2))^2 + weight sum |Laplacian w|^2`` by Gauss and Newton's method. Each step is linear and solved by
conjugate gradients. The Laplacian does not hold back uniform growth. Exchanging A and B gives ``-w``, to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.fft import dctn, idctn
from scipy.ndimage import binary_erosion

from nnreg.arrays import Floats
from nnreg.kernels import volumes

STEPS = 4
SMOOTHING = 1.0  # voxels, of the images: linear sampling blurs noise, which draws displacements towards half a voxel
SOLVING = 12  # iterations of conjugate gradients in a step
SETTLED = 0.02  # of the first residual: a step ends there
REACH = 3.0  # mm: waves of 2 pi times that keep half of their height. Of 2, 3 and 5 on one brain, 2 told no more of a local growth than 3, 5 told less
SHADING = 20.0  # mm: intensities that differ over so far are shading, not anatomy
BLOCK = 6  # voxels: what lies in one block falls to one half of the data
FAINT = 1e-3  # keeps the gain near 1 where nothing counts
BODY, ERODED = 0.05, 2  # of an image in [0, 1], and voxels: what counts for shading


def measured(first: Floats, second: Floats, start: Floats, spacing: tuple[float, ...], weights: Floats | None = None, smoothness: float = 1.0) -> Floats:
    """The displacement w with ``first`` at ``m - w/2`` what ``second`` is at ``m + w/2``: (ndim, D, H, W), voxels.

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
    field, penalty, images = start.astype(np.float32), _Bending(start.shape, spacing), _smoothed(first, second)
    for _ in range(STEPS):
        field = field + _Linear.at(images, field, spacing, smoothness).step(field, weights, penalty)
    return field


def halves(first: Floats, second: Floats, field: Floats, spacing: tuple[float, ...], weights: Floats | None = None, smoothness: float = 1.0) -> list[Floats]:
    """What two halves of the voxels, blocks of a chequerboard, each make of the displacement that :func:`measured` found by all."""
    linear, penalty = _Linear.at(_smoothed(first, second), field, spacing, smoothness), _Bending(field.shape, spacing)
    chosen = _checkerboard(first.shape[1:])
    counted = np.float32(1) if weights is None else weights
    return [field + linear.step(field, counted * part, penalty) for part in (chosen, 1 - chosen)]


def share_told(
    first: Floats, second: Floats, field: Floats, spacing: tuple[float, ...], where: Floats, weights: Floats | None = None, smoothness: float = 1.0
) -> float:
    """How much of a growth of `where` (D, H, W) alone :func:`measured` would tell, 0 to 1, if it were small: smoothing takes the rest.

    A displacement that grows the region and nothing else, ``grad p`` with ``Laplacian p`` the region, goes through the same least squares. It costs as much
    as one of its steps.
    """
    bending, voxel = _Bending(field.shape, spacing), np.asarray(spacing, np.float32).reshape(-1, 1, 1, 1)
    axes = range(3 - len(spacing), 3)
    squared = bending.eigenvalues
    inverse = np.where(squared > 0, -1 / np.sqrt(np.maximum(squared, np.float32(1e-12))), 0).astype(np.float32)
    potential = bending.filtered(where[None], inverse)[0]
    growth = np.stack([np.gradient(potential, axis=axis) / np.float32(step) for axis, step in zip(axes, spacing, strict=True)])
    linear = _Linear.at(_smoothed(first, second), field, spacing, smoothness)
    seen = replace(linear, differences=-np.einsum("ckzyx,kzyx->czyx", linear.gradients, growth))
    told = seen.step(np.zeros_like(field), weights, bending) * voxel
    true, found = (
        sum(float((np.gradient(part[k], axis=axis) / step * where).sum()) for k, (axis, step) in enumerate(zip(axes, spacing, strict=True)))
        for part in (growth, told)
    )
    return found / true if true else float("nan")


def _smoothed(first: Floats, second: Floats) -> tuple[Floats, Floats]:
    across = 0.0 if first.shape[1] == 1 else SMOOTHING
    one, other = (volumes.smooth(image, (across, SMOOTHING, SMOOTHING)) for image in (first, second))
    return one, other


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
    """The problem near a field: gradients (C, ndim, D, H, W) per mm of the mean image, differences (C, D, H, W), weight of the bending, mm of a voxel."""

    gradients: Floats
    differences: Floats
    bending: float
    voxel: Floats

    @classmethod
    def at(cls, images: tuple[Floats, Floats], field: Floats, spacing: tuple[float, ...], smoothness: float) -> _Linear:
        """About the displacement `field`, voxels."""
        half = np.ascontiguousarray(field / np.float32(2))
        a, b = volumes.sample(images[0], -half), volumes.sample(images[1], half)
        gain = _gain(a, b, spacing)
        a, b = a / gain, b * gain
        middle = (a + b) / np.float32(2)
        axes = range(4 - len(spacing), 4)
        slopes = np.stack([np.gradient(middle, axis=axis) / np.float32(step) for axis, step in zip(axes, spacing, strict=True)], axis=1)
        strength = float(np.square(slopes).sum(axis=(0, 1)).mean(where=np.square(slopes).sum(axis=(0, 1)) > 1e-6))
        voxel = np.asarray(spacing, np.float32).reshape(-1, 1, 1, 1)
        return cls(slopes.astype(np.float32), b - a, strength * (smoothness * REACH) ** 4, voxel)

    def step(self, field: Floats, weights: Floats | None, penalty: _Bending) -> Floats:
        """The change of `field`, voxels, that solves the linear problem with voxels counted by `weights` (D, H, W)."""
        weights = np.ones(field.shape[1:], np.float32) if weights is None else weights
        waves = np.float32(self.bending) * penalty.eigenvalues

        def product(x: Floats) -> Floats:
            along = np.einsum("ckzyx,kzyx->czyx", self.gradients, x) * weights
            return np.einsum("ckzyx,czyx->kzyx", self.gradients, along) + penalty.filtered(x, waves)

        usual = float((np.square(self.gradients).sum(axis=(0, 1)) * weights).mean()) / len(field)
        right = -np.einsum("ckzyx,czyx->kzyx", self.gradients, self.differences * weights) - penalty.filtered(field * self.voxel, waves)
        found = _conjugate_gradients(product, right, lambda x: penalty.filtered(x, np.float32(1) / (waves + np.float32(usual + 1e-12))))
        return found / self.voxel


def _gain(first: Floats, second: Floats, spacing: tuple[float, ...]) -> Floats:
    """Square root of how much brighter the first image is, smooth: its shading.

    Only voxels within both bodies count: where a border moves, one image is bright and the other dark, and that is anatomy.
    """
    inside = np.minimum(first, second).mean(axis=0) > BODY
    flat = np.array([size == 1 for size in inside.shape])
    reach = np.ones([1 if thin else 2 * ERODED + 1 for thin in flat], bool)
    weight = binary_erosion(inside, reach).astype(np.float32)[None]
    width = (0.0, *(SHADING / step for step in spacing)) if len(spacing) == 2 else tuple(SHADING / step for step in spacing)
    low_a, low_b = (volumes.smooth(image * weight, (width[0], width[1], width[2])) + np.float32(FAINT) for image in (first, second))
    return np.asarray(np.sqrt(low_a / low_b))


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
