"""Ellipsoids with texture, and smooth flows: the parameters that are drawn, and the functions they stand for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nnreg.arrays import Doubles

BACKGROUND, BODY = 0.15, 0.5  # intensities; those of the structures lie between 0 and 1, away from the body's
EDGE_WIDTH = 1.5  # voxels on either side of a boundary: the ramp that average pooling over three voxels makes of a step
WAVES = 12
WAVELENGTHS = (6.0, 16.0)  # voxels: short enough for every 9-voxel window to see variation, long enough to be sampled well
TEXTURE_STD = 0.05
EDGE_TEXTURE_STD = 0.1


@dataclass(frozen=True, eq=False)
class Phantom:
    """A body with structures inside, as a function of position: it can be sampled anywhere, so a deformed copy needs no interpolation.

    Attributes
    ----------
    centres, radii : arrays, shape (1 + structures, ndim), voxels
        The body first. A later ellipsoid lies over an earlier one.
    intensities : array, shape (1 + structures,)
    wave_vectors : array, shape (waves, ndim), radians per voxel
    phases : array, shape (waves,)
    smooth : whether boundaries are ramps instead of steps
    """

    centres: Doubles
    radii: Doubles
    intensities: Doubles
    wave_vectors: Doubles
    phases: Doubles
    smooth: bool = True

    def render(self, positions: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int16]]:
        """Intensities and labels at positions.

        Parameters
        ----------
        positions : array, shape (ndim, *spatial), voxels

        Returns
        -------
        image : array, shape (1, *spatial), float32
        labels : array, shape (1, *spatial), int16
            0 outside, 1 body, 2 and up the structures.
        """
        shape = positions.shape[1:]
        image = np.full(shape, BACKGROUND, dtype=np.float32)
        edges = np.zeros(shape, dtype=np.float32)
        labels = np.zeros(shape, dtype=np.int16)
        for value, (centre, radius, intensity) in enumerate(zip(self.centres, self.radii, self.intensities), start=1):
            depth = _depth(positions, centre, radius)
            inside = np.clip(0.5 + depth / (2 * EDGE_WIDTH), 0, 1) if self.smooth else (depth >= 0)
            image += inside * (np.float32(intensity) - image)
            np.maximum(edges, np.exp(-((depth / (2 * EDGE_WIDTH)) ** 2)), out=edges)
            labels[depth >= 0] = value
        image += (TEXTURE_STD + EDGE_TEXTURE_STD * edges) * self._texture(positions)
        return image[None], labels[None]

    def _texture(self, positions: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Sum of plane waves with unit variance."""
        texture = np.zeros(positions.shape[1:], dtype=np.float32)
        for vector, phase in zip(self.wave_vectors.astype(np.float32), self.phases.astype(np.float32)):
            texture += np.cos(np.tensordot(vector, positions, axes=1) + phase)
        return texture * np.float32(math.sqrt(2 / len(self.phases)))


def _depth(positions: npt.NDArray[np.float32], centre: Doubles, radius: Doubles) -> npt.NDArray[np.float32]:
    """Distance to the boundary of an ellipsoid in voxels, positive inside; exact on the boundary, first order near it."""
    level = np.zeros(positions.shape[1:], dtype=np.float32)
    slope = np.zeros(positions.shape[1:], dtype=np.float32)
    for axis, (middle, half) in enumerate(zip(centre.astype(np.float32), radius.astype(np.float32))):
        scaled = (positions[axis] - middle) / half
        level += scaled * scaled
        scaled /= half
        slope += scaled * scaled
    level, slope = np.sqrt(level), np.sqrt(slope)
    # (1 - level) over the length of its gradient; at the very centre the gradient vanishes and any radius will do
    return np.where(level > 1e-3, (1 - level) * level / np.maximum(slope, np.float32(1e-9)), np.float32(radius.min()))


@dataclass(frozen=True)
class RandomPhantom:
    """Draws phantoms.

    Attributes
    ----------
    structures : number of smaller ellipsoids inside the body
    smooth : see :class:`Phantom`
    centre, radius : (low, high), uniform per axis
        Of the body, in halves of the image (-1 to 1); the defaults are those of undeformed pairs.
    """

    structures: int = 4
    smooth: bool = True
    centre: tuple[float, float] = (-0.25, 0.25)
    radius: tuple[float, float] = (0.35, 0.55)

    def sample(self, rng: np.random.Generator, shape: Sequence[int]) -> Phantom:
        """Draw the phantom of an image of `shape`."""
        n, half = len(shape), (np.asarray(shape) - 1) / 2
        centre = rng.uniform(*self.centre, n)
        radius = rng.uniform(*self.radius, n)
        directions = rng.normal(size=(self.structures, n))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        centres = centre + radius * directions * rng.uniform(0.15, 0.6, (self.structures, 1))
        radii = radius * rng.uniform(0.2, 0.4, (self.structures, n))
        levels = np.concatenate([np.linspace(0.0, BODY - 0.2, self.structures // 2), np.linspace(BODY + 0.2, 1.0, self.structures - self.structures // 2)])
        waves = rng.normal(size=(WAVES, n))
        waves *= 2 * np.pi / (np.linalg.norm(waves, axis=1, keepdims=True) * rng.uniform(*WAVELENGTHS, (WAVES, 1)))
        return Phantom(
            centres=(np.vstack([centre, centres]) + 1) * half,
            radii=np.maximum(np.vstack([radius, radii]) * half, 1.0),
            intensities=np.concatenate([[BODY], rng.permutation(levels)]),
            wave_vectors=waves,
            phases=rng.uniform(0, 2 * np.pi, WAVES),
            smooth=self.smooth,
        )


@dataclass(frozen=True, eq=False)
class Velocity:
    """A smooth stationary velocity: a cubic B-spline that fades to zero at the image border, so that nothing flows in or out.

    Attributes
    ----------
    coefficients : array, shape (ndim, *control points)
    spacing : voxels between control points, per axis
    largest : length of the longest vector, voxels per unit time; no point travels further than that
    """

    coefficients: Doubles
    spacing: tuple[float, ...]
    largest: float

    def field(self, shape: Sequence[int]) -> npt.NDArray[np.float32]:
        """Sample on a grid.

        Returns
        -------
        array, shape (ndim, *shape), float32, voxels per unit time
        """
        fades = [_fade(size, min(spacing, size / 6)) for size, spacing in zip(shape, self.spacing)]
        values = _spline(self.coefficients, shape, self.spacing, fades)
        length = np.sqrt((values**2).sum(axis=0)).max()
        return np.asarray(values * (self.largest / max(length, 1e-12)), dtype=np.float32)


def smooth_noise(rng: np.random.Generator, channels: int, shape: Sequence[int], spacing: Sequence[float]) -> npt.NDArray[np.float32]:
    """Cubic B-splines through normal draws at control points so many voxels apart, per axis; (channels, *shape)."""
    coefficients = rng.normal(size=(channels, *control_points(shape, spacing)))
    return np.asarray(_spline(coefficients, shape, spacing, [np.ones(size) for size in shape]), dtype=np.float32)


def control_points(shape: Sequence[int], spacing: Sequence[float]) -> list[int]:
    """How many control points, so many voxels apart, a cubic B-spline on a grid needs per axis."""
    return [math.ceil((size - 1) / step) + 3 for size, step in zip(shape, spacing)]


def _spline(coefficients: Doubles, shape: Sequence[int], spacing: Sequence[float], fades: Sequence[Doubles]) -> Doubles:
    """The spline on the grid, times a factor per index of each axis."""
    values = coefficients
    for axis, (size, step, fade) in enumerate(zip(shape, spacing, fades)):
        basis = _spline_basis(size, step, coefficients.shape[axis + 1]) * fade[:, None]
        values = np.moveaxis(np.tensordot(basis, values, axes=(1, axis + 1)), 0, axis + 1)
    return values


def _fade(size: int, margin: float) -> Doubles:
    """0 on the outermost voxels, 1 from `margin` inwards, smooth between."""
    index = np.arange(size)
    depth = np.clip(np.minimum(index, size - 1 - index) / max(min(margin, (size - 1) / 2), 1e-9), 0, 1)
    return np.asarray(depth**2 * (3 - 2 * depth))


def _spline_basis(size: int, spacing: float, points: int) -> Doubles:
    """Cubic B-spline weights (size, points) of control points that start one spacing before the image."""
    distance = np.abs(np.arange(size)[:, None] / spacing + 1 - np.arange(points)[None])
    inner = 2 / 3 - distance**2 + distance**3 / 2
    outer = (2 - distance).clip(min=0) ** 3 / 6
    return np.asarray(np.where(distance < 1, inner, outer))


@dataclass(frozen=True)
class RandomVelocity:
    """Draws velocities.

    Attributes
    ----------
    max_displacement : voxels
        Upper bound; the longest vector is drawn between half of it and all of it. None: a tenth of the image's smallest size.
    control_spacing : voxels between control points; None: a quarter of the image's size, at least 8 where there is room
    """

    max_displacement: float | None = None
    control_spacing: float | None = None

    def sample(self, rng: np.random.Generator, shape: Sequence[int]) -> Velocity:
        """Draw the velocity of an image of `shape`."""
        limit = 0.1 * min(shape) if self.max_displacement is None else self.max_displacement
        spacing = tuple(self.control_spacing or max(size / 4, min(8.0, size / 2)) for size in shape)
        return Velocity(rng.normal(size=(len(shape), *control_points(shape, spacing))), spacing, float(rng.uniform(0.5, 1.0) * limit))
