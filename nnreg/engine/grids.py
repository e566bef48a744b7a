"""The levels of a pyramid: a fixed and a moving grid each, the map between their indices, and fields carried from level to level."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nnreg.arrays import AnyArray, Doubles, Floats
from nnreg.engine.prepared_image import PreparedImage
from nnreg.geometry import FieldMap, Space
from nnreg.kernels import volumes
from nnreg.kernels.backend import placed, zeros
from nnreg.kernels.volumes import Blocks

SMALLEST = 4  # voxels: an axis is not pooled below this
NESTED = 1e-3  # voxels by which a grid of blocks may lie off


def volume_of(array: Floats) -> Floats:
    """(C, *grid) as a volume (C, D, H, W); an image of two axes gets one plane."""
    volume = array if array.ndim == 4 else array[:, None]
    return np.ascontiguousarray(volume, dtype=np.float32) if isinstance(volume, np.ndarray) else volume


def matrix_between(fixed: Space, moving: Space, world: Doubles | None = None) -> Floats:
    """(3, 4) from volume indices of `fixed` to volume indices of `moving`, through the world matrix `world` (n+1, n+1) if given."""
    n = fixed.ndim
    index = moving.inverse_matrix @ (np.eye(n + 1) if world is None else world) @ fixed.matrix
    result = np.eye(3, 4)
    result[3 - n :, 3 - n :] = index[:n]
    return np.ascontiguousarray(result, dtype=np.float32)


def blocks_of(fine: Space, coarse: Space) -> Blocks | None:
    """How the voxels of `fine` make up those of `coarse`, a grid of its direction; None where they do not, or both are one grid."""
    matrix = matrix_between(coarse, fine)
    factors = np.rint(matrix.diagonal()[:3])
    starts = matrix[:, 3] - (factors - 1) / 2
    rounded = np.column_stack([np.diag(factors), np.rint(starts) + (factors - 1) / 2])
    if np.abs(matrix - rounded).max() > NESTED or factors.max() == 1:
        return None
    shape = fine.shape if fine.ndim == 3 else (1, *fine.shape)
    sizes = coarse.shape if coarse.ndim == 3 else (1, *coarse.shape)
    axes = [(int(size), int(factor), round(float(start))) for size, factor, start in zip(shape, factors, starts, strict=True)]
    if any(start < 0 or start + factor * own > size for (size, factor, start), own in zip(axes, sizes, strict=True)):
        return None
    return Blocks(*(tuple(axis[part] for axis in axes) for part in range(3)))  # type: ignore[arg-type]


def carried(field: Floats, old: Space, new: Space) -> Floats:
    """A field (N, D, H, W) in voxels of `old` on the grid of `new` in its voxels: two grids of one direction, as all levels of a pyramid are."""
    if old.same_as(new):
        return field
    shape = new.shape if new.ndim == 3 else (1, *new.shape)
    result = volumes.sample(field, shape=(shape[0], shape[1], shape[2]), matrix=matrix_between(new, old))
    scale = np.asarray(old.spacing, np.float32) / np.asarray(new.spacing, np.float32)
    result *= placed(scale.reshape(-1, 1, 1, 1), result)
    return result


def as_map(field: Floats, space: Space) -> FieldMap:
    """A field on the grid of `space`, a volume, as a map."""
    return FieldMap(field if space.ndim == 3 else np.ascontiguousarray(field[:, 0]), space)


def continued(field: Floats, space: Space, whole: Space) -> tuple[Floats, Space]:
    """A field (N, D, H, W) on `space` and its grid, both continued from the border over all of `whole`, a grid of its direction."""
    ends = (space.to_index(whole.to_world(np.asarray(end, float)[None]))[0] for end in ((0,) * whole.ndim, np.asarray(whole.shape) - 1))
    first, last = (np.asarray(end) for end in ends)
    # a field reaches half a voxel beyond the centres on its border
    low = np.maximum(0, np.ceil(-first - 0.5 - NESTED)).astype(int)
    high = np.maximum(0, np.ceil(last - np.asarray(space.shape) + 0.5 - NESTED)).astype(int)
    margins = list(zip(low.tolist(), high.tolist(), strict=True))
    wide = np.pad(field, [(0, 0), *[(0, 0)] * (3 - len(margins)), *margins], mode="edge")
    shape = wide.shape[4 - space.ndim :]
    if shape == whole.shape:
        return wide, whole
    matrix = space.matrix.copy()
    matrix[: space.ndim, space.ndim] = space.to_world(-low.astype(float))
    return wide, Space.from_matrix(shape, matrix)


@dataclass(frozen=True, eq=False)
class Level:
    """One level of a pyramid.

    Attributes
    ----------
    fixed, moving : PreparedImage
        Both pooled to about one spacing.
    matrix : array, shape (3, 4)
        From volume indices of `fixed` to volume indices of `moving`: headers and linear alignment in one.
    spacing : float, mm
        What the level was asked to be; an axis that is coarser as stored stays coarser.
    """

    fixed: PreparedImage
    moving: PreparedImage
    matrix: Floats
    spacing: float

    @property
    def grid(self) -> tuple[int, int, int]:
        """Shape of the fixed grid as a volume."""
        shape = self.fixed.space.shape
        return (shape[0], shape[1], shape[2]) if len(shape) == 3 else (1, shape[0], shape[1])

    @property
    def steps(self) -> tuple[float, float, float]:
        """Spacing of the fixed grid as a volume, mm; a plane that stands alone is infinitely thick, so that nothing is smoothed across it."""
        spacing = self.fixed.space.spacing
        return (spacing[0], spacing[1], spacing[2]) if len(spacing) == 3 else (float("inf"), spacing[0], spacing[1])

    def on(self, device: Any) -> Level:
        """The same level as tensors on a device of torch, where all that is made of it then is too; None leaves it what it is."""
        return replace(self, fixed=self.fixed.on(device), moving=self.moving.on(device))

    def placed(self, array: AnyArray) -> Any:
        """A numpy array where the images of the level are."""
        return placed(array, self.fixed.image)

    def resampled(self) -> Level:
        """The same level with the moving image on the fixed grid, linear alignment applied: for features that depend on directions."""
        shape = self.fixed.space.shape
        image = volumes.sample(volume_of(self.moving.image), shape=self.grid, matrix=self.matrix)
        own = self.moving.space.shape
        inside = np.ones(own, np.float32) if self.moving.mask is None else self.moving.mask
        # zeros around: sampling continues the border, and the border is then outside
        padded, matrix = np.pad(inside, 1)[None], self.matrix.copy()
        matrix[3 - len(own) :, 3] += 1
        mask = volumes.sample(volume_of(padded), shape=self.grid, matrix=matrix).reshape(shape)
        features = self.moving.features
        if features is not None:
            features = volumes.sample(volume_of(features), shape=self.grid, matrix=self.matrix).reshape(-1, *shape)
        moving = PreparedImage(image.reshape(-1, *shape), None if mask.min() > 0.5 else mask, self.fixed.space, self.moving.make_features, features)
        return Level(self.fixed, moving, np.eye(3, 4, dtype=np.float32), self.spacing)

    def halved(self) -> Level:
        """The level of voxels twice as long, each of whole voxels of this one, without features; axes that are as thick already are left."""
        fixed, moving = (_pooled(side.plain(), 2 * self.spacing) for side in (self.fixed, self.moving))
        within, without = _whole(matrix_between(fixed.space, self.fixed.space)), _whole(matrix_between(self.moving.space, moving.space))
        matrix = (without @ _whole(self.matrix) @ within)[:3]
        return Level(fixed, moving, np.ascontiguousarray(matrix, dtype=np.float32), 2 * self.spacing)

    def same_grids(self, other: Level) -> bool:
        """Whether both sides of another level lie on these grids."""
        return self.fixed.space.same_as(other.fixed.space) and self.moving.space.same_as(other.moving.space)

    def plain(self) -> Level:
        """The same level without features."""
        return replace(self, fixed=self.fixed.plain(), moving=self.moving.plain())

    def swapped(self) -> Level:
        """The same level with the roles exchanged."""
        return Level(self.moving, self.fixed, np.ascontiguousarray(np.linalg.inv(_whole(self.matrix))[:3], dtype=np.float32), self.spacing)

    def empty_field(self) -> Floats:
        """The field that moves nothing."""
        field: Floats = zeros((self.fixed.space.ndim, *self.grid), self.fixed.image)
        return field


def pyramid(fixed: PreparedImage, moving: PreparedImage, world: Doubles, factors: tuple[int, ...], base: float | None = None) -> list[Level]:
    """Levels at ``factor * base`` mm, in the order of `factors`.

    Parameters
    ----------
    fixed, moving : PreparedImage
    world : array, shape (n+1, n+1)
        Linear alignment: fixed world to moving world.
    factors
        Multiples of `base`, coarse to fine.
    base : float, mm, optional
        By default the smallest spacing of the fixed image.
    """
    finest = min(fixed.space.spacing) if base is None else base
    levels = []
    for factor in factors:
        spacing = finest * factor
        sides = [_pooled(side, spacing) for side in (fixed, moving)]
        levels.append(Level(sides[0], sides[1], matrix_between(sides[0].space, sides[1].space, world), spacing))
    return levels


def _whole(matrix: Floats) -> Doubles:
    """(4, 4) of a matrix (3, 4)."""
    return np.vstack([matrix, (0, 0, 0, 1)]).astype(np.float64)


def _pooled(side: PreparedImage, spacing: float) -> PreparedImage:
    pairs = zip(side.space.spacing, side.space.shape, strict=True)
    factors = tuple(max(1, min(size // SMALLEST, round(spacing / own))) for own, size in pairs)
    return side.pooled_by(factors)
