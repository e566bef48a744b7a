"""Which slices of a pair are looked at, and how they are turned: axial, coronal and sagittal as a radiologist expects them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nnreg.arrays import Reals
from nnreg.geometry import AffineMap, Space, Transform, resample_image

if TYPE_CHECKING:
    from nnreg.imageio import Image

THICKNESS = 3  # slices of a view: its own and the neighbours that the Jacobian needs
FIT_POINTS = 4000
# (name, through, rows, columns): world axis (x 0 towards left, y 1 towards posterior, z 2 towards superior) and its sense on the page
PLANES = (
    ("axial", (2, 1), (1, 1), (0, 1)),
    ("coronal", (1, 1), (2, -1), (0, 1)),
    ("sagittal", (0, 1), (2, -1), (1, 1)),
)


@dataclass(frozen=True, eq=False)
class View:
    """One slice of everything.

    Attributes
    ----------
    name : str
    fixed, moving, warped : arrays, shape (C, rows, columns)
    field : array, shape (2, rows, columns), pixels
        In-plane displacement that remains after the affine part of the map.
    determinant : array, shape (rows, columns)
        Jacobian determinant of that remainder.
    spacing : mm of rows and columns
    """

    name: str
    fixed: Reals
    moving: Reals
    warped: Reals
    field: Reals
    determinant: Reals
    spacing: tuple[float, float]


def views(*, fixed: Image, moving: Image, warped: Image, transform: Transform) -> list[View]:
    """The views of a pair: three orthogonal ones through the middle of what is seen in 3D, one in 2D.

    The moving image is placed by the affine part of the map, so that what differs is what the deformation has to explain.
    """
    affine = affine_part(transform, fixed)
    remainder = Transform((*transform.stages, affine.inverse()), transform.ndim)
    outside = float(moving.array.min())
    result = []
    for name, space in planes(fixed):
        placed = resample_image(moving.array, moving=moving.space, fixed=space, transform=Transform((affine,), space.ndim), outside=outside)
        field = remainder.sampled_on(space)
        # a grid of one slice has no determinant: nothing is claimed about it
        determinant = field.determinants() if min(space.shape) > 1 else np.ones(space.shape, np.float32)
        result.append(
            View(
                name,
                fixed=page(resample_image(fixed.array, moving=fixed.space, fixed=space)),
                moving=page(placed),
                warped=page(resample_image(warped.array, moving=warped.space, fixed=space)),
                field=page(field.displacement)[-2:],
                determinant=page(determinant[None])[0],
                spacing=(space.spacing[-2], space.spacing[-1]),
            )
        )
    return result


def page(array: Reals) -> Reals:
    """The middle slice (C, rows, columns)."""
    return array if array.ndim == 3 else array[:, array.shape[1] // 2]


def affine_part(transform: Transform, fixed: Image) -> AffineMap:
    """The affine map nearest to a transform over the foreground of the fixed image (least squares)."""
    n = fixed.space.ndim
    brightness = fixed.array.astype(np.float32).mean(axis=0)
    indices = np.argwhere(brightness > brightness.mean())
    if len(indices) < 10 * n:
        indices = np.argwhere(np.isfinite(brightness))
    indices = indices[:: max(1, len(indices) // FIT_POINTS)]
    points = fixed.space.to_world(indices)
    homogeneous = np.concatenate([points, np.ones((len(points), 1))], axis=1)
    mapped = transform.map_points(points)
    solution, _, rank, _ = np.linalg.lstsq(homogeneous, mapped, rcond=None)
    matrix = np.eye(n + 1)
    if rank == n + 1:
        matrix[:n] = solution.T
    else:  # one slice: all points lie in a plane, only a shift is known
        matrix[:n, n] = (mapped - points).mean(axis=0)
    return AffineMap(matrix)


def planes(fixed: Image, centre: Sequence[int] | None = None) -> list[tuple[str, Space]]:
    """Grid of every view, turned for the page: (through, rows, columns) in 3D, through the voxel `centre`; (rows, columns) in 2D.

    Without `centre`, through the middle of what is seen.
    """
    space = fixed.space
    axes = _array_axes(space)
    centre = _centre(fixed) if centre is None else centre
    if space.ndim == 2:
        return [("", _turned(space, [axes[1], axes[0]], [1, 1], None))]
    result = []
    for name, (through, _), (rows, down), (columns, right) in PLANES:
        order = [axes[through], axes[rows], axes[columns]]
        if min(space.shape[axis] for axis, _ in order[1:]) == 1:
            continue  # one slice has no other view
        result.append((name, _turned(space, order, [1, down, right], centre[order[0][0]])))
    return result


def _array_axes(space: Space) -> list[tuple[int, int]]:
    """For every world axis, the array axis that runs along it most closely, and in which sense."""
    from scipy.optimize import linear_sum_assignment

    n = space.ndim
    directions = space.matrix[:n, :n] / np.asarray(space.spacing)
    world, array = linear_sum_assignment(-np.abs(directions))
    return [(int(axis), 1 if directions[row, axis] >= 0 else -1) for row, axis in zip(world, array, strict=True)]


def _turned(space: Space, order: list[tuple[int, int]], senses: list[int], at: int | None) -> Space:
    """The grid with axes in another order and sense, cut to a few slices of the first axis around index `at`."""
    n = space.ndim
    turn, shape = np.zeros((n + 1, n + 1)), []
    turn[n, n] = 1
    for position, ((axis, sign), sense) in enumerate(zip(order, senses, strict=True)):
        size = space.shape[axis]
        step = sign * sense
        start = 0 if step > 0 else size - 1
        if at is not None and position == 0:
            thickness = min(THICKNESS, size)
            step, start, size = 1, min(max(at - thickness // 2, 0), size - thickness), thickness
        turn[axis, position], turn[axis, n] = step, start
        shape.append(size)
    return Space.from_matrix(shape, space.matrix @ turn)


def _centre(fixed: Image) -> list[int]:
    """Index of the middle of the foreground."""
    brightness = fixed.array.astype(np.float32).mean(axis=0)
    foreground = brightness > brightness.mean()
    if not foreground.any():
        return [size // 2 for size in foreground.shape]
    spans = [np.flatnonzero(foreground.any(axis=tuple(other for other in range(foreground.ndim) if other != axis))) for axis in range(foreground.ndim)]
    return [int(span[0] + span[-1]) // 2 for span in spans]
