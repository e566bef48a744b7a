"""Which way the axes of an image run, and the same voxels with their axes in another order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nnreg.geometry.axis_permutation import AxisPermutation
from nnreg.geometry.space import Space

LETTERS = (("R", "L"), ("A", "P"), ("I", "S"))  # towards the negative and the positive end of world x, y, z (LPS)


def code(space: Space) -> str:
    """Orientation in the usual letters, image axis x first: ``LPS`` runs to the left, to the back and upwards.

    Examples
    --------
    >>> code(Space.plain((3, 4, 5)))
    'LPS'
    """
    worlds, signs = _axes(space)
    return "".join(LETTERS[world][int(sign > 0)] for world, sign in zip(worlds, signs, strict=True))


def _axes(space: Space) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """World axis nearest to each image axis (x first), each used once, and the sign along it."""
    direction = np.reshape(space.direction, (space.ndim, space.ndim))
    # 45 degree directions are near two world axes: the assignment uses each once
    # takes longer to import than all else that preprocessing needs, and every worker of it imports this module
    from scipy.optimize import linear_sum_assignment

    images, worlds = linear_sum_assignment(-np.abs(direction.T))
    return worlds, direction[worlds, images]


def permutation(orientation: str, wanted: str) -> tuple[int, ...]:
    """Array axes of an image of `orientation` in the order of the array axes of `wanted`: ``shape[permutation[k]]`` runs along its axis k."""
    ndim = len(orientation)
    kinds = {letter: index for index, pair in enumerate(LETTERS) for letter in pair}
    have = [kinds[letter] for letter in reversed(orientation)]
    return tuple(have.index(kinds[letter]) for letter in reversed(wanted[:ndim]))


def reoriented(space: Space, wanted: str) -> Space:
    """The grid through the same voxel centres whose axes run as `wanted` says, as nearly as its direction allows."""
    order = permutation(code(space), wanted)
    n = space.ndim
    matrix = space.matrix
    result = np.eye(n + 1)
    result[:n, :n] = matrix[:n, :n][:, list(order)]
    result[:n, n] = matrix[:n, n]
    shape = tuple(space.shape[axis] for axis in order)
    moved = Space.from_matrix(shape, result)
    for axis, (now, then) in enumerate(zip(reversed(code(moved)), reversed(wanted), strict=True)):
        if now != then:
            last = np.zeros(n)
            last[axis] = shape[axis] - 1
            result[:n, n] = result[:n, :n] @ last + result[:n, n]
            result[:n, axis] *= -1
    return Space.from_matrix(shape, result)


def turn_of(space: Space, wanted: str) -> AxisPermutation:
    """How an image on `space` is seen on the grid :func:`reoriented` of it."""
    found = code(space)
    order = permutation(found, wanted)
    letters = found[::-1]
    return AxisPermutation(order, tuple(axis for axis, (old, new) in enumerate(zip(order, reversed(wanted[: space.ndim]), strict=True)) if letters[old] != new))


def commonest(orientations: Sequence[str]) -> str:
    """The orientation most images have; the first in the alphabet of those that tie."""
    return min(set(orientations), key=lambda orientation: (-list(orientations).count(orientation), orientation))
