"""Random affine maps and flips, in mm, so that a rotation stays a rotation on an anisotropic grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnreg.arrays import Doubles
from nnreg.errors import ConfigurationError
from nnreg.training.augmentation.registration.affine import VoxelAffine


@dataclass(frozen=True)
class RandomAffine:
    """Draws rotations, scalings, shifts and flips about the middle of the grid.

    Attributes
    ----------
    rotation_degrees
        Each angle is uniform in plus and minus this (one angle in 2D, three in 3D).
    log_scale
        The logarithm of the factor along each axis is uniform in plus and minus this.
    shift_fraction
        The shift along each axis is uniform in plus and minus this share of the grid.
    mirror_axes
        Axes reversed with probability one half each, whatever `probability` says.
    probability
        That there is a rotation, scaling and shift at all.
    """

    rotation_degrees: float = 0.0
    log_scale: float = 0.0
    shift_fraction: float = 0.0
    mirror_axes: tuple[int, ...] = ()
    probability: float = 1.0

    def __post_init__(self) -> None:
        for name in ("rotation_degrees", "log_scale", "shift_fraction"):
            if getattr(self, name) < 0:
                raise ConfigurationError(f"augmentation: {name} is {getattr(self, name)}, expected 0 or more.")
        if not 0 <= self.probability <= 1:
            raise ConfigurationError(f"augmentation: probability is {self.probability}, expected 0 to 1.")

    def sample(self, rng: np.random.Generator, shape: Sequence[int], spacing: Sequence[float]) -> VoxelAffine:
        """Draw one map of a grid of `shape` and `spacing` (mm), array axis order."""
        n = len(shape)
        # drawn whether used or not, so that one setting does not change the draws of another
        happens = rng.random() < self.probability
        angles = np.radians(rng.uniform(-1, 1, 3 if n == 3 else 1) * self.rotation_degrees)
        scales = np.exp(rng.uniform(-1, 1, n) * self.log_scale)
        shift = rng.uniform(-1, 1, n) * self.shift_fraction * np.asarray(shape)
        flips = rng.random(n) < 0.5
        result = VoxelAffine.mirror([axis for axis in self.mirror_axes if flips[axis]], shape)
        if not happens or not (self.rotation_degrees or self.log_scale or self.shift_fraction):
            return result
        linear_mm = rotation(angles) * scales
        # voxels -> mm -> rotated and scaled -> voxels
        linear = linear_mm * np.asarray(spacing) / np.asarray(spacing)[:, None]
        return VoxelAffine.about_centre(linear, shift, shape).after(result)


def rotation(angles: Doubles) -> Doubles:
    """Rotation matrix, array axis order, of one angle (2D) or of three about the axes one after the other (3D), radians."""
    if len(angles) == 1:
        return _turn(2, 0, 1, angles[0])
    return _turn(3, 1, 2, angles[0]) @ _turn(3, 0, 2, angles[1]) @ _turn(3, 0, 1, angles[2])


def _turn(n: int, first: int, second: int, angle: float) -> Doubles:
    matrix = np.eye(n)
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    matrix[first, second], matrix[second, first] = -np.sin(angle), np.sin(angle)
    return matrix
