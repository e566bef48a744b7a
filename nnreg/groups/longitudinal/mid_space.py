"""The space in the middle of some images: where each lies by linear maps, and a grid that favours none of them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.linalg import expm, logm

from nnreg.arrays import Doubles
from nnreg.errors import RegistrationError
from nnreg.geometry import Space
from nnreg.geometry.space import apply_matrix

ROUNDS = 100
SETTLED = 1e-10


def logarithm(matrix: Doubles) -> Doubles:
    """The principal logarithm of a homogeneous matrix.

    Raises
    ------
    RegistrationError
        If it is not real: half a turn, or a mirrored image, has no middle.
    """
    found, error = logm(matrix, disp=False)
    if np.abs(np.imag(found)).max() > 1e-6 or not error < 1e-3:
        raise RegistrationError("two images are half a turn apart or mirrored, so there is no space in their middle. Check their headers.")
    return np.asarray(np.real(found))


def middle(matrices: Mapping[tuple[int, int], Doubles], count: int) -> list[Doubles]:
    """Maps from the space in the middle of `count` images to each of them.

    Both directions of a pair count alike, and no image comes first: the maps fit the pairs by least squares of logarithms, and their own logarithms sum to
    zero. Of two images each map is the square root of the way between them.

    Parameters
    ----------
    matrices : (i, j) to array (ndim+1, ndim+1)
        From the world of image i to that of image j, for every ordered pair.

    Returns
    -------
    list of arrays (ndim+1, ndim+1)
    """
    both = {(i, j): _between(matrix, np.asarray(np.linalg.inv(matrices[j, i]), np.float64)) for (i, j), matrix in matrices.items()}
    size = next(iter(matrices.values())).shape[0]
    maps = [np.eye(size) if i == 0 else both[0, i] for i in range(count)]
    for _ in range(ROUNDS):
        steps = [np.sum([logarithm(np.linalg.inv(maps[i]) @ both[j, i] @ maps[j]) for j in range(count) if j != i], axis=0) / count for i in range(count)]
        maps = [matrix @ expm(step) for matrix, step in zip(maps, steps, strict=True)]
        if np.abs(steps).max() < SETTLED:
            break
    for _ in range(ROUNDS):
        mean = np.mean([logarithm(matrix) for matrix in maps], axis=0)
        if np.abs(mean).max() < SETTLED:
            break
        maps = [matrix @ expm(-mean) for matrix in maps]
    return maps


def _between(one: Doubles, other: Doubles) -> Doubles:
    """Halfway from one map to another."""
    return np.asarray(one @ expm(logarithm(np.linalg.inv(one) @ other) / 2))


def middle_grid(spaces: Sequence[Space], maps: Sequence[Doubles]) -> Space:
    """A grid in the middle space that holds what every image shows: mean directions and spacings, along the axes of the world.

    Parameters
    ----------
    spaces : of the images
    maps : from the middle space to the world of each
    """
    n = spaces[0].ndim
    placed = [np.linalg.inv(matrix) @ space.matrix for space, matrix in zip(spaces, maps, strict=True)]
    steps = np.stack([_along_world(matrix[:n, :n]) for matrix in placed])
    lengths = np.linalg.norm(steps, axis=1)
    left, _, right = np.linalg.svd((steps / lengths[:, None]).mean(axis=0))
    direction, spacing = left @ right, np.exp(np.log(lengths).mean(axis=0))
    corners = (
        np.concatenate([apply_matrix(np.asarray(np.linalg.inv(matrix), np.float64), space.corners()) for space, matrix in zip(spaces, maps, strict=True)])
        @ direction
    )
    low, high = corners.min(axis=0), corners.max(axis=0)
    shape = np.ceil((high - low) / spacing - 0.01).astype(int) + 1
    grid = Space(tuple(shape[::-1].tolist()), tuple(spacing[::-1].tolist()), (0.0,) * n, tuple(direction.ravel().tolist()))
    return grid.centred(direction @ ((low + high) / 2), grid.shape, grid.spacing)


def _along_world(steps: Doubles) -> Doubles:
    """Columns, steps from voxel to voxel, in the order and sense of the world axes that they follow best."""
    n = len(steps)
    unit = np.abs(steps / np.linalg.norm(steps, axis=0))
    order = max(itertools.permutations(range(n)), key=lambda columns: sum(unit[axis, column] for axis, column in enumerate(columns)))
    ordered = steps[:, list(order)]
    return np.asarray(ordered * np.where(np.diag(ordered) < 0, -1, 1))
