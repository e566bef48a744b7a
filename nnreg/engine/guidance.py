"""Labels and landmarks that come with a pair, brought to the levels of a pyramid."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nnreg.arrays import Doubles, Floats
from nnreg.engine.constraints import FREE, MARGIN, Constraints, Held, projector, regions_of
from nnreg.engine.grids import Level, volume_of
from nnreg.engine.prepared_image import PreparedImage, marked
from nnreg.engine.result import Annotations
from nnreg.engine.similarity_terms import ChannelGroup, Landmarks, MeanSquares
from nnreg.errors import RegistrationError
from nnreg.geometry import Space, Transform, apply_matrix, index_points_to_world, resample_labels
from nnreg.imageio import Image
from nnreg.padding import Box, slices

LABEL_BUDGET = 60_000_000  # numbers: labels guide the levels whose maps stay below
CODE_LENGTH = 16  # maps that stand for more labels than that; not tuned
LABEL_WEIGHT = 0.5  # of the force of labels beside that of the images


class Guides:
    """What is known of a pair besides its images, and what its deformation must keep to.

    Raises
    ------
    RegistrationError
        If only one side has landmarks, only the fixed one labels, labels share no value, the numbers of landmarks differ, or the mask of what is preserved is
        empty or on another grid than the fixed image.
    ConfigurationError
        If the deformation is restricted to an axis that the images do not have.
    """

    def __init__(self, fixed: Image, moving: Image, annotations: Annotations, constraints: Constraints = FREE) -> None:
        labels, points = (annotations.fixed_labels, annotations.moving_labels), (annotations.fixed_points, annotations.moving_points)
        self.labels: tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]] | None = None
        self.values: list[int] = []
        if labels[0] is not None and labels[1] is None:
            raise RegistrationError("only the fixed image has labels. Give labels for both, or for neither.")
        # those of the moving image alone have nothing to be brought onto
        if labels[0] is not None and labels[1] is not None:
            own = _on_grid(labels[0], fixed.space, "fixed"), _on_grid(labels[1], moving.space, "moving")
            self.labels = own
            self.values = sorted(set(np.unique(own[0]).tolist()) & set(np.unique(own[1]).tolist()) - {0})
            if not self.values:
                raise RegistrationError("the fixed and the moving labels have no value in common besides 0. Check that both were made with one scheme.")
        self.points = _points(points, fixed, moving)
        self.landmark_weight, self.free = constraints.landmark_weight, constraints.free(fixed.ndim)
        self.preserved = None if constraints.preserve is None else _preserved(constraints.preserve, fixed.space)
        self.opposite = False

    def through(self, transform: Transform, fixed: Space, moving: Space) -> Guides:
        """The same guides with the moving side carried to the fixed grid."""
        result = copy.copy(self)
        if self.labels is not None:
            result.labels = self.labels[0], resample_labels(self.labels[1], moving=moving, fixed=fixed, transform=transform)
        if self.points is not None:
            result.points = self.points[0], transform.inverse().map_points(self.points[1])
        return result

    def cut(self, fixed: Box, moving: Box) -> Guides:
        """The same guides with labels on parts of the grids of both images; landmarks are in the world."""
        result = copy.copy(self)
        if self.labels is not None:
            result.labels = self.labels[0][slices(fixed)], self.labels[1][slices(moving)]
        if self.preserved is not None:
            result.preserved = self.preserved[slices(fixed)[1:]]
        return result

    def kept(self, fixed: Box) -> Box:
        """A part of the fixed grid, widened to what is preserved and the margin around it."""
        if self.preserved is None:
            return fixed
        margin, size = int(np.ceil(MARGIN)), np.asarray(self.preserved.shape)
        places = np.argwhere(self.preserved)
        first, last = np.maximum(0, places.min(axis=0) - margin), np.minimum(size, places.max(axis=0) + 1 + margin)
        return tuple((min(low, int(start)), max(high, int(end))) for (low, high), start, end in zip(fixed, first, last, strict=True))

    def swapped(self) -> Guides:
        """The same guides with the roles exchanged."""
        result = copy.copy(self)
        result.labels = None if self.labels is None else (self.labels[1], self.labels[0])
        result.points = None if self.points is None else (self.points[1], self.points[0])
        result.opposite = not self.opposite
        return result

    def group(self, level: Level) -> ChannelGroup | None:
        """The labels of a level as soft maps, or None if there are none or they would not fit."""
        if self.labels is None or min(len(self.values), CODE_LENGTH) * np.prod(level.grid) > LABEL_BUDGET:
            return None
        pairs = zip(self.labels, (level.fixed, level.moving), strict=True)
        fixed, moving = (level.placed(volume_of(_soft(array, self.values, side))) for array, side in pairs)
        return ChannelGroup(MeanSquares(fixed), moving, LABEL_WEIGHT)

    def landmarks(self, level: Level, world: npt.NDArray[np.float64]) -> Landmarks | None:
        """The landmarks of a level; `world` is the linear map from the fixed to the moving world."""
        if self.points is None or self.landmark_weight == 0:
            return None
        space = level.fixed.space
        fixed = space.to_index(self.points[0]).astype(np.float32)
        target = space.to_index(apply_matrix(np.asarray(np.linalg.inv(world), np.float64), self.points[1])).astype(np.float32)
        nearest = np.zeros((3, len(fixed)), np.int64)
        for axis, size in enumerate(space.shape):
            nearest[3 - space.ndim + axis] = np.clip(np.rint(fixed[:, axis]), 0, size - 1)
        return Landmarks(tuple(level.placed(index) for index in nearest), level.placed((target - fixed).T), self.landmark_weight)

    def held(self, level: Space, whole: Space, world: Doubles, matrix: Floats | None = None) -> Held | None:
        """What fields on a grid must keep to, or None if they are free.

        Parameters
        ----------
        level : Space
            The grid.
        whole : Space
            The grid of the fixed image, from which it was pooled.
        world : array, shape (n + 1, n + 1)
            The linear map behind the field, from the fixed to the moving world.
        matrix : array, shape (3, 4)
            Of the level; needed of guides whose roles are exchanged.
        """
        if all(self.free) and self.preserved is None:
            return None
        if self.opposite:  # regions are kept in one direction only
            first = 3 - level.ndim
            return Held(projector(self.free, None if matrix is None else matrix[first:, first:3].astype(float)))
        return Held(projector(self.free), () if self.preserved is None else regions_of(self.preserved, whole, level.shape, world))


def _preserved(mask: Image, fixed: Space) -> Floats:
    check_belongs(mask.space, fixed, "the preserve mask", "the fixed image")
    found = marked(mask.array[0], "the preserve mask")
    if not found.any():
        raise RegistrationError("the preserve mask is empty. Leave it out, or mark the regions that keep their volume.")
    return found


def check_belongs(space: Space, image: Space, what: str, whose: str = "its image") -> None:
    """Raise a RegistrationError unless what lies on the grid `space` belongs to an image on the grid `image`."""
    if not (space.ndim == image.ndim and space.same_as(image)):
        differing = [name for name in ("shape", "spacing", "origin", "direction") if getattr(space, name) != getattr(image, name)]
        found = "; ".join(f"{name} {_short(getattr(space, name))} and {_short(getattr(image, name))}" for name in differing)
        raise RegistrationError(f"{what} and {whose} lie on different grids ({found}). Resample one onto the other's grid.")


def _short(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4g}" for value in values)


def _on_grid(labels: Image, space: Space, role: str) -> npt.NDArray[np.generic]:
    check_belongs(labels.space, space, f"the {role} label map")
    return labels.array[:1]


def _points(points: tuple[npt.ArrayLike | None, npt.ArrayLike | None], fixed: Image, moving: Image) -> tuple[npt.NDArray, npt.NDArray] | None:
    if points[0] is None and points[1] is None:
        return None
    if points[0] is None or points[1] is None:
        raise RegistrationError(f"only the {'moving' if points[0] is None else 'fixed'} image has landmarks. Give them for both, or for neither.")
    arrays = [np.atleast_2d(np.asarray(array, dtype=float)) for array in points]
    if arrays[0].shape != arrays[1].shape or arrays[0].shape[1] != fixed.ndim:
        raise RegistrationError(
            f"landmarks of shape {arrays[0].shape} (fixed) and {arrays[1].shape} (moving) do not correspond: expected (N, {fixed.ndim}) twice, same order."
        )
    for role, array, image in (("fixed", arrays[0], fixed), ("moving", arrays[1], moving)):
        size = np.asarray(image.space.shape[::-1])
        inside = ((array >= -0.5) & (array <= size - 0.5)).all(axis=1)  # NaN is inside of nothing
        if not inside.all():
            raise RegistrationError(
                f"{int((~inside).sum())} landmarks of the {role} image lie outside its {tuple(size.tolist())} voxels. They are voxel indices, x first, not mm."
            )
    return index_points_to_world(arrays[0], fixed.space), index_points_to_world(arrays[1], moving.space)


def _codes(values: Sequence[int]) -> Floats:
    """Rows (1 + K, D) that stand for K label values, the first for all others: 0.

    Few labels have a map each. Many have a vector of random signs each, of length 1, drawn by value alone: the squared distance of two is 2 on average, as
    that of two one-hot vectors, with a deviation of 2 / sqrt(D) (random projection: Johnson and Lindenstrauss 1984). 140 labels then cost what 16 do.
    """
    if len(values) <= CODE_LENGTH:
        return np.eye(1 + len(values), dtype=np.float32)[:, 1:]
    signs = (np.random.default_rng(abs(value)).choice(np.asarray([-1, 1], np.float32), CODE_LENGTH) for value in values)
    return np.stack([np.zeros(CODE_LENGTH, np.float32), *(row / np.float32(CODE_LENGTH**0.5) for row in signs)])


def _soft(labels: npt.NDArray[np.generic], values: Sequence[int], side: PreparedImage) -> Floats:
    """Mean code (D, *grid) of the labels (1, *stored) in each voxel of a level."""
    stored = labels.shape[1:]
    factors = tuple(size // own for size, own in zip(stored, side.space.shape, strict=True))
    place = np.searchsorted(values, labels[0]).clip(max=len(values) - 1)
    row = np.where(np.asarray(values)[place] == labels[0], place + 1, 0)
    columns = np.ascontiguousarray(_codes(values).T)
    return np.concatenate([PreparedImage(column[row][None], None, Space.plain(stored)).pooled_by(factors).image for column in columns])
