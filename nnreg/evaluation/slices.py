"""Which slices of a pair are looked at, and how they are turned: axial, coronal and sagittal as a radiologist expects them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nnreg.arrays import Reals
from nnreg.geometry import AffineMap, Space, Transform, resample_image
from nnreg.padding import beyond

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
    outside = _beyond(moving)
    result = []
    for name, space in planes(fixed):
        field = remainder.sampled_on(space)
        # a grid of one slice has no determinant: nothing is claimed about it
        determinant = field.determinants() if min(space.shape) > 1 else np.ones(space.shape, np.float32)
        result.append(
            View(
                name,
                fixed=page(_on(space, fixed)),
                moving=page(_on(space, moving, affine, outside)),
                warped=page(_on(space, warped)),
                field=page(field.displacement)[-2:],
                determinant=page(determinant[None])[0],
                spacing=(space.spacing[-2], space.spacing[-1]),
            )
        )
    return result


def _on(space: Space, image: Image, affine: AffineMap | None = None, outside: Sequence[float] = (0.0,)) -> Reals:
    """An image on a few slices, through an affine map, with a value per channel `outside`: of the image only what lies there is looked at."""
    transform = Transform(() if affine is None else (affine,), space.ndim)
    ends = image.space.to_index(transform.map_points(space.corners()))
    firsts, lasts = np.floor(ends.min(axis=0)).astype(int) - 1, np.ceil(ends.max(axis=0)).astype(int) + 2
    lows = [min(max(0, first), size - 1) for first, size in zip(firsts.tolist(), image.space.shape, strict=True)]
    box = [(low, max(low + 1, min(last, size))) for low, last, size in zip(lows, lasts.tolist(), image.space.shape, strict=True)]
    seen, grid = image.array[(slice(None), *(slice(*ends) for ends in box))], image.space.part(box)
    channels = np.split(seen, len(outside))
    return np.concatenate(
        [resample_image(part, moving=grid, fixed=space, transform=transform, outside=value) for part, value in zip(channels, outside, strict=True)]
    )


def _beyond(image: Image) -> list[float]:
    """What each channel of an image is continued with, as where it is resampled whole."""
    if np.isfinite(image.array.sum(dtype=np.float64)):
        return beyond(image.array)
    finite = np.isfinite(image.array)
    return [float(image.array.min(where=finite, initial=np.inf)) if finite.any() else float("nan")] * image.channels


@dataclass(frozen=True)
class Stack:
    """Slices of one view, of square pixels.

    Attributes
    ----------
    name
        Of the view; empty in 2D.
    grid : Space
        (slices, rows, columns) of the page; (rows, columns) alone in 2D.
    slabs : tuple of Space
        Each slice with its neighbours, as the Jacobian needs them; beyond the first and last slice of the image there are none.
    numbers : tuple of int
        Which slice of the image each is, from 1.
    total
        How many the image has.
    """

    name: str
    grid: Space
    slabs: tuple[Space, ...]
    numbers: tuple[int, ...]
    total: int

    def sized(self, size: int) -> Stack:
        """The same slices with square pixels, at most `size` on a side."""
        slabs = tuple(_square_pixels(space, size) for space in self.slabs)
        return Stack(self.name, _square_pixels(self.grid, size), slabs, self.numbers, self.total)


def stacks(fixed: Image, *, count: int, size: int, centre: Sequence[int] | None = None) -> list[Stack]:
    """Per view up to `count` slices, evenly through what is seen, with at most `size` square pixels on a side and none finer than the image's."""
    if fixed.space.ndim == 2:
        [(_, space)] = planes(fixed)
        return [Stack("", space, (space,), (1,), 1).sized(size)]
    middle = list(_centre(fixed) if centre is None else centre)
    axes, spans, result = _array_axes(fixed.space), _spans(fixed), []
    for name, _ in planes(fixed, middle):
        axis = next(axes[through][0] for plane, (through, _), _, _ in PLANES if plane == name)
        chosen, total = _evenly(*spans[axis], middle[axis], count), fixed.space.shape[axis]
        slabs = [dict(planes(fixed, [*middle[:axis], index, *middle[axis + 1 :]]))[name] for index in chosen]
        grid = _every(slabs[0], chosen[0] - _first_of_slab(chosen[0], total), chosen)
        result.append(Stack(name, grid, tuple(slabs), tuple(index + 1 for index in chosen), total).sized(size))
    return result


def _first_of_slab(at: int, size: int) -> int:
    return min(max(at - min(THICKNESS, size) // 2, 0), size - min(THICKNESS, size))


def _every(slab: Space, position: int, chosen: Sequence[int]) -> Space:
    """The grid of evenly spaced slices, of which the first is the one at `position` of the slab."""
    turn = np.eye(4)
    turn[0, 0], turn[0, 3] = chosen[1] - chosen[0] if len(chosen) > 1 else 1, position
    return Space.from_matrix([len(chosen), *slab.shape[1:]], slab.matrix @ turn)


def _evenly(first: int, last: int, middle: int, count: int) -> list[int]:
    """Up to `count` indices with one step between them, among them `middle`; the outermost ones, which show little, are left out."""
    step = max(1, -(-(last - first + 1) // (count + 1)))
    return [index for index in range(middle - step * (count // 2), middle + step * (count // 2) + 1, step) if first <= index <= last][:count] or [middle]


def _square_pixels(space: Space, size: int) -> Space:
    """The same slice with square pixels, at most `size` on a side and none finer than the finest of the grid."""
    n = space.ndim
    extent, spacing = space.extent[-2:], np.asarray(space.spacing[-2:])
    pitch = max(float(spacing.min()), float(extent.max()) / size)
    shape = [max(1, round(float(side) / pitch)) for side in extent]
    scale, shift = np.eye(n + 1), np.zeros(n)
    for axis in (n - 2, n - 1):
        scale[axis, axis] = pitch / space.spacing[axis]
        shift[axis] = (space.shape[axis] - 1 - (shape[axis - n + 2] - 1) * scale[axis, axis]) / 2
    scale[:n, n] = shift
    return Space.from_matrix([*space.shape[:-2], *shape], space.matrix @ scale)


def page(array: Reals) -> Reals:
    """The middle slice (C, rows, columns)."""
    return array if array.ndim == 3 else array[:, array.shape[1] // 2]


def affine_part(transform: Transform, fixed: Image) -> AffineMap:
    """The affine map nearest to a transform over the foreground of the fixed image (least squares)."""
    n = fixed.space.ndim
    brightness = _brightness(fixed)
    found = np.flatnonzero(brightness > brightness.mean())
    if len(found) < 10 * n:
        found = np.flatnonzero(np.isfinite(brightness))
    indices = np.stack(np.unravel_index(found[:: max(1, len(found) // FIT_POINTS)], brightness.shape), axis=-1)
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
            step, start, size = 1, _first_of_slab(at, size), thickness
        turn[axis, position], turn[axis, n] = step, start
        shape.append(size)
    return Space.from_matrix(shape, space.matrix @ turn)


def _centre(fixed: Image) -> list[int]:
    """Index of the middle of the foreground."""
    return [(first + last) // 2 for first, last in _spans(fixed)]


def _brightness(image: Image) -> Reals:
    """Mean over channels."""
    values = image.array.astype(np.float32, copy=False)
    return values[0] if len(values) == 1 else values.mean(axis=0)


def _spans(fixed: Image) -> list[tuple[int, int]]:
    """First and last index of the foreground along every axis."""
    brightness = _brightness(fixed)
    foreground = brightness > brightness.mean()
    if not foreground.any():
        return [(0, size - 1) for size in foreground.shape]
    seen = [np.flatnonzero(foreground.any(axis=tuple(other for other in range(foreground.ndim) if other != axis))) for axis in range(foreground.ndim)]
    return [(int(span[0]), int(span[-1])) for span in seen]
