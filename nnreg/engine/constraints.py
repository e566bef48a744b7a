"""What a deformation may not do: move along some axes, or change the volume of regions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import distance_transform_edt, label

from nnreg.arrays import Doubles, Floats
from nnreg.engine.prepared_image import PreparedImage
from nnreg.errors import ConfigurationError
from nnreg.geometry import Space, apply_matrix
from nnreg.imageio import Image

NAMES = ("x", "y", "z")
MARGIN = 3.0  # voxels around a region over which the map goes over from rigid to free: narrower ones fold between a lesion and what is pressed against it
LANDMARK_WEIGHTS = (0.0, 10.0)  # what may be asked for; not tuned: wide limits against mistyped numbers


@dataclass(frozen=True, eq=False)
class Constraints:
    """What the deformable part must keep to, and how much landmarks count.

    Attributes
    ----------
    restrict : str, optional
        Axes of the fixed grid along which it may move: ``1x1x0`` with the first axis of the file first, or their names, ``x,y``. Absent: all.
    preserve : Image, optional
        Regions of the fixed image (not 0) that keep their volume: each connected one moves as a rigid body, the linear alignment included.
    landmark_weight : float
        Of landmarks beside the images; 0 leaves them to measure.

    Raises
    ------
    ConfigurationError
        If `restrict` is neither of these forms or leaves no axis, or the weight is out of range.
    """

    restrict: str | None = None
    preserve: Image | None = None
    landmark_weight: float = 1.0

    def __post_init__(self) -> None:
        low, high = LANDMARK_WEIGHTS
        if not low <= self.landmark_weight <= high:
            raise ConfigurationError(f"landmark weight {self.landmark_weight:g}: expected {low:g} to {high:g} times that of the images.")
        if self.restrict is not None and not any(_flags(self.restrict)):
            raise ConfigurationError(f"restrict {self.restrict!r} leaves no axis that may move. Stop after linear alignment instead (affine only).")

    @property
    def hold(self) -> bool:
        """Whether they keep the deformation from anything."""
        return self.restrict is not None or self.preserve is not None

    def free(self, ndim: int) -> tuple[bool, ...]:
        """Whether the deformation may move along each axis, x first.

        Raises
        ------
        ConfigurationError
            If an axis is named that images of `ndim` axes do not have.
        """
        if self.restrict is None:
            return (True,) * ndim
        flags = _flags(self.restrict)
        counted = "x" in self.restrict and self.restrict[0] in "01"
        if len(flags) != ndim if counted else any(flags[ndim:]):
            expected = "x".join("1" * ndim)
            raise ConfigurationError(
                f"restrict {self.restrict!r} names axes that these images do not have: they have {ndim}. Expected {ndim} flags such as {expected}, or names "
                f"among {','.join(NAMES[:ndim])}."
            )
        return flags[:ndim]


FREE = Constraints()


def _flags(restrict: str) -> tuple[bool, ...]:
    """Of each axis that is told of, x first."""
    if re.fullmatch(r"[01](x[01])+", restrict):
        return tuple(flag == "1" for flag in restrict.split("x"))
    names = restrict.replace(" ", "").split(",")
    unknown = [name for name in names if name not in NAMES]
    if unknown or len(set(names)) < len(names):
        raise ConfigurationError(
            f"restrict {restrict!r}: expected a 1 (may move) or 0 for each axis, such as 1x1x0, or the names of those that may move, such as x,y."
        )
    return tuple(name in names for name in NAMES)


@dataclass(frozen=True, eq=False)
class Held:
    """The constraints on fields of one grid.

    Attributes
    ----------
    projector : array, shape (N, N), or None
        Takes the part of a vector in voxels that may not be.
    regions : tuple of Region
    """

    projector: Floats | None = None
    regions: tuple[Region, ...] = ()

    def project(self, vectors: Floats) -> float:
        """Take what may not move from vectors (N, D, H, W), in place; the length of the longest that is left."""
        if self.projector is not None:
            vectors[:] = np.einsum("ij,j...->i...", self.projector, vectors)
        return longest_vector(vectors)

    def settle(self, field: Floats) -> None:
        """Make a field (N, D, H, W) in voxels rigid in every region, in place."""
        for region in self.regions:
            region.settle(field)

    def apply(self, field: Floats) -> None:
        """Both, in place."""
        self.project(field)
        self.settle(field)


def longest_vector(vectors: Floats) -> float:
    """Length of the longest of vectors (N, D, H, W)."""
    return float(np.sqrt(np.einsum("i...,i...->...", vectors, vectors).max()))


def projector(free: tuple[bool, ...], back: Doubles | None = None) -> Floats | None:
    """The projection of vectors in voxels onto the axes that are `free`, x first; None if all are.

    Parameters
    ----------
    back : array, shape (N, N), optional
        For the opposite direction: takes a vector in voxels of its grid to voxels of the fixed grid.
    """
    if all(free):
        return None
    own = np.diag(np.asarray(free[::-1], dtype=float))
    return np.asarray(own if back is None else np.linalg.inv(back) @ own @ back, dtype=np.float32)


def regions_of(mask: Floats, fixed: Space, shape: tuple[int, ...], world: Doubles) -> tuple[Region, ...]:
    """The connected regions of a mask on the grid of `fixed`, as a level of that grid with `shape` voxels sees them.

    Parameters
    ----------
    mask : array, shape fixed.shape
    world : array, shape (n + 1, n + 1)
        The linear map behind the field, from the fixed to the moving world.
    """
    whole = PreparedImage(np.ascontiguousarray(mask[None], dtype=np.float32), None, fixed)
    level = whole.pooled_by(tuple(size // own for size, own in zip(fixed.shape, shape, strict=True)))
    # all that holds some of the region: on a coarse grid it must not vanish
    found, count = label(level.image[0] > 0, structure=np.ones((3,) * fixed.ndim))
    return tuple(Region.of(found == number, level.space, world) for number in range(1, count + 1))


@dataclass(frozen=True, eq=False)
class Region:
    """One region that moves as a rigid body under the whole map, and how the field goes over to it around.

    Attributes
    ----------
    voxels, around : tuple of index arrays
        Of the region, and of it with its margin.
    weights : array (len(around),)
        1 in the region, falling to 0 over the margin.
    space : Space
        The grid of the field.
    world : array, shape (n + 1, n + 1)
    """

    voxels: tuple[np.ndarray, ...]
    around: tuple[np.ndarray, ...]
    weights: Floats
    space: Space
    world: Doubles

    @classmethod
    def of(cls, inside: np.ndarray, space: Space, world: Doubles) -> Region:
        """From a mask (*space.shape)."""
        distance = distance_transform_edt(~inside, sampling=np.asarray(space.spacing) / min(space.spacing))
        fallen = np.clip(1 - distance / (MARGIN + 1), 0, 1)
        weights = fallen**2 * (3 - 2 * fallen)
        around = np.nonzero(weights)
        return cls(np.nonzero(inside), around, weights[around].astype(np.float32), space, world)

    def settle(self, field: Floats) -> None:
        """Blend the rigid motion that is nearest to the map of the region into a field, in place."""
        values = field if self.space.ndim == 3 else field[:, 0]
        turn, start, goal = self._motion(values)
        n = self.space.ndim
        points = self.space.to_world(np.stack(self.around, axis=-1))
        back = self.space.inverse_matrix @ np.linalg.inv(self.world)
        wanted = apply_matrix(back, (points - start) @ turn.T + goal) - np.stack(self.around, axis=-1)
        window: Any = (slice(None, n), *self.around)
        values[window] += self.weights * (wanted.T.astype(np.float32) - values[window])

    def _motion(self, values: Floats) -> tuple[Doubles, Doubles, Doubles]:
        """Rotation about a fixed position, and where that goes: least squares over the region (Kabsch 1976)."""
        index = np.stack(self.voxels, axis=-1)
        window: Any = (slice(None), *self.voxels)
        points, mapped = self.space.to_world(index), apply_matrix(self.world @ self.space.matrix, index + values[window].T)
        start, goal = points.mean(axis=0), mapped.mean(axis=0)
        # every voxel is a small box under the linear map, so that a region of one or two has a rotation too
        n = self.space.ndim
        boxes = self.space.matrix[:n, :n] @ self.space.matrix[:n, :n].T / 12
        spread = (points - start).T @ (mapped - goal) + len(index) * boxes @ self.world[:n, :n].T
        left, _, right = np.linalg.svd(spread)
        mirror = np.ones(n)
        mirror[-1] = np.sign(np.linalg.det(left @ right))
        return (right.T * mirror) @ left.T, start, goal
