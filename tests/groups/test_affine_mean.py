"""The middle of affine maps."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import expm, logm

from nnreg.groups.affine_mean import centred, mean_logarithm


def matrices(ndim: int, count: int = 5, size: float = 0.2) -> list[np.ndarray]:
    rng = np.random.default_rng(ndim)
    result = []
    for _ in range(count):
        velocity = np.zeros((ndim + 1, ndim + 1))
        velocity[:ndim, :ndim] = size * rng.normal(size=(ndim, ndim))
        velocity[:ndim, ndim] = 20 * rng.normal(size=ndim)
        result.append(expm(velocity))
    return result


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_mean_logarithm_is_zero(ndim: int) -> None:
    found = centred(matrices(ndim))
    assert np.abs(np.mean([logm(matrix) for matrix in found], axis=0)).max() < 1e-8
    assert mean_logarithm(found) < 1e-8


def test_the_space_that_maps_begin_in_does_not_matter() -> None:
    given = matrices(3)
    other = expm(np.pad(0.1 * np.random.default_rng(1).normal(size=(3, 4)), ((0, 1), (0, 0))))
    for one, two in zip(centred(given), centred([matrix @ other for matrix in given]), strict=True):
        assert np.allclose(one, two, atol=1e-6)


def test_half_turns_leave_pose_and_centre_the_stretch() -> None:
    turned = np.diag([-1.0, -1.0, 1.0, 1.0])
    found = centred([np.diag([1.2, 1.0, 1.0, 1.0]), turned @ np.diag([1.0, 1.1, 1.0, 1.0])])
    assert mean_logarithm(found) < 1e-8
    assert found[1][0, 0] < 0  # still turned against the first
    assert np.linalg.det(found[0][:3, :3]) * np.linalg.det(found[1][:3, :3]) == pytest.approx(1.0)
