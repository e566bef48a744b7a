"""The compiled sampler of volumes is torch's."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as nnf

from nnreg.geometry import warp
from nnreg.geometry.fields import Padding, _sampling_grid

SHAPES = [((5, 6, 7), (5, 6, 7)), ((1, 6, 7), (4, 3, 5)), ((5, 6, 1), (2, 6, 9)), ((9, 3, 8), (2, 11, 4))]


@pytest.mark.parametrize(("moving_shape", "fixed_shape"), SHAPES)
@pytest.mark.parametrize("padding", ["border", "zeros"])
@pytest.mark.parametrize("channels", [1, 5])
def test_values_and_gradients_are_those_of_grid_sample(
    moving_shape: tuple[int, int, int], fixed_shape: tuple[int, int, int], padding: Padding, channels: int
) -> None:
    image = torch.randn(2, channels, *moving_shape, requires_grad=True)
    field = (3 * torch.randn(2, 3, *fixed_shape)).requires_grad_()  # many positions lie outside
    found = warp(image, field, padding=padding)
    # in float64, so that the difference is that of the compiled code alone
    grid = _sampling_grid(field.double(), moving_shape)
    expected = nnf.grid_sample(image.double(), grid, padding_mode=padding, align_corners=True)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    weights = torch.randn_like(found)
    for one, other in zip(torch.autograd.grad(found, (image, field), weights), torch.autograd.grad(expected, (image, field), weights.double()), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_threads_change_nothing() -> None:
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            torch.manual_seed(0)
            image, field = torch.randn(1, 4, 7, 8, 9, requires_grad=True), torch.randn(1, 3, 7, 8, 9, requires_grad=True)
            warped = warp(image, field)
            results.append([warped, *torch.autograd.grad(warped.square().sum(), (image, field))])
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_a_position_that_is_no_number_shows_as_such() -> None:
    field = torch.zeros(1, 3, 4, 5, 6)
    field[0, 0, 1, 1, 1] = float("nan")
    field[0, 1, 2, 2, 2] = float("inf")
    field[0, 2, 3, 3, 3] = -1e30
    image = torch.ones(1, 1, 4, 5, 6)
    border, zeros = warp(image, field)[0, 0], warp(image, field, padding="zeros")[0, 0]
    assert torch.isnan(border[1, 1, 1])
    assert torch.isnan(zeros[1, 1, 1])
    assert border[3, 3, 3] == border[2, 2, 2] == 1
    assert zeros[3, 3, 3] == 0
