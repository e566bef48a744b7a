"""Sampling, composition, smoothing and forces on volumes: compiled for numpy arrays, for tensors in torch (:mod:`nnreg.kernels.volumes_torch`).

A volume is (C, D, H, W), a field (N, D, H, W) in voxels with N = 3, or N = 2 and D = 1 for an image of two axes. Float32, contiguous.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnreg.arrays import Doubles, Floats, ShortIntegers
from nnreg.errors import GeometryError
from nnreg.kernels import divergence_cpu, field_cpu, finer_cpu, middle_cpu, smooth_cpu
from nnreg.kernels.backend import by_array, indices, placed
from nnreg.kernels.threads import in_parts

NO_FIELD = np.empty((0, 1, 1, 1), np.float32)
EVERYWHERE = np.empty((0, 2), np.int32)
IDENTITY = np.eye(3, 4, dtype=np.float32)
SPREAD_PARTS = 2
TRUNCATE = 3.0  # widths at which a Gaussian ends


@dataclass(frozen=True)
class Blocks:
    """How a grid of images divides into the voxels of a coarser one, on which their field lies.

    Attributes
    ----------
    shape : grid of the images
    factors : voxels of the images to one of the field, along z, y and x
    starts : the first voxel of the images that lies in a block
    """

    shape: tuple[int, int, int]
    factors: tuple[int, int, int]
    starts: tuple[int, int, int]

    @property
    def matrix(self) -> Floats:
        """(3, 4) from indices of the images to indices of the field."""
        result = np.zeros((3, 4), np.float32)
        for axis, (factor, start) in enumerate(zip(self.factors, self.starts, strict=True)):
            result[axis, axis], result[axis, 3] = 1 / factor, (0.5 - 0.5 * factor - start) / factor
        return result

    def before(self, matrix: Floats) -> Floats:
        """(3, 4) from indices of the field, for a matrix from those of the images."""
        back = np.eye(4)
        for axis, (factor, start) in enumerate(zip(self.factors, self.starts, strict=True)):
            back[axis, axis], back[axis, 3] = factor, start + (factor - 1) / 2
        return np.ascontiguousarray(matrix.astype(np.float64) @ back, dtype=np.float32)

    def repeated(self, values: Any) -> Any:
        """Values (D', H', W') of the voxels of the field for all voxels of the images (D, H, W): those of the block they are in, or nearest to."""
        for axis, (factor, start, size) in enumerate(zip(self.factors, self.starts, self.shape, strict=True)):
            index = placed(np.clip((np.arange(size) - start) // factor, 0, values.shape[axis] - 1), values)
            values = values[(slice(None),) * axis + (index,)]
        return values


SAME = Blocks((0, 0, 0), (1, 1, 1), (0, 0, 0))


@by_array
def sample(
    image: Floats,
    field: Floats | None = None,
    *,
    shape: tuple[int, int, int] | None = None,
    matrix: Floats = IDENTITY,
    out: Floats | None = None,
    ranges: ShortIntegers | None = None,
    blocks: Blocks | None = None,
) -> Floats:
    """``image(matrix (x + field(x)))`` on the grid of `field` (or of `shape`), border values outside.

    Parameters
    ----------
    image : array, shape (C, D, H, W)
    field : array, shape (2 or 3, *grid), optional
    shape : grid to sample on, where there is no field
    matrix : array, shape (3, 4)
        From indices of the grid to indices of `image`.
    out : array, shape (C, *grid), optional
        Takes the result.
    ranges : array, shape (rows of the grid, 2), optional
        First voxel of each row that is wanted, and the one after the last; the others of `out` are left as they are.
    blocks : Blocks, optional
        The grid that is wanted, where `field` lies on a coarser one.
    """
    if image[0].size > field_cpu.LARGEST:
        raise GeometryError(f"a volume of {image[0].size} voxels is too large to be sampled at once; {field_cpu.LARGEST} is the limit. Use a coarser grid.")
    grid = shape if field is None else field.shape[1:] if blocks is None else blocks.shape
    if grid is None:
        raise GeometryError("sampling needs a field or the shape of a grid.")
    result = np.empty((image.shape[0], *grid), np.float32) if out is None else out
    divided = SAME if blocks is None else blocks
    given = NO_FIELD if field is None else field, matrix, EVERYWHERE if ranges is None else ranges, divided.factors, divided.starts
    in_parts(field_cpu.sample, grid[0] * grid[1], result, image, *given)
    return result


def within(shape: tuple[int, ...], field: Any, *, matrix: Floats = IDENTITY) -> Any:
    """Whether ``matrix (x + field(x))`` lies in a voxel of a volume of `shape` (D, H, W): truth values on the grid of `field`, an array or a tensor."""
    components, *grid = field.shape
    result: Any = None
    for row, size in zip(matrix.tolist(), shape, strict=True):
        places: Any = row[3]
        for axis, (share, count) in enumerate(zip(row, grid, strict=False)):
            places = places + share * indices(count, field).reshape([-1 if other == axis else 1 for other in range(3)])
        for share, component in zip(row[3 - components : 3], field, strict=True):
            if share:
                places += share * component
        inside = (places > -0.5) & (places < size - 0.5)
        result = inside if result is None else result & inside
    return result


@by_array
def compose(outer: Floats, inner: Floats, *, scale: float = 1.0, out: Floats | None = None) -> Floats:
    """Field of the map that applies ``scale inner`` first, then `outer`; both on one grid."""
    result = np.empty_like(outer) if out is None else out
    in_parts(field_cpu.compose, outer.shape[1] * outer.shape[2], result, outer, inner, np.float32(scale))
    return result


@by_array
def spread(values: Floats, field: Floats) -> Floats:
    """The transpose of sampling: the sums (C, D, H, W) that voxels receive when every value goes to the neighbours of where it is sampled.

    Parameters
    ----------
    values : array, shape (C, D, H, W)
    field : array, shape (2 or 3, D, H, W)
        A value at x goes to ``x + field(x)``, shared by the weights of linear interpolation; what lands outside is lost.
    """
    # several voxels add to one neighbour: each part adds to a result of its own. Their number is fixed, so that the sum is the same for any number of threads
    received = np.zeros((SPREAD_PARTS, *values.shape), np.float32)
    rows = values.shape[1] * values.shape[2]
    edges = [rows * part // SPREAD_PARTS for part in range(SPREAD_PARTS + 1)]

    def parts(start: int, stop: int) -> None:
        for part in range(start, stop):
            field_cpu.spread(edges[part], edges[part + 1], received[part], values, field)

    in_parts(parts, SPREAD_PARTS)
    return np.asarray(np.add(received[0], received[1], out=received[0]))


@functools.lru_cache(maxsize=64)
def gaussian(sigma: float) -> Floats:
    """Weights of a Gaussian of `sigma` voxels: ``4 n + 1`` taps, sum 1; one tap if it is narrower than a fifth of a voxel."""
    if sigma < 0.2:
        return np.ones(1, np.float32)
    radius = max(2, int(np.ceil(TRUNCATE * sigma)))
    radius += radius % 2
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return np.asarray(weights / weights.sum(), dtype=np.float32)


def spread_of(sigma: float) -> float:
    """Variance of :func:`gaussian`, which between a fifth and one voxel is less than that of the Gaussian it is sampled from."""
    weights = gaussian(sigma)
    return float(weights @ (np.arange(len(weights)) - len(weights) // 2) ** 2)


@functools.lru_cache(maxsize=64)
def width_of(spread: float) -> float:
    """Sigma of the :func:`gaussian` of a variance, voxels; 0 for none."""
    low, high = 0.0, 1 + max(spread, 0.0)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if spread_of(middle) < spread else (low, middle)
    return low


@by_array
def smooth(volume: Floats, sigma: tuple[float, float, float], *, out: Floats | None = None) -> Floats:
    """Gaussian of `sigma` voxels per axis, border values continued outside. `out` must not be `volume`."""
    return _smoothed(volume, NO_FIELD, NO_FIELD, sigma, np.empty_like(volume) if out is None else out)[0]


@by_array
def smooth_force(gradient: Floats, warped: Floats, sigma: tuple[float, float, float], *, out: Floats, blocks: Blocks | None = None) -> float:
    """Smoothed force of a similarity on the field: ``sum_i gradient_i grad(warped_i) + extra``.

    Parameters
    ----------
    gradient, warped : array, shape (I, D, H, W)
        Derivative of the similarity with respect to each warped channel, and the channels.
    sigma : voxels per axis
    out : array, shape (2 or 3, D, H, W)
        Takes the force; its number of components says over which axes.
    blocks : Blocks, optional
        Where the field lies on a coarser grid than the images: forces are then means over blocks, in voxels of the field.

    Returns
    -------
    float
        Length of the longest vector.
    """
    if blocks is None:
        return _smoothed(NO_FIELD, gradient, warped, sigma, out)[1]
    forces = np.empty_like(out)
    in_parts(finer_cpu.block_forces, out.shape[1], forces, gradient, warped, blocks.factors, blocks.starts)
    return _smoothed(forces, NO_FIELD, NO_FIELD, sigma, out)[1]


def _smoothed(source: Floats, gradient: Floats, warped: Floats, sigma: tuple[float, float, float], out: Floats) -> tuple[Floats, float]:
    strips = -(-out.shape[2] // smooth_cpu.STRIP)
    largest = np.zeros(strips, np.float32)
    weights = tuple(gaussian(float(width)) for width in sigma)
    in_parts(smooth_cpu.smooth, strips, out, largest, source, gradient, warped, weights)
    return out, float(np.sqrt(largest.max()))


@by_array
def smooth_divergence(field: Floats, shares: tuple[float, float, float], *, spare: Floats | None = None) -> Floats:
    """Even out how much a field stretches and shrinks, and leave alone what only turns and shears: ``u + shares grad(div u)``.

    One explicit step of the equation of a body that resists changes of its volume (Navier and Cauchy's, of linear elasticity, without its other term).

    Parameters
    ----------
    field : array, shape (N, D, H, W)
        An array of numpy is changed and returned; a tensor stays what it is.
    shares : voxels squared per axis, below 2/3 altogether
        A wave of the divergence along z, y or x is damped by ``shares sin(k)^2``.
    spare : array, shape (D, H, W), optional
        Holds the divergence.
    """
    shape = field.shape
    held = np.empty(shape[1:], np.float32) if spare is None else spare
    rows, flat, values = shape[1] * shape[2], field.reshape(-1), held.reshape(-1)
    in_parts(divergence_cpu.divergence, rows, values, flat, shape)
    in_parts(divergence_cpu.add_gradient, rows, flat, values, shape, tuple(np.float32(share) for share in shares))
    return field


@by_array
def middle(image: Floats, *, out: Floats | None = None) -> Floats:
    """How near values in [0, 1] are to 1/2: ``(4 i (1 - i))^2``, 1 there and 0 at both ends."""
    result = np.empty_like(image) if out is None else out
    in_parts(middle_cpu.middle, image.size, result.reshape(-1), image.reshape(-1))
    return result


@by_array
def block_means(image: Floats, factors: tuple[int, ...]) -> Floats:
    """Means of (C, *grid) over blocks of `factors` voxels that fill the grid."""
    image = np.ascontiguousarray(image, dtype=np.float32)
    if all(factor == 1 for factor in factors):
        return image
    shape = tuple(size // factor for size, factor in zip(image.shape[1:], factors, strict=True))
    result = np.empty((len(image), *shape), np.float32)
    missing = 3 - len(shape)
    volume, blocks = (array.reshape(len(image), *(1,) * missing, *array.shape[1:]) for array in (image, result))
    in_parts(field_cpu.block_means, len(image) * blocks.shape[1] * blocks.shape[2], blocks, volume, (*(1,) * missing, *factors))
    return result


@by_array
def turned(field: Floats, matrix: Doubles) -> Floats:
    """The vectors of a field (N, D, H, W), each multiplied by a matrix (N, N)."""
    return np.ascontiguousarray(np.einsum("ij,jdhw->idhw", matrix.astype(np.float32), field), dtype=np.float32)


@by_array
def added(volume: Floats, index: Any, values: Floats) -> Floats:
    """A volume (C, D, H, W) with values (C, K) added at K voxels, three int arrays (K,), of which any may be named more than once."""
    np.add.at(volume, (slice(None), *index), values)
    return volume
