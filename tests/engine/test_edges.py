"""Squares of gradients are the same whatever the contrast, and bring shaded images of two contrasts nearer than mutual information alone."""

from __future__ import annotations

import numpy as np
import pytest

from nnreg.engine import register
from nnreg.engine.grids import Level
from nnreg.engine.prepared_image import PreparedImage
from nnreg.engine.similarities import find_similarity
from nnreg.engine.similarities.nmi_gradient import EDGE, edges
from nnreg.geometry import Space
from nnreg.imageio import Image
from tests.engine.pairs import error_voxels, known_pair


def side(shape: tuple[int, ...], spacing: tuple[float, ...], channels: int = 1) -> PreparedImage:
    array = np.random.default_rng(0).random((channels, *shape), dtype=np.float32)
    return PreparedImage(array, None, Space(shape, spacing, (0.0,) * len(shape), tuple(np.eye(len(shape)).ravel().tolist())))


def per_mm(one: PreparedImage) -> np.ndarray:
    return np.diag(1 / np.asarray(one.space.spacing))


@pytest.mark.parametrize(("shape", "spacing"), [((6, 7), (2.0, 0.5)), ((4, 6, 7), (3.0, 1.0, 2.0)), ((1, 6, 7), (3.0, 1.0, 1.0))])
def test_they_are_squares_of_gradients_per_mm(shape, spacing):
    one = side(shape, spacing, channels=2)
    gradient = [np.gradient(one.image, spacing[axis], axis=axis + 1) if shape[axis] > 1 else 0 * one.image for axis in range(len(shape))]
    square = sum((slope**2).sum(axis=0) for slope in gradient)
    scale = square + (EDGE * np.sqrt(square).mean()) ** 2
    expected = [(slope**2).sum(axis=0) / scale for slope in gradient]
    assert edges(one, 0.0, per_mm(one)).reshape(-1, *shape) == pytest.approx(np.stack(expected), abs=1e-5)


def test_a_reversed_or_stretched_contrast_has_the_same():
    one = side((9, 10, 11), (1.0, 1.0, 1.0))
    for array in (1 - one.image, 0.3 * one.image + 0.2):
        assert edges(PreparedImage(array, None, one.space), 0.5, per_mm(one)) == pytest.approx(edges(one, 0.5, per_mm(one)), abs=1e-5)


def test_a_constant_image_has_none():
    assert not edges(PreparedImage(np.ones((1, 5, 6), np.float32), None, Space.plain((5, 6))), 0.5, np.eye(2)).any()


def test_a_turned_grid_has_those_of_the_fixed_one():
    one = side((8, 9, 10), (1.0, 2.0, 1.5))
    turned = np.ascontiguousarray(np.swapaxes(one.image, 1, 3)[:, ::-1])  # voxel (i, j, k) is (9 - k, j, i) there
    matrix = np.array([[0, 0, -1, 9], [0, 1, 0, 0], [1, 0, 0, 0]], np.float32)
    other = PreparedImage(turned, None, Space((10, 9, 8), (1.5, 2.0, 1.0), (0.0,) * 3, one.space.direction))
    group = find_similarity("nmi+gradient").groups(Level(one, other, matrix, 1.0), 2.0)[1]
    assert np.swapaxes(group.moving[:, ::-1], 1, 3) == pytest.approx(group.term.fixed, abs=1e-5)


def test_a_shaded_image_of_another_contrast_ends_nearer_than_by_mutual_information_alone():
    fixed, moving, _, _, truth = known_pair(2, seed=5)
    values = fixed.array
    shading = np.linspace(0.3, 1.7, values.shape[-1], dtype=np.float32)
    other = Image(np.where(values > 20, 340 - values, values) * shading, fixed.space)
    alone = register(fixed=other, moving=moving, similarity="nmi", preset="fast")
    beside = register(fixed=other, moving=moving, similarity="nmi+gradient", preset="fast", initial=alone.start)
    assert error_voxels(beside.transform, truth, fixed) < 0.85 * error_voxels(alone.transform, truth, fixed)
