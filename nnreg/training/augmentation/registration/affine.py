"""The deterministic twin of every spatial draw: an affine map of a grid onto itself."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nnreg.arrays import Doubles
from nnreg.errors import GeometryError
from nnreg.geometry import identity_grid
from nnreg.training.augmentation import on_device

EXACT = 1e-9  # voxels: matrices that differ by less are the same map


@dataclass(frozen=True, eq=False)
class VoxelAffine:
    """Pull-back affine map of a grid: voxel x of the result takes what lies at ``matrix x``.

    Flips that map the grid onto itself are done by reversing axes, so they are exact and the identity costs nothing.

    Attributes
    ----------
    matrix : array, shape (ndim+1, ndim+1), homogeneous, voxels, array axis order
    shape : tuple of int
        The grid.
    """

    matrix: Doubles
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        n = len(self.shape)
        if self.matrix.shape != (n + 1, n + 1):
            raise GeometryError(f"a grid of shape {self.shape} needs a matrix of shape {(n + 1, n + 1)}, found {self.matrix.shape}.")
        if abs(np.linalg.det(self.matrix[:n, :n])) < EXACT:
            raise GeometryError(f"the affine matrix of a grid of shape {self.shape} is singular.")

    @classmethod
    def identity(cls, shape: Sequence[int]) -> VoxelAffine:
        """The map that changes nothing."""
        return cls(np.eye(len(shape) + 1), tuple(shape))

    @classmethod
    def mirror(cls, axes: Sequence[int], shape: Sequence[int]) -> VoxelAffine:
        """Reverse the given axes."""
        matrix = np.eye(len(shape) + 1)
        for axis in axes:
            matrix[axis, axis] = -1
            matrix[axis, -1] = shape[axis] - 1
        return cls(matrix, tuple(shape))

    @classmethod
    def about_centre(cls, linear: Doubles, shift: Sequence[float], shape: Sequence[int]) -> VoxelAffine:
        """``x -> linear (x - centre) + centre + shift``, in voxels, with the middle of the grid as centre."""
        n = len(shape)
        centre = (np.asarray(shape, dtype=float) - 1) / 2
        matrix = np.eye(n + 1)
        matrix[:n, :n] = linear
        matrix[:n, n] = centre + np.asarray(shift, dtype=float) - linear @ centre
        return cls(matrix, tuple(shape))

    def after(self, first: VoxelAffine) -> VoxelAffine:
        """The map that applies `first` to an image, and then this one to the result, in one resampling."""
        if first.shape != self.shape:
            raise GeometryError(f"maps of grids {first.shape} and {self.shape} cannot be chained.")
        # pull-back: a voxel of the result is looked up in the intermediate image, and from there in the first
        return VoxelAffine(first.matrix @ self.matrix, self.shape)

    def inverse(self) -> VoxelAffine:
        """The exact inverse."""
        return VoxelAffine(np.asarray(np.linalg.inv(self.matrix)), self.shape)

    @property
    def mirrored_axes(self) -> tuple[int, ...] | None:
        """Axes that the map reverses, () for the identity, None if it is not a pure flip."""
        n = len(self.shape)
        axes = tuple(axis for axis in range(n) if self.matrix[axis, axis] < 0)
        return axes if np.allclose(self.matrix, VoxelAffine.mirror(axes, self.shape).matrix, atol=EXACT, rtol=0) else None

    def image(self, image: Tensor) -> Tensor:
        """An image (C, *shape), float32, linear, with its border continued outside."""
        self._check(image)
        return self._flipped(image) if self.mirrored_axes is not None else self._linear(image.float())

    def labels(self, labels: Tensor) -> Tensor:
        """Labels or a mask (C, *shape), nearest neighbour, 0 outside; dtype and values come back exactly."""
        self._check(labels)
        return self._flipped(labels) if self.mirrored_axes is not None else self._nearest(labels)

    def points(self, points: Tensor) -> Tensor:
        """Where points (N, ndim) of the image lie after it was mapped, voxels, array axis order."""
        if self.mirrored_axes == ():
            return points
        n = len(self.shape)
        inverse = np.linalg.inv(self.matrix)
        moved = points.detach().cpu().numpy().astype(np.float64) @ inverse[:n, :n].T + inverse[:n, n]
        return torch.from_numpy(moved).to(points)

    def field(self, field: Tensor, moving: VoxelAffine | None = None) -> Tensor:
        """The displacement field between the mapped images, given the one between the original images.

        Parameters
        ----------
        field : Tensor, shape (ndim, *shape), voxels
            From the fixed to the moving image.
        moving
            What was done to the moving image, where this map is what was done to the fixed one; the same if absent.

        Returns
        -------
        Tensor, shape (ndim, *shape), voxels
            ``x -> moving^-1(A x + field(A x)) - x``. A flip reverses the sign of the component along its axis.
        """
        n = len(self.shape)
        back = np.linalg.inv((moving or self).matrix)
        linear = torch.from_numpy(back[:n, :n]).float().to(field.device)
        rotated = torch.einsum("jk,k...->j...", linear, self.image(field.float()))
        # where the field is zero: nothing is left if both images were mapped alike
        rest = VoxelAffine(back @ self.matrix, self.shape)
        return rotated if rest.mirrored_axes == () else rotated + rest._displacement[0].to(field.device)

    @functools.cached_property
    def _displacement(self) -> Tensor:
        """The map as a field (1, ndim, *shape), voxels; images of several roles share it."""
        n = len(self.shape)
        linear = torch.from_numpy(self.matrix[:n, :n] - np.eye(n)).float()
        shift = torch.from_numpy(np.ascontiguousarray(self.matrix[:n, n])).float()
        return torch.einsum("jk,bk...->bj...", linear, identity_grid(self.shape)) + shift.reshape(1, n, *(1,) * n)

    def _flipped(self, tensor: Tensor) -> Tensor:
        axes = self.mirrored_axes
        return tensor.flip([axis + 1 for axis in axes]) if axes else tensor

    def _linear(self, image: Tensor) -> Tensor:
        if not on_device.is_compiled(image):
            return on_device.sample_linear(image, self.matrix)
        from nnreg.kernels import volumes  # compiles when first used

        source, grid, matrix = image.detach().contiguous().numpy(), *self._as_volume()
        # a field of all positions would be three images large, and take most of the time
        found = volumes.sample(source.reshape(len(source), *grid), shape=grid, matrix=matrix.astype(np.float32))
        return torch.from_numpy(found.reshape(source.shape))

    def _nearest(self, tensor: Tensor) -> Tensor:
        if not on_device.is_compiled(tensor):
            return on_device.sample_nearest(tensor, self.matrix)
        from nnreg.training.augmentation.registration.kernels import sample_nearest  # compiles when first used

        source, grid, matrix = np.ascontiguousarray(tensor.detach().numpy()), *self._as_volume()
        result = np.empty_like(source)
        sample_nearest(source.reshape(len(source), *grid), matrix, result.reshape(len(source), *grid))
        return torch.from_numpy(result)

    def _as_volume(self) -> tuple[tuple[int, int, int], Doubles]:
        """Grid and matrix (3, 4) with three axes, as the compiled loops have them: an image of two is one slice."""
        n = len(self.shape)
        matrix = np.eye(4)[:3]
        matrix[3 - n :, 3 - n :] = self.matrix[:n]
        depth, height, width = (*(1,) * (3 - n), *self.shape)
        return (depth, height, width), matrix

    def _check(self, tensor: Tensor) -> None:
        if tuple(tensor.shape[1:]) != self.shape:
            raise GeometryError(f"a tensor of shape {tuple(tensor.shape)} does not lie on the grid {self.shape} of the map.")
