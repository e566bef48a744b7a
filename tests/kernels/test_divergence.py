"""Stretching and shrinking of a field evened out, compiled and in torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nnreg.kernels import volumes

SHARES = (0.05, 0.1, 0.02)


def field_of(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def slope(values, axis):
    """Central differences, 0 on the border."""
    result = np.zeros_like(values)
    inner = [slice(None)] * values.ndim
    inner[axis] = slice(1, -1)
    if values.shape[axis] > 2:
        result[tuple(inner)] = np.gradient(values, axis=axis)[tuple(inner)]
    return result


@pytest.mark.parametrize("shape", [(3, 9, 11, 13), (2, 1, 9, 12), (3, 1, 5, 6), (3, 2, 2, 2)])
def test_adds_the_gradient_of_the_divergence(shape):
    field = field_of(shape)
    first = 3 - len(field)
    divergence = sum(slope(field[k], first + k) for k in range(len(field)))
    wanted = np.stack([field[k] + SHARES[first + k] * slope(divergence, first + k) for k in range(len(field))])
    tensor = volumes.smooth_divergence(torch.from_numpy(field.copy()), SHARES).numpy()
    found = volumes.smooth_divergence(field, SHARES)
    assert found is field
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    np.testing.assert_allclose(tensor, wanted, atol=1e-6)


def test_a_turn_stays_and_a_wave_of_stretching_shrinks():
    z, y, x = np.meshgrid(*[np.arange(24, dtype=np.float32)] * 3, indexing="ij")
    turned = np.stack([0 * z, 0.1 * (x - 12), -0.1 * (y - 12)])
    assert np.array_equal(volumes.smooth_divergence(turned.copy(), (0.1, 0.1, 0.1)), turned)
    wave = np.stack([0 * z, 0 * y, np.sin(np.pi / 4 * x)])
    found = volumes.smooth_divergence(wave.copy(), (0.1, 0.1, 0.1))
    inner = (2, slice(None), slice(None), slice(2, -2))
    np.testing.assert_allclose(found[inner], wave[inner] * (1 - 0.1 * np.sin(np.pi / 4) ** 2), atol=1e-5)
