"""Edges are the same whatever the contrast, and bring shaded images of two contrasts nearer than mutual information alone."""

from __future__ import annotations

import numpy as np
import pytest

from nnreg.engine import register
from nnreg.engine.prepared_image import PreparedImage
from nnreg.engine.similarities.nmi_gradient import EDGE, edges
from nnreg.geometry import Space
from nnreg.imageio import Image
from tests.engine.pairs import error_voxels, known_pair


def side(shape: tuple[int, ...], spacing: tuple[float, ...], channels: int = 1) -> PreparedImage:
    array = np.random.default_rng(0).random((channels, *shape), dtype=np.float32)
    return PreparedImage(array, None, Space(shape, spacing, (0.0,) * len(shape), tuple(np.eye(len(shape)).ravel().tolist())))


@pytest.mark.parametrize(("shape", "spacing"), [((6, 7), (2.0, 0.5)), ((4, 6, 7), (3.0, 1.0, 2.0)), ((1, 6, 7), (3.0, 1.0, 1.0))])
def test_they_are_lengths_of_gradients_per_mm(shape, spacing):
    one = side(shape, spacing, channels=2)
    axes = [axis for axis, size in enumerate(shape) if size > 1]
    length = np.sqrt(sum((np.gradient(one.image, spacing[axis], axis=axis + 1) ** 2).sum(axis=0) for axis in axes))
    expected = length / (length + EDGE * length.mean())
    assert edges(one, 0.0).reshape(shape) == pytest.approx(expected, abs=1e-5)


def test_a_reversed_or_stretched_contrast_has_the_same():
    one = side((9, 10, 11), (1.0, 1.0, 1.0))
    for array in (1 - one.image, 0.3 * one.image + 0.2):
        assert edges(PreparedImage(array, None, one.space), 0.5) == pytest.approx(edges(one, 0.5), abs=1e-5)


def test_a_constant_image_has_none():
    assert not edges(PreparedImage(np.ones((1, 5, 6), np.float32), None, Space.plain((5, 6))), 0.5).any()


def test_a_shaded_image_of_another_contrast_ends_nearer_than_by_mutual_information_alone():
    fixed, moving, _, _, truth = known_pair(2, seed=5)
    values = fixed.array
    shading = np.linspace(0.3, 1.7, values.shape[-1], dtype=np.float32)
    other = Image(np.where(values > 20, 340 - values, values) * shading, fixed.space)
    alone = register(fixed=other, moving=moving, similarity="nmi", preset="fast")
    beside = register(fixed=other, moving=moving, similarity="nmi+gradient", preset="fast", initial=alone.start)
    assert error_voxels(beside.transform, truth, fixed) < 0.85 * error_voxels(alone.transform, truth, fixed)
