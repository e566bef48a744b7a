"""A field on a coarser grid than the images: what it is between its voxels, the forces on it, and the same in torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nnreg.kernels import reference, volumes, volumes_torch
from nnreg.kernels.correlation import Windows
from nnreg.kernels.volumes import Blocks
from tests.kernels.test_kernels import double, random

DIVIDED = [
    (Blocks((9, 10, 13), (2, 2, 2), (1, 0, 0)), (3, 4, 5, 6)),
    (Blocks((5, 10, 13), (1, 2, 2), (0, 0, 1)), (3, 5, 5, 6)),
    (Blocks((1, 11, 12), (1, 2, 2), (0, 1, 0)), (2, 1, 5, 6)),
]


@pytest.mark.parametrize(("blocks", "shape"), DIVIDED)
def test_images_are_sampled_by_a_field_that_is_linear_between_its_voxels(blocks, shape):
    field, image = random(*shape, seed=1) * 3 - 1.5, random(2, 8, 9, 10, seed=2)
    scale = np.asarray(blocks.factors[3 - len(field) :], np.float32).reshape(-1, 1, 1, 1)
    whole = volumes.sample(field, shape=blocks.shape, matrix=blocks.matrix) * scale
    expected = volumes.sample(image, whole)
    assert np.abs(volumes.sample(image, field, blocks=blocks) - expected).max() < 2e-5
    found = volumes.sample(torch.from_numpy(image), torch.from_numpy(field), blocks=blocks)
    assert np.abs(found.numpy() - expected).max() < 2e-5
    ranges = np.tile(np.array([3, 7], np.int32), (blocks.shape[0] * blocks.shape[1], 1))
    part = volumes.sample(image, field, blocks=blocks, ranges=ranges, out=np.zeros_like(expected))
    assert np.abs(part[..., 3:7] - expected[..., 3:7]).max() < 2e-5
    assert not part[..., :3].any()
    assert not part[..., 7:].any()


@pytest.mark.parametrize(("blocks", "shape"), DIVIDED)
def test_forces_are_means_over_blocks_in_voxels_of_the_field(blocks, shape):
    gradient, warped = random(2, *blocks.shape, seed=3) - 0.5, random(2, *blocks.shape, seed=4)
    gradient[:, :, :3] = 0  # rows of air are passed over
    force = reference.force(double(gradient), double(warped), shape[0]).numpy()
    inside = tuple(slice(start, start + factor * size) for start, factor, size in zip(blocks.starts, blocks.factors, shape[1:], strict=True))
    parts = force[(slice(None), *inside)].reshape(shape[0], *(n for pair in zip(shape[1:], blocks.factors, strict=True) for n in pair))
    means = parts.mean(axis=(2, 4, 6)) / np.asarray(blocks.factors[3 - shape[0] :]).reshape(-1, 1, 1, 1)
    for sigma in ((0.0, 0.0, 0.0), (0.7, 0.7, 0.7)):
        expected = reference.smooth(double(means.astype(np.float32)), [torch.from_numpy(volumes.gaussian(width)) for width in sigma]).numpy()
        out = np.empty(shape, np.float32)
        longest = volumes.smooth_force(gradient, warped, sigma, out=out, blocks=blocks)
        assert np.abs(out - expected).max() < 1e-5
        assert longest == pytest.approx(np.sqrt((expected**2).sum(axis=0)).max(), rel=1e-4)
        other = torch.empty(shape)
        assert float(volumes_torch.smooth_force(*(torch.from_numpy(array) for array in (gradient, warped)), sigma, out=other, blocks=blocks)) == pytest.approx(
            longest, rel=1e-4
        )
        assert np.abs(other.numpy() - expected).max() < 1e-5


@pytest.mark.parametrize(("blocks", "shape"), DIVIDED)
def test_voxels_of_a_block_share_its_value_and_matrices_take_its_middle(blocks, shape):
    values = random(*shape[1:], seed=5)
    found = blocks.repeated(values)
    assert found.shape == blocks.shape
    assert np.array_equal(blocks.repeated(torch.from_numpy(values)).numpy(), found)
    corner = blocks.starts
    assert found[corner] == values[0, 0, 0]
    back = np.vstack([blocks.before(volumes.IDENTITY), (0, 0, 0, 1)])
    assert np.allclose(np.vstack([blocks.matrix, (0, 0, 0, 1)]) @ back, np.eye(4), atol=1e-6)


def test_widths_are_found_by_what_they_spread():
    for spread in (0.0, 0.05, 0.5, 3.0):
        width = volumes.width_of(spread)
        assert volumes.spread_of(width) == pytest.approx(spread, abs=2e-3)


def test_rows_without_a_say_are_left_out_and_change_nothing():
    fixed, warped = np.full((14, 16, 15), 2.0, np.float32), random(14, 16, 15, seed=6)
    fixed[5:9, 6:10, 5:11] = random(4, 4, 6, seed=7)
    windows = Windows.of(fixed, (1, 2, 2), floor=1e-3)
    assert 0 < windows.busy.sum() < windows.busy.size
    every, some = windows.correlation(warped), windows.correlation(warped, skip=True)
    assert some[0] == pytest.approx(every[0], rel=1e-5)
    assert np.abs(some[1] - every[1]).max() < 1e-5 * np.abs(every[1]).max()
