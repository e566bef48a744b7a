"""A grid of voxels in the world: shape, spacing, origin and direction of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nnreg.arrays import Doubles
from nnreg.errors import GeometryError

SAME_VOXEL = 0.01  # two grids are the same if no corner differs by more, in voxels: NIfTI rounds positions to single precision


@dataclass(frozen=True)
class Space:
    """The grid an image is sampled on, in ITK's world: millimetres, left-posterior-superior.

    Attributes
    ----------
    shape : tuple of int, array axis order (z, y, x) or (y, x)
    spacing : tuple of float, mm, array axis order
    origin : tuple of float, mm, world order (x, y, z): centre of voxel 0
    direction : tuple of float, row-major matrix in world order, as SimpleITK gives it: column k is the world direction of ITK axis k
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    def __post_init__(self) -> None:
        n = len(self.shape)
        if n not in (2, 3):
            raise GeometryError(f"a space has 2 or 3 axes, found shape {tuple(self.shape)}.")
        if len(self.spacing) != n or len(self.origin) != n or len(self.direction) != n * n:
            raise GeometryError(
                f"shape {tuple(self.shape)} needs {n} spacings, {n} origin and {n * n} direction values, "
                f"found {len(self.spacing)}, {len(self.origin)} and {len(self.direction)}."
            )
        values = np.asarray([*self.spacing, *self.origin, *self.direction], dtype=float)
        if not np.isfinite(values).all() or min(self.spacing) <= 0 or min(self.shape) < 1:
            raise GeometryError(f"shape {tuple(self.shape)}, spacing {tuple(self.spacing)} and origin {tuple(self.origin)} must be finite and positive.")
        if abs(np.linalg.det(np.reshape(self.direction, (n, n)))) < 1e-6:
            raise GeometryError(f"direction {tuple(self.direction)} is singular.")

    @classmethod
    def plain(cls, shape: Sequence[int], spacing: Sequence[float] | None = None) -> Space:
        """A space without a header: unit (or the given) spacing, origin 0, no rotation."""
        n = len(shape)
        return cls(tuple(map(int, shape)), tuple(map(float, spacing or (1.0,) * n)), (0.0,) * n, tuple(np.eye(n).ravel().tolist()))

    @classmethod
    def from_matrix(cls, shape: Sequence[int], matrix: Doubles) -> Space:
        """The space whose :attr:`matrix` is `matrix`."""
        n = len(shape)
        columns = matrix[:n, :n][:, ::-1]
        spacing = np.linalg.norm(columns, axis=0)
        return cls(tuple(map(int, shape)), tuple(spacing[::-1].tolist()), tuple(matrix[:n, n].tolist()), tuple((columns / spacing).ravel().tolist()))

    @property
    def ndim(self) -> int:
        """Number of axes, 2 or 3."""
        return len(self.shape)

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return int(np.prod(self.shape))

    @property
    def matrix(self) -> Doubles:
        """Homogeneous (ndim+1, ndim+1) matrix from array index (z, y, x) to world (x, y, z) mm."""
        n = self.ndim
        result = np.eye(n + 1)
        directions = np.reshape(self.direction, (n, n)) * np.asarray(self.spacing[::-1])
        result[:n, :n] = directions[:, ::-1]
        result[:n, n] = self.origin
        return result

    @property
    def inverse_matrix(self) -> Doubles:
        """Homogeneous matrix from world (x, y, z) mm to array index (z, y, x)."""
        return np.asarray(np.linalg.inv(self.matrix))

    @property
    def centre(self) -> Doubles:
        """World position (x, y, z) mm of the middle of the grid."""
        return self.to_world((np.asarray(self.shape, dtype=float) - 1) / 2)

    @property
    def extent(self) -> Doubles:
        """Size of the field of view in mm, array axis order: voxels times spacing."""
        return np.asarray(self.shape) * np.asarray(self.spacing)

    def to_world(self, indices: npt.ArrayLike) -> Doubles:
        """World positions (..., ndim) mm, x first, of array indices (..., ndim), z first."""
        return apply_matrix(self.matrix, indices)

    def to_index(self, points: npt.ArrayLike) -> Doubles:
        """Array indices (..., ndim), z first, of world positions (..., ndim) mm, x first."""
        return apply_matrix(self.inverse_matrix, points)

    def corners(self) -> Doubles:
        """World positions (2**ndim, ndim) of the outermost voxel centres."""
        ends = np.meshgrid(*[(0, size - 1) for size in self.shape], indexing="ij")
        return self.to_world(np.stack([axis.ravel() for axis in ends], axis=-1))

    def same_as(self, other: Space, tolerance: float = SAME_VOXEL) -> bool:
        """Whether shapes are equal and every corner agrees within `tolerance` voxels along each axis of this grid.

        Relative to the voxel, because grids are of micrometres and of centimetres: a millimetre, or a fixed part of one, means nothing.
        """
        if self.shape != other.shape:
            return False
        n = self.ndim
        shift = (other.corners() - self.corners()) @ self.inverse_matrix[:n, :n].T
        return float(np.abs(shift).max()) <= tolerance

    def part(self, box: Sequence[tuple[int, int]]) -> Space:
        """The grid of the voxels from the first to before the second index of each axis; they may lie beyond this one."""
        shape = tuple(high - low for low, high in box)
        if shape == self.shape:
            return self
        matrix = self.matrix.copy()
        matrix[: self.ndim, self.ndim] = self.to_world(np.asarray([low for low, _ in box], dtype=float))
        return Space.from_matrix(shape, matrix)

    def with_spacing(self, spacing: Sequence[float], shape: Sequence[int] | None = None) -> Space:
        """A grid of another spacing with the same middle and direction; by default just covering the same field of view."""
        new_shape = tuple(shape) if shape is not None else tuple(max(1, round(size)) for size in self.extent / np.asarray(spacing))
        return self.centred(self.centre, new_shape, spacing)

    def centred(self, centre: npt.ArrayLike, shape: Sequence[int], spacing: Sequence[float]) -> Space:
        """A grid with this one's direction whose middle lies at world position `centre` (x, y, z) mm."""
        moved = Space(tuple(map(int, shape)), tuple(map(float, spacing)), (0.0,) * self.ndim, self.direction)
        return Space(moved.shape, moved.spacing, tuple((np.asarray(centre, dtype=float) - moved.centre).tolist()), self.direction)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ``Space(**space.to_dict())`` gives the space back."""
        return {"shape": list(self.shape), "spacing": list(self.spacing), "origin": list(self.origin), "direction": list(self.direction)}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Space:
        """The inverse of :meth:`to_dict`."""
        return cls(*(tuple(content[key]) for key in ("shape", "spacing", "origin", "direction")))


def apply_matrix(matrix: Doubles, points: npt.ArrayLike) -> Doubles:
    """Apply a homogeneous (n+1, n+1) matrix to points (..., n)."""
    n = matrix.shape[0] - 1
    return np.asarray(points, dtype=float) @ matrix[:n, :n].T + matrix[:n, n]
