"""Laws of fields: identity, shifts, composition, integration, inversion, Jacobian, resizing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from nnreg.errors import GeometryError
from nnreg.geometry import compose, identity_grid, integrate, inverse, jacobian_determinant, resize, resize_field, sample_at, warp, warp_points


def interior(field: torch.Tensor, margin: int = 3) -> torch.Tensor:
    return field[(..., *(slice(margin, -margin),) * (field.ndim - 2))]


def test_zero_field_is_the_identity(shape):
    image = torch.randn(2, 3, *shape)
    assert torch.allclose(warp(image, torch.zeros(2, len(shape), *shape)), image, atol=1e-5)


def test_unit_shift_moves_one_voxel_along_its_own_axis(shape):
    image = torch.randn(1, 1, *shape)
    for axis in range(len(shape)):
        field = torch.zeros(1, len(shape), *shape)
        field[:, axis] = 1
        moved = warp(image, field).narrow(2 + axis, 0, shape[axis] - 1)
        assert torch.allclose(moved, image.narrow(2 + axis, 1, shape[axis] - 1), atol=1e-4)


def test_warp_agrees_with_scipy(shape, smooth_field):
    image, field = torch.randn(1, 1, *shape), smooth_field(shape, largest=2.5)
    positions = (identity_grid(shape) + field)[0].numpy()
    expected = map_coordinates(image[0, 0].numpy().astype(float), positions, order=1, mode="nearest")
    np.testing.assert_allclose(warp(image, field)[0, 0].numpy(), expected, atol=2e-4)


def test_warp_samples_a_moving_image_of_another_size(smooth_field):
    moving, field = torch.randn(1, 1, 13, 30), smooth_field((17, 24))
    positions = (identity_grid((17, 24)) + field)[0].numpy()
    expected = map_coordinates(moving[0, 0].numpy().astype(float), positions, order=1, mode="nearest")
    np.testing.assert_allclose(warp(moving, field)[0, 0].numpy(), expected, atol=2e-4)


def test_nearest_warp_returns_the_labels_and_their_dtype(shape, smooth_field):
    labels = torch.randint(0, 2000, (1, 1, *shape), dtype=torch.int16)
    warped = warp(labels, smooth_field(shape), mode="nearest")
    assert warped.dtype == torch.int16
    assert set(warped.unique().tolist()) <= set(labels.unique().tolist())


def test_zero_padding_and_border_padding_differ_outside():
    image = torch.ones(1, 1, 5, 7)
    field = torch.full((1, 2, 5, 7), 20.0)
    assert warp(image, field, padding="zeros").abs().max() == 0
    assert warp(image, field).min() == 1


def test_half_precision_input_is_warped_in_float32():
    image, field = torch.randn(1, 1, 9, 300), torch.zeros(1, 2, 9, 300)
    field[:, 1] = 0.03
    assert warp(image.half(), field.half()).dtype == torch.float32


def test_composition_of_shifts_adds_them(shape):
    ndim = len(shape)
    one, two = torch.zeros(1, ndim, *shape), torch.zeros(1, ndim, *shape)
    one[:, 0], two[:, -1] = 1.5, -0.5
    assert torch.allclose(interior(compose(one, two)), interior(one + two), atol=1e-5)


def test_warping_by_a_composition_is_warping_twice(smooth_field):
    shape = (40, 50)
    ramp = identity_grid(shape)  # linear in position, so that linear interpolation is exact
    outer, inner = smooth_field(shape, 2.0, seed=1), smooth_field(shape, 2.0, seed=2)
    twice = warp(warp(ramp, outer), inner)
    assert interior(twice - warp(ramp, compose(outer, inner)), 6).abs().max() < 1e-3


def test_inverse_undoes_the_field(shape, smooth_field):
    field = smooth_field(shape, largest=1.0)
    inverted, residual = inverse(field)
    assert interior(compose(field, inverted)).abs().max() < 0.02
    assert torch.allclose(residual, compose(field, inverted).norm(dim=1), atol=1e-6)


@pytest.mark.parametrize("factor", [0.3, 0.6, 1.8, 3.5])
def test_inverse_of_strong_shrinking_and_stretching(shape, factor):
    """Beyond a factor of two the plain fixed point iteration diverges."""
    centre = (torch.tensor(shape).float() - 1).reshape(1, -1, *(1,) * len(shape)) / 2
    offset = identity_grid(shape) - centre
    inverted, _ = inverse((factor - 1) * offset, iterations=100)
    reached = (offset.abs() < min(factor, 1.0) * centre - 0.1).all(dim=1, keepdim=True)  # elsewhere the inverse leaves the grid
    wrong = (inverted - (1 / factor - 1) * offset).abs().amax(dim=1, keepdim=True)
    assert reached.any()
    assert wrong[reached].max() < 0.01


def test_integrating_the_negative_velocity_gives_the_inverse(smooth_field):
    velocity = smooth_field((48, 40, 44), largest=1.5)  # linear interpolation of a coarser grid would leave more
    assert interior(compose(integrate(velocity), integrate(-velocity)), 5).abs().max() < 0.05


def test_integrating_a_constant_velocity_is_that_shift(shape):
    velocity = torch.full((1, len(shape), *shape), 0.75)
    assert torch.allclose(interior(integrate(velocity)), interior(velocity), atol=1e-4)


def test_jacobian_of_a_linear_map_is_its_determinant(shape):
    ndim = len(shape)
    matrix = torch.eye(ndim) + 0.2 * torch.randn(ndim, ndim)
    grid = identity_grid(shape)
    field = torch.einsum("kl,bl...->bk...", matrix - torch.eye(ndim), grid)
    assert torch.allclose(jacobian_determinant(field), torch.linalg.det(matrix).expand(1, *shape), atol=1e-3)


def test_reflection_folds_and_shear_keeps_volume():
    grid = identity_grid((8, 9, 7))
    reflection, shear = torch.zeros(1, 3, 8, 9, 7), torch.zeros(1, 3, 8, 9, 7)
    reflection[:, 0] = -2 * grid[:, 0]
    shear[:, 0] = 0.7 * grid[:, 2]
    assert torch.allclose(jacobian_determinant(reflection), torch.tensor(-1.0), atol=1e-4)
    assert torch.allclose(jacobian_determinant(shear), torch.tensor(1.0), atol=1e-4)


def test_resizing_a_linear_field_keeps_the_map():
    shape, finer = (9, 12, 7), (20, 23, 15)
    field = 0.1 * identity_grid(shape)  # scaling about the first corner, whatever the grid
    resized = resize_field(field, finer)
    assert torch.allclose(resized, 0.1 * identity_grid(finer), atol=1e-4)


def test_resizing_there_and_back_is_the_identity_on_smooth_fields(smooth_field):
    field = smooth_field((12, 15))
    assert torch.allclose(resize_field(resize_field(field, (45, 57)), (12, 15)), field, atol=0.05)


def test_points_follow_the_field(shape, smooth_field):
    field = smooth_field(shape)
    corner = torch.zeros(1, 1, len(shape))
    centre = (torch.tensor(shape, dtype=torch.float32) // 2).reshape(1, 1, -1)
    for point in (corner, centre):
        index = (0, slice(None), *point[0, 0].long().tolist())
        assert torch.allclose(warp_points(point, field)[0, 0], point[0, 0] + field[index], atol=1e-4)


def test_sampling_between_voxels_is_linear():
    line = torch.arange(6.0).reshape(1, 1, 6, 1).expand(1, 1, 6, 4)
    assert torch.allclose(sample_at(line, torch.tensor([[[2.25, 1.0]]])), torch.tensor([[[2.25]]]))


@pytest.mark.parametrize("bad", [torch.zeros(1, 3, 5, 5), torch.zeros(1, 2, 5), torch.zeros(2, 5, 5)])
def test_what_is_not_a_field_is_refused(bad):
    with pytest.raises(GeometryError, match="shape"):
        compose(bad, bad)


def test_an_axis_of_one_voxel_is_warped_along_the_others():
    image = torch.randn(1, 1, 1, 8, 9)
    field = torch.zeros(1, 3, 1, 8, 9)
    field[:, 2] = 1
    assert torch.allclose(warp(image, field)[..., :-1], image[..., 1:], atol=1e-5)
    assert resize(image, (1, 4, 5)).shape == (1, 1, 1, 4, 5)
