"""Torch does on any device what the compiled loops do: each function beside the one it stands for, in 2D and 3D, on odd sizes and over all borders."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nnreg.kernels import backend, inversion, volumes, volumes_torch
from tests.kernels.test_kernels import SHAPES, fields_for, random

MATRIX = np.array([[0.9, 0.1, 0.0, 0.3], [-0.1, 0.8, 0.05, -0.4], [0.0, 0.1, 0.7, 0.6]], np.float32)


def same(compiled: np.ndarray, found: torch.Tensor, tolerance: float = 2e-5) -> bool:
    assert isinstance(found, torch.Tensor)
    assert found.shape == compiled.shape
    return bool(np.abs(found.numpy() - compiled).max() < tolerance)


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in arrays]


@pytest.mark.parametrize("shape", SHAPES)
def test_sample(shape):
    image = random(2, 8, 6, 7, seed=4)
    for field in fields_for(shape):
        for matrix in (MATRIX, volumes.IDENTITY):
            one, other = tensors(image, field)
            assert same(volumes.sample(image, field, matrix=matrix), volumes.sample(one, other, matrix=matrix))
    assert same(volumes.sample(image, shape=shape, matrix=MATRIX), volumes.sample(torch.from_numpy(image), shape=shape, matrix=MATRIX))


@pytest.mark.parametrize("shape", SHAPES)
def test_within(shape):
    for field in fields_for(shape):
        for matrix in (MATRIX, volumes.IDENTITY):
            found = volumes.within((6, 5, 7), field, matrix=matrix)
            indices = np.moveaxis(np.indices(shape), 0, -1).astype(np.float64)
            indices[..., 3 - len(field) :] += np.moveaxis(field, 0, -1)
            places = indices @ matrix[:, :3].T + matrix[:, 3]
            clear = (np.abs(places - np.rint(places - 0.5) - 0.5) > 1e-4).all(axis=-1)  # of the border of a voxel, by rounding
            expected = ((places > -0.5) & (places < np.array((6, 5, 7)) - 0.5)).all(axis=-1)
            assert (found == expected)[clear].all()
            assert (volumes.within((6, 5, 7), torch.from_numpy(field), matrix=matrix).numpy() == found)[clear].all()


@pytest.mark.parametrize("shape", SHAPES)
def test_compose_and_the_transpose_of_sampling(shape):
    for inner in fields_for(shape):
        outer = random(*inner.shape, seed=9)
        assert same(volumes.compose(outer, inner, scale=0.7), volumes.compose(*tensors(outer, inner), scale=0.7))
        if min(shape[3 - len(inner) :]) > 1:
            assert same(volumes.spread(outer, inner), volumes.spread(*tensors(outer, inner)))


@pytest.mark.parametrize("sigma", [(1.7, 1.7, 1.7), (0.0, 0.5, 3.3)])
@pytest.mark.parametrize("shape", SHAPES)
def test_smoothing_of_volumes_and_forces(shape, sigma):
    volume, gradient, warped = (random(2, *shape, seed=seed) - 0.5 for seed in (5, 6, 7))
    assert same(volumes.smooth(volume, sigma), volumes.smooth(torch.from_numpy(volume), sigma))
    for count in (3, 2) if shape[0] == 1 else (3,):
        out, result = np.empty((count, *shape), np.float32), torch.empty((count, *shape))
        longest = volumes.smooth_force(gradient, warped, sigma, out=out)
        found = volumes.smooth_force(*tensors(gradient, warped), sigma, out=result)
        assert same(out, result)
        assert float(found) == pytest.approx(longest, rel=1e-5)


@pytest.mark.parametrize("shape", [(24, 28, 26), (70, 64, 68), (1, 40, 44)])
def test_inverse(shape):
    coarse = np.random.default_rng(2).normal(size=(3 if shape[0] > 1 else 2, *(min(size, 6) for size in shape))).astype(np.float32)
    matrix = np.eye(3, 4, dtype=np.float32)
    matrix[range(3), range(3)] = [(small - 1) / max(1, size - 1) for small, size in zip(coarse.shape[1:], shape, strict=True)]
    field = volumes.sample(coarse * np.float32(0.7), shape=shape, matrix=matrix)
    compiled, found = inversion.inverted_volume(field), inversion.inverted_volume(torch.from_numpy(field))
    # where a voxel settles within rounding of the tolerance, one of them takes a step more
    assert same(compiled, found, float(inversion.TOLERANCE))
    assert np.abs(found.numpy() - compiled).mean() < 1e-4
    for one in (compiled, compiled * np.float32(0.5)):
        expected = inversion.unsettled(field, one)
        assert inversion.unsettled(*tensors(field, one)) == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_small_things():
    field, means = random(3, 4, 5, 6), random(2, 8, 6, 9)
    matrix = np.random.default_rng(0).normal(size=(3, 3))
    assert same(volumes.turned(field, matrix), volumes.turned(torch.from_numpy(field), matrix))
    assert same(volumes.block_means(means, (2, 3, 1)), volumes.block_means(torch.from_numpy(means), (2, 3, 1)))
    index, values = tuple(np.array(part) for part in ([0, 3, 0], [4, 1, 4], [2, 2, 2])), random(3, 3, seed=1)
    placed = tuple(torch.from_numpy(part) for part in index)
    assert same(volumes.added(field.copy(), index, values), volumes.added(torch.from_numpy(field), placed, torch.from_numpy(values)))


def test_products_are_exact_whatever_a_training_has_set():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with backend.computing_on(torch.device("cpu")):
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_every_function_has_its_twin():
    dispatched = [name for module in (volumes, inversion) for name, value in vars(module).items() if hasattr(value, "__wrapped__")]
    assert "sample" in dispatched
    assert "settle" in dispatched
    assert all(hasattr(volumes_torch, name) for name in dispatched if name not in ("gaussian", "width_of"))
