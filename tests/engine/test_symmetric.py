"""Both directions agree: the opposite of a map undoes it, and exchanging the images inverts what is found."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nnreg.engine import register
from nnreg.engine.grids import Level
from nnreg.engine.prepared_image import PreparedImage
from nnreg.engine.symmetric import halfway, opposite
from nnreg.geometry import Space, Transform, resize_field
from tests.engine.pairs import known_pair


def level_of(ndim: int) -> Level:
    """Two grids of other sizes and a turned, stretched linear map from one to the other, all volume indices."""
    shapes = ((40, 36), (44, 30)) if ndim == 2 else ((18, 22, 26), (20, 18, 30))
    sides = [PreparedImage(np.zeros((1, *shape), np.float32), None, Space.plain(shape)) for shape in shapes]
    matrix = np.eye(4)
    first = 3 - ndim
    turn = np.array([[0.9, -0.2, 0.0], [0.15, 1.1, 0.1], [0.0, -0.1, 0.95]])[:ndim, :ndim]
    centres = [(np.asarray(shape) - 1) / 2 for shape in shapes]
    matrix[first:3, first:3] = turn
    matrix[first:3, 3] = centres[1] - turn @ centres[0]
    return Level(*sides, np.ascontiguousarray(matrix[:3], dtype=np.float32), 1.0)


def smooth_field(level: Level, ndim: int) -> np.ndarray:
    """A field of up to two voxels on the moving grid, still at its border."""
    coarse = torch.randn(1, ndim, *(6,) * ndim, generator=torch.Generator().manual_seed(ndim))
    inner = torch.zeros_like(coarse)
    window = (slice(None), slice(None), *(slice(2, 4),) * ndim)
    inner[window] = coarse[window]
    shape = level.moving.space.shape
    field = resize_field(inner, shape)[0].numpy()
    field *= 2 / np.abs(field).max()
    return np.ascontiguousarray(field if ndim == 3 else field[:, None], dtype=np.float32)


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_opposite_of_the_opposite_is_the_map(ndim):
    level = level_of(ndim)
    field = smooth_field(level, ndim)
    there = opposite(field, level)
    assert there.shape == (ndim, *level.grid)
    assert np.abs(there).max() > 0.5
    back = opposite(there, level.swapped())
    assert np.linalg.norm(back - field) < 0.2 * np.linalg.norm(field)  # interpolated twice, and the field bends within four voxels
    # and halfway between a map and the inverse of what undoes it is the map
    assert np.abs(halfway(there, field, level) - there).max() < 1e-5


@pytest.mark.parametrize("ndim", [2, 3])
def test_there_and_back_through_a_linear_map_leaves_nothing(ndim):
    level, first = level_of(ndim), 3 - ndim
    field = smooth_field(level, ndim)
    there = opposite(field, level)
    inside = tuple(slice(8, -8) for _ in range(ndim)) if ndim == 2 else (slice(5, -5),) * 3
    points = np.stack(np.meshgrid(*(np.arange(size) for size in level.fixed.space.shape), indexing="ij"))[(slice(None), *inside)].reshape(ndim, -1)
    moved = points + there[(slice(None), *((0,) * first), *points)]
    linear, shift = level.matrix[first:, first:3], level.matrix[first:, 3:]
    there_indices = linear @ moved + shift
    step = np.stack([interpolated(component, there_indices) for component in (field if ndim == 3 else field[:, 0])])
    left = np.linalg.inv(linear) @ (there_indices + step - shift) - points
    assert np.percentile(np.linalg.norm(left, axis=0), 95) < 0.1


def interpolated(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    from scipy.ndimage import map_coordinates

    return map_coordinates(image, points, order=1, mode="nearest")


def test_exchanging_the_images_inverts_a_symmetric_registration():
    fixed, moving, _, _, truth = known_pair(2, seed=4)
    start = Transform((truth.stages[1],), 2)
    points = fixed.space.to_world(np.argwhere(fixed.array[0] > 60))
    left = {}
    for symmetric in (False, True):
        there = register(fixed=fixed, moving=moving, initial=start, symmetric=symmetric, similarity="lncc").transform
        back = register(fixed=moving, moving=fixed, initial=start.inverse(), symmetric=symmetric, similarity="lncc").transform
        left[symmetric] = float(np.linalg.norm(back.map_points(there.map_points(points)) - points, axis=1).mean())
    assert left[True] < 0.6 * left[False]
    assert left[True] < 0.13  # mm


def test_a_map_whose_inverse_is_not_found_is_not_averaged_with():
    level = level_of(3)
    torn = np.zeros((3, *level.moving.space.shape), np.float32)
    torn[2] = 9 * np.sin(np.arange(torn.shape[3]) * 1.5)
    assert opposite(torn, level) is None
    assert halfway(level.empty_field(), torn, level) is None
    assert halfway(level.empty_field(), smooth_field(level, 3), level) is not None
