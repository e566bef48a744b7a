"""Field, landmark and similarity figures: analytic fields, and outside oracles."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy.ndimage import correlate1d

from nnreg import metrics
from nnreg.errors import GeometryError
from nnreg.geometry import identity_grid, inverse


def linear_field(matrix: np.ndarray, shape: tuple[int, ...]) -> torch.Tensor:
    """Displacement of ``x -> matrix x``."""
    return torch.einsum("jk,bk...->bj...", torch.tensor(matrix - np.eye(len(shape)), dtype=torch.float32), identity_grid(shape))


def interior(shape: tuple[int, ...], margin: int = 1) -> torch.Tensor:
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[(slice(margin, -margin),) * len(shape)] = True
    return mask


# -- regularity -------------------------------------------------------------------------------------------------------------------


def test_the_identity_is_perfectly_regular(shape):
    field = torch.zeros(1, len(shape), *shape)
    for figure in (metrics.sdlogj, metrics.sdlogj_learn2reg, metrics.folding_percent, metrics.non_diffeomorphic_volume, metrics.grad_l2):
        assert figure(field) == pytest.approx(0, abs=1e-12)


def test_a_shear_keeps_every_volume(shape):
    matrix = np.eye(len(shape))
    matrix[0, 1] = 0.8
    field = linear_field(matrix, shape)
    assert metrics.sdlogj(field) == pytest.approx(0, abs=1e-5)
    assert metrics.folding_percent(field) == 0
    assert metrics.non_diffeomorphic_volume(field) == 0
    # one of ndim * ndim derivatives is 0.8
    assert metrics.grad_l2(field) == pytest.approx(0.8**2 / len(shape) ** 2, rel=1e-4)


def test_a_scaling_changes_every_volume_alike(shape):
    field = linear_field(np.diag(np.linspace(0.6, 1.5, len(shape))), shape)
    assert metrics.sdlogj(field) == pytest.approx(0, abs=1e-4)
    assert metrics.non_diffeomorphic_volume(field) == 0


@pytest.mark.parametrize("axis", [0, 1])
def test_a_reflection_turns_everything_inside_out(shape, axis):
    matrix = np.eye(len(shape))
    matrix[axis, axis] = -1
    field = linear_field(matrix, shape)
    assert metrics.folding_percent(field) == 100
    assert metrics.non_diffeomorphic_volume(field) == pytest.approx(100, rel=1e-4)
    assert np.isnan(metrics.sdlogj(field))


def test_a_collapse_folds_but_has_no_volume(shape):
    field = linear_field(np.diag([0.0] + [1.0] * (len(shape) - 1)), shape)
    assert metrics.folding_percent(field) == 100
    assert metrics.non_diffeomorphic_volume(field) == pytest.approx(0, abs=1e-3)


def test_only_the_finite_differences_see_a_checkerboard_fold(shape):
    field = torch.zeros(1, len(shape), *shape)
    field[0, 0] = 0.8 * (1 - 2 * (identity_grid(shape)[0].sum(0) % 2))
    inside = interior(shape)
    assert metrics.folding_percent(field, inside) == 0
    assert metrics.non_diffeomorphic_volume(field, inside) > 5


def test_non_diffeomorphic_volume_is_the_negative_volume_of_the_simplices(shape):
    """Each unit cube (square) is split into simplices in two ways; here simplex by simplex, with numpy's determinant."""
    n = len(shape)
    field = 0.5 * torch.randn(n, *shape, generator=torch.Generator().manual_seed(1))
    position = (field + identity_grid(shape)[0]).double().numpy()
    faces = np.array([[1, 1, 0], [0, 1, 1], [1, 0, 1]])
    total = 0.0
    for voxel in itertools.product(*(range(1, size - 1) for size in shape)):
        centre = position[(slice(None), *voxel)]
        offsets = [np.diag(signs) for signs in itertools.product((1, -1), repeat=n)] + ([faces, -faces] if n == 3 else [])
        for corners in offsets:
            edges = np.stack([position[(slice(None), *(np.add(voxel, corner)))] - centre for corner in corners])
            # the orientation that the same simplex has where nothing is displaced
            total += 0.5 * max(0.0, -np.linalg.det(edges) * np.sign(np.linalg.det(corners))) / (6 if n == 3 else 2)
    expected = 100 * total / np.prod([size - 2 for size in shape])
    assert metrics.non_diffeomorphic_volume(field) == pytest.approx(expected, rel=1e-4)


def test_slabs_do_not_change_the_volume(shape, monkeypatch):
    field = torch.randn(2, len(shape), *shape, generator=torch.Generator().manual_seed(2))
    whole = metrics.non_diffeomorphic_volume(field)
    monkeypatch.setattr("nnreg.metrics.fields.SLAB_VOXELS", 1)
    assert metrics.non_diffeomorphic_volume(field) == pytest.approx(whole, rel=1e-6)


def test_determinants_agree_with_itk(shape, smooth_field):
    field = smooth_field(shape, 2.0)
    vectors = np.moveaxis(field[0].numpy()[::-1], 0, -1).astype(np.float64)
    image = sitk.GetImageFromArray(np.ascontiguousarray(vectors), isVector=True)
    determinant = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(image))
    inside = interior(shape, 2)
    values = determinant[inside.numpy()]
    assert metrics.sdlogj(field, inside) == pytest.approx(np.log(values[values > 0]).std(), rel=1e-3)
    assert metrics.folding_percent(field, inside) == pytest.approx(100 * (values <= 0).mean())
    assert metrics.folding_count(field, inside) == (values <= 0).sum()
    assert metrics.regularity(field, inside) == (metrics.sdlogj(field, inside), *metrics.folding(field, inside))


def test_learn2regs_figure_is_what_its_evaluation_computes(shape, smooth_field):
    field = smooth_field(shape, 3.0)[0].numpy().astype(np.float64)
    n = len(shape)
    jacobian = np.stack([[correlate1d(field[i], [-0.5, 0, 0.5], axis=k, mode="constant") for k in range(n)] for i in range(n)])
    jacobian += np.eye(n).reshape(n, n, *(1,) * n)
    inner = (slice(None), slice(None), *(slice(2, -2),) * n)
    determinant = np.linalg.det(np.moveaxis(jacobian[inner], (0, 1), (-2, -1)))
    expected = np.log(np.clip(determinant + 3, 1e-9, 1e9)).std()
    assert metrics.sdlogj_learn2reg(field) == pytest.approx(expected, rel=1e-4)


def test_a_mask_restricts_what_counts(shape):
    matrix = np.eye(len(shape))
    matrix[0, 0] = -1
    field = linear_field(matrix, shape)
    half = torch.zeros(shape, dtype=torch.bool)
    half[: shape[0] // 2] = True
    field[:, :, half] = 0
    left, right = half.clone(), ~half
    left[shape[0] // 2 - 1] = False  # its neighbour lies on the other side
    right[shape[0] // 2] = False
    assert metrics.folding_percent(field, left[None]) == 0
    assert metrics.folding_percent(field, right) == 100
    assert metrics.non_diffeomorphic_volume(field, left) == 0
    assert metrics.non_diffeomorphic_volume(field, right) == pytest.approx(100, rel=1e-4)
    assert np.isnan(metrics.folding_percent(field, torch.zeros(shape)))


def test_what_cannot_be_differentiated_is_nan():
    field = torch.zeros(1, 3, 1, 8, 9)
    for figure in (metrics.sdlogj, metrics.sdlogj_learn2reg, metrics.folding_percent, metrics.non_diffeomorphic_volume):
        assert np.isnan(figure(field))
    assert metrics.grad_l2(field) == 0


def test_gradients_in_mm(shape, smooth_field):
    field = smooth_field(shape)
    assert metrics.grad_l2(field, spacing=(2.0,) * len(shape)) == pytest.approx(metrics.grad_l2(field), rel=1e-5)
    matrix = np.eye(len(shape))
    matrix[0, 1] = 0.5
    spacing = (3.0, 1.5, 1.0)[: len(shape)]
    # half a voxel of 3 mm over one voxel of 1.5 mm
    assert metrics.grad_l2(linear_field(matrix, shape), spacing=spacing) == pytest.approx(1.0 / len(shape) ** 2, rel=1e-4)


# -- distances between fields -----------------------------------------------------------------------------------------------------


def test_endpoint_error_of_a_constant_shift(shape, smooth_field):
    field = smooth_field(shape)
    shift = torch.arange(1, len(shape) + 1, dtype=torch.float32).reshape(1, -1, *(1,) * len(shape))
    spacing = (2.0, 0.5, 1.5)[: len(shape)]
    assert metrics.endpoint_error(field, field) == 0
    assert metrics.endpoint_error(field + shift, field) == pytest.approx(float(shift.norm()), rel=1e-5)
    in_mm = float(np.linalg.norm(np.arange(1, len(shape) + 1) * spacing))
    assert metrics.endpoint_error((field + shift)[0].numpy(), field, spacing=spacing) == pytest.approx(in_mm, rel=1e-5)


def test_a_map_and_its_inverse_are_consistent(shape, smooth_field):
    field = smooth_field(shape, 1.5)
    backward, _ = inverse(field)
    inside = interior(shape, 3)
    good = metrics.inverse_consistency_error(backward, field, mask=inside)
    assert good < 0.01
    bad = metrics.inverse_consistency_error(torch.zeros_like(field), field, mask=inside)
    assert bad == pytest.approx(float(field.norm(dim=1)[:, inside].mean()), rel=1e-5)
    assert metrics.inverse_consistency_error(torch.zeros_like(field), field, mask=inside, spacing=(2.0,) * len(shape)) == pytest.approx(2 * bad, rel=1e-5)


def test_positions_outside_do_not_count_for_consistency(shape):
    shift = torch.zeros(1, len(shape), *shape)
    shift[:, 0] = 2
    assert metrics.inverse_consistency_error(shift, -shift) == 0
    assert np.isnan(metrics.inverse_consistency_error(1000 + shift, -shift))


def test_fields_of_other_grids_are_refused(shape):
    field = torch.zeros(len(shape), *shape)
    with pytest.raises(GeometryError, match="fixed grid"):
        metrics.endpoint_error(field, torch.zeros(len(shape), *shape[::-1]))
    with pytest.raises(GeometryError, match="mask"):
        metrics.sdlogj(field, torch.ones(shape[::-1]))
    with pytest.raises(GeometryError, match="displacement field"):
        metrics.sdlogj(torch.zeros(*shape))
    with pytest.raises(GeometryError, match="spacings"):
        metrics.grad_l2(field, spacing=(1.0,))


# -- points and similarity --------------------------------------------------------------------------------------------------------


def test_landmark_distances():
    mapped, target = np.zeros((3, 3)), np.array([[3.0, 4, 0], [0, 0, 0], [0, 0, 2]])
    assert metrics.point_distances(mapped, target).tolist() == [5, 0, 2]
    assert metrics.tre(torch.from_numpy(mapped), target) == pytest.approx(7 / 3)
    assert np.isnan(metrics.tre(np.zeros((0, 2)), np.zeros((0, 2))))
    with pytest.raises(GeometryError):
        metrics.tre(mapped, target[:2])


def test_correlation_ignores_contrast_and_sees_inversion(shape):
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(1, *shape)), rng.normal(size=(1, *shape))
    assert metrics.ncc(one, 3 * one + 7) == pytest.approx(1)
    assert metrics.ncc(one, -2 * one) == pytest.approx(-1)
    assert metrics.ncc(torch.from_numpy(one), other) == pytest.approx(np.corrcoef(one.ravel(), other.ravel())[0, 1])
    assert np.isnan(metrics.ncc(one, np.ones_like(one)))


def test_differences_within_a_mask(shape):
    rng = np.random.default_rng(0)
    one, mask = rng.normal(size=(2, *shape)), rng.random(shape) > 0.5
    other = one + 2 * mask - 5 * ~mask
    assert metrics.mse(one, other, mask) == pytest.approx(4)
    assert metrics.mae(one, other, ~mask) == pytest.approx(5)
    assert metrics.mae(one, one) == metrics.mse(one, one) == 0
    assert np.isnan(metrics.mse(one, other, np.zeros(shape)))
    with pytest.raises(GeometryError):
        metrics.mse(one, other, np.ones((3, 3)))


def test_psnr_is_that_of_its_definition():
    reference, prediction = np.array([[0.0, 10.0], [4.0, 6.0]]), np.array([[1.0, 9.0], [5.0, 5.0]])
    assert metrics.rmse(reference, prediction) == 1
    assert metrics.psnr(reference, prediction) == pytest.approx(20)
    assert metrics.psnr(reference, prediction, data_range=100) == pytest.approx(40)
    assert metrics.psnr(reference, reference) == np.inf
    assert np.isnan(metrics.psnr(np.ones(3), np.zeros(3)))
    mask = np.array([[1, 1], [0, 0]])
    assert metrics.psnr(reference, np.where(mask, prediction, np.nan), mask) == pytest.approx(20)


def naive_ssim(first, second, extent):
    """Wang et al. 2004, window by window."""
    line = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    weights = functools.reduce(np.multiply.outer, [line] * first.ndim)
    weights /= weights.sum()
    found = []
    for start in np.ndindex(*(size - 10 for size in first.shape)):
        x, y = (image[tuple(slice(low, low + 11) for low in start)] for image in (first, second))
        mean_x, mean_y = (weights * x).sum(), (weights * y).sum()
        variance_x, variance_y, covariance = (
            (weights * (a - b) * (c - d)).sum() for a, b, c, d in ((x, mean_x, x, mean_x), (y, mean_y, y, mean_y), (x, mean_x, y, mean_y))
        )
        one, two = (0.01 * extent) ** 2, (0.03 * extent) ** 2
        found.append((2 * mean_x * mean_y + one) * (2 * covariance + two) / ((mean_x**2 + mean_y**2 + one) * (variance_x + variance_y + two)))
    return np.mean(found)


@pytest.mark.parametrize("shape", [(17, 14), (12, 13, 14)])
def test_ssim_is_that_of_its_definition(shape):
    rng = np.random.default_rng(0)
    first = rng.normal(size=shape)
    second = 0.7 * first + 0.3 * rng.normal(size=shape)
    assert metrics.ssim(first, second) == pytest.approx(naive_ssim(first, second, np.ptp(first)), rel=1e-6)
    assert metrics.ssim(first, first) == pytest.approx(1)
    shifted = np.roll(second, 1, axis=0)
    mask = np.ones(shape, bool)
    mask[13:] = False
    hidden = np.where(mask, second, 1e6)
    if len(shape) == 2:
        expected = naive_ssim(first[:13], second[:13], np.ptp(first[:13]))
        assert metrics.ssim(first, hidden, mask) == pytest.approx(expected, rel=1e-6)
    assert metrics.ssim(first, shifted) < metrics.ssim(first, second)


def test_ssim_of_a_thin_volume_is_the_mean_of_its_slices():
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(3, 15, 13)), rng.normal(size=(3, 15, 13))
    slices = [metrics.ssim(one, other, data_range=4.0) for one, other in zip(first, second, strict=True)]
    assert metrics.ssim(first, second, data_range=4.0) == pytest.approx(np.mean(slices))
    assert np.isnan(metrics.ssim(first[:, :9, :9], second[:, :9, :9]))
