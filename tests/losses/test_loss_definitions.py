"""Each loss against its definition, written out or by another library."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from nnreg.errors import ConfigurationError
from nnreg.geometry import identity_grid
from nnreg.losses import LNCC, MSE, NCC, Bending, Diffusion, SoftDice
from nnreg.losses.lncc import box_sum

pytestmark = pytest.mark.usefixtures("one_thread")


def lncc_by_definition(fixed: np.ndarray, warped: np.ndarray, window: tuple[int, ...], mask: np.ndarray) -> float:
    """Squared correlation of every window's voxels inside the image and the mask, by numpy, averaged over the mask."""
    scores = []
    for centre in np.argwhere(mask):
        box = tuple(slice(max(0, c - w // 2), c + w // 2 + 1) for c, w in zip(centre, window, strict=True))
        a, b = fixed[box][mask[box]], warped[box][mask[box]]
        scores.append(0.0 if a.size < 2 or a.std() == 0 or b.std() == 0 else np.corrcoef(a, b)[0, 1] ** 2)
    return -float(np.mean(scores))


class TestLNCC:
    @pytest.mark.parametrize(("shape", "window"), [((9, 12), (5, 3)), ((6, 5, 7), (3, 5, 3)), ((4, 9), (9, 9))])
    @pytest.mark.parametrize("masked", [False, True])
    def test_is_the_mean_squared_correlation_of_windows(self, shape: tuple[int, ...], window: tuple[int, ...], masked: bool) -> None:
        rng = np.random.default_rng(0)
        fixed, warped = rng.normal(size=shape), rng.normal(size=shape)
        mask = rng.random(shape) > 0.3 if masked else np.ones(shape, dtype=bool)
        value = LNCC(window)(
            fixed=torch.from_numpy(fixed)[None, None], warped=torch.from_numpy(warped)[None, None], mask=torch.from_numpy(mask)[None, None] if masked else None
        )
        assert float(value) == pytest.approx(lncc_by_definition(fixed, warped, window, mask), abs=1e-6)

    @pytest.mark.parametrize("shape", [(1, 2, 5, 4), (2, 1, 3, 4, 3)])
    @pytest.mark.parametrize("masked", [False, True])
    @pytest.mark.parametrize("smoothing", [{}, {"smooth_nr": 1e-2, "smooth_dr": 2.0}])
    def test_the_gradient_is_exact(self, shape: tuple[int, ...], masked: bool, smoothing: dict[str, float]) -> None:
        mask = torch.rand(shape[0], 1, *shape[2:]) > 0.3 if masked else None
        images = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(2)]
        assert torch.autograd.gradcheck(lambda fixed, warped: LNCC(3, **smoothing)(fixed=fixed, warped=warped, mask=mask), images)

    def test_ignores_a_change_of_contrast(self) -> None:
        fixed, warped = torch.rand(1, 1, 11, 13), torch.rand(1, 1, 11, 13)
        torch.testing.assert_close(LNCC(5)(fixed=fixed, warped=-3 * warped + 2), LNCC(5)(fixed=fixed, warped=warped), rtol=1e-4, atol=1e-5)

    def test_keeps_its_digits_under_an_offset(self) -> None:
        """CT numbers: a small contrast on a large value."""
        fixed, warped = torch.randn(1, 1, 9, 10, 11), torch.randn(1, 1, 9, 10, 11)
        plain = LNCC(5)(fixed=fixed, warped=warped)
        torch.testing.assert_close(LNCC(5)(fixed=fixed + 1000, warped=warped + 1000), plain, rtol=1e-3, atol=1e-4)

    def test_flat_windows_score_nothing_and_pull_nothing(self) -> None:
        """A structured half beside a flat one whose level is not the image's mean."""
        fixed = torch.full((1, 1, 12, 20), 0.7)
        fixed[..., :8] = torch.randn(12, 8)
        warped = fixed.clone()
        warped[..., 8:] = -1.3
        warped.requires_grad_()
        value = LNCC(3)(fixed=fixed, warped=warped)
        value.backward()
        score = -float(value.detach())
        windows = (ndimage.maximum_filter(fixed[0, 0].numpy(), 3) != ndimage.minimum_filter(fixed[0, 0].numpy(), 3)).mean()
        assert 0.5 * windows < score <= windows + 1e-6
        assert warped.grad is not None
        assert (warped.grad[..., 10:] == 0).all()

    def test_smoothing_does_not_make_flat_pairs_perfect(self) -> None:
        flat = LNCC(9, smooth_nr=1e-4, smooth_dr=1e-2)(fixed=torch.full((1, 1, 16, 16), 0.9), warped=torch.full((1, 1, 16, 16), 0.2))
        assert float(flat) == 0

    def test_channels_are_averaged_not_mixed(self) -> None:
        fixed, warped = torch.randn(1, 3, 9, 9), torch.randn(1, 3, 9, 9)
        single = [LNCC(5)(fixed=fixed[:, c : c + 1], warped=warped[:, c : c + 1]) for c in range(3)]
        torch.testing.assert_close(LNCC(5)(fixed=fixed, warped=warped), torch.stack(single).mean())

    def test_one_size_per_axis(self) -> None:
        with pytest.raises(ConfigurationError, match="axes"):
            LNCC((3, 3))(fixed=torch.zeros(1, 1, 4, 4, 4), warped=torch.zeros(1, 1, 4, 4, 4))


@pytest.mark.parametrize("window", [(1, 1, 1), (3, 5, 7), (9, 9, 9), (13, 1, 11)])
def test_box_sums_are_scipys(window: tuple[int, int, int]) -> None:
    values = np.random.default_rng(0).normal(size=(2, 7, 10, 9))
    expected = np.stack([ndimage.uniform_filter(v, window, mode="constant") * np.prod(window) for v in values])
    np.testing.assert_allclose(box_sum(torch.from_numpy(values), window).numpy(), expected, atol=1e-9)


def test_ncc_is_numpys(shape: tuple[int, ...]) -> None:
    a, b = torch.randn(2, 3, *shape), torch.randn(2, 3, *shape)
    expected = np.mean([np.corrcoef(x.ravel(), y.ravel())[0, 1] for x, y in zip(a.numpy().reshape(6, -1), b.numpy().reshape(6, -1), strict=True)])
    assert float(NCC()(warped=a, fixed=b)) == pytest.approx(-expected, abs=1e-5)
    torch.testing.assert_close(NCC()(warped=5 * a - 2, fixed=b), NCC()(warped=a, fixed=b))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("loss", [NCC(), NCC(squared=True), MSE(), SoftDice()], ids=lambda loss: type(loss).__name__)
def test_gradients_are_exact(loss: torch.nn.Module, masked: bool) -> None:
    mask = torch.rand(2, 1, 4, 5) > 0.3 if masked else None
    images = [torch.rand(2, 2, 4, 5, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda warped, fixed: loss(warped=warped, fixed=fixed, mask=mask), images)


def affine(shape: tuple[int, ...], matrix: Tensor) -> Tensor:
    return (matrix @ identity_grid(shape).flatten(2)[0]).reshape(1, len(shape), *shape)


class TestRegularisers:
    def test_diffusion_of_an_affine_field_is_its_matrix(self, shape: tuple[int, ...]) -> None:
        matrix = torch.randn(len(shape), len(shape))
        field = affine(shape, matrix)
        torch.testing.assert_close(Diffusion()(field), matrix.square().mean(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(Diffusion("l1")(field), matrix.abs().mean(), rtol=1e-4, atol=1e-5)

    def test_spacing_makes_the_gradient_one_of_mm(self, shape: tuple[int, ...]) -> None:
        """The same field in mm on a grid of another spacing costs the same."""
        n = len(shape)
        matrix, spacing = torch.randn(n, n), torch.tensor([0.8, 3.0, 1.7][:n])
        in_voxels = matrix * spacing[None, :] / spacing[:, None]
        torch.testing.assert_close(Diffusion()(affine(shape, in_voxels), spacing=spacing.tolist()), matrix.square().mean(), rtol=1e-4, atol=1e-4)

    def test_bending_spares_affine_fields(self, shape: tuple[int, ...], smooth_field: Callable[..., Tensor]) -> None:
        field = smooth_field(shape)
        bent = Bending()(field)
        torch.testing.assert_close(Bending()(field + affine(shape, torch.randn(len(shape), len(shape)))), bent, rtol=1e-3, atol=1e-6)

    def test_bending_of_a_quadratic_field_is_its_hessian(self, shape: tuple[int, ...]) -> None:
        n = len(shape)
        hessians = torch.randn(n, n, n)
        hessians = hessians + hessians.transpose(1, 2)
        spacing = torch.tensor([0.8, 2.0, 1.5][:n])
        grid = identity_grid(shape).flatten(2)[0] * spacing[:, None]
        in_mm = torch.einsum("kij,iv,jv->kv", hessians, grid, grid) / 2
        field = (in_mm / spacing[:, None]).reshape(1, n, *shape)
        torch.testing.assert_close(Bending()(field, spacing=spacing.tolist()), hessians.square().sum(dim=(1, 2)).mean(), rtol=1e-2, atol=1e-3)

    @pytest.mark.parametrize("loss", [Diffusion(), Diffusion("l1"), Bending()], ids=["l2", "l1", "bending"])
    def test_gradients_are_exact(self, loss: torch.nn.Module) -> None:
        field = torch.randn(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda u: loss(u, spacing=(1.0, 2.0)), [field])


class TestSoftDice:
    def test_of_sharp_maps_is_the_dice_of_sets(self) -> None:
        a, b = torch.rand(2, 3, 8, 9) > 0.5, torch.rand(2, 3, 8, 9) > 0.6
        expected = np.mean([2 * (x & y).sum() / (x.sum() + y.sum()) for x, y in zip(a.flatten(0, 1).numpy(), b.flatten(0, 1).numpy(), strict=True)])
        assert float(SoftDice()(warped=a.float(), fixed=b.float())) == pytest.approx(-expected, abs=1e-4)
        assert float(SoftDice(form="one_minus")(warped=a.float(), fixed=b.float())) == pytest.approx(1 - expected, abs=1e-4)

    def test_an_absent_label_counts_as_found(self) -> None:
        absent = torch.zeros(1, 1, 6, 6)
        assert float(SoftDice()(warped=absent, fixed=absent)) == -1

    def test_the_batch_is_one_image_if_asked(self) -> None:
        warped, fixed = torch.rand(3, 2, 5, 6), (torch.rand(3, 2, 5, 6) > 0.5).float()
        joined = [images.transpose(0, 1).reshape(1, 2, 15, 6) for images in (warped, fixed)]
        torch.testing.assert_close(SoftDice(batch_dice=True)(warped=warped, fixed=fixed), SoftDice()(warped=joined[0], fixed=joined[1]))


def test_lncc_drives_a_shift_back() -> None:
    """The gradient with respect to a displacement, through the warp, points the right way for every direction."""
    from nnreg.geometry import warp

    blobs = torch.from_numpy(ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(24, 26)), 2)).float()[None, None]
    for direction in itertools.product((-1.0, 0.0, 1.0), repeat=2):
        shift = torch.tensor(direction).reshape(1, 2, 1, 1)
        fixed = warp(blobs, shift.expand(1, 2, 24, 26))
        guess = torch.zeros(1, 2, 1, 1, requires_grad=True)
        (pull,) = torch.autograd.grad(LNCC(9)(warped=warp(blobs, guess.expand(1, 2, 24, 26)), fixed=fixed), guess)
        assert (-(pull * shift).sum() > 0) == any(direction)


@pytest.mark.parametrize("masked", [False, True])
def test_lncc_by_the_compiled_sweep_is_that_of_torch(shape: tuple[int, ...], masked: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    fixed, warped = (torch.rand(2, 2, *shape, generator=generator) for _ in range(2))
    mask = torch.rand(2, 1, *shape, generator=generator) > 0.3 if masked else None
    values, gradients = [], []
    for dtype in (torch.float32, torch.float64):  # double precision takes torch's way
        pair = [image.to(dtype, copy=True).requires_grad_() for image in (fixed, warped)]
        value = LNCC(5)(fixed=pair[0], warped=pair[1], mask=mask)
        value.backward()
        values.append(float(value.detach()))
        gradients.append(torch.stack([image.grad.double() for image in pair if image.grad is not None]))
    assert values[0] == pytest.approx(values[1], abs=1e-5)
    assert float((gradients[0] - gradients[1]).abs().max()) < 1e-3 * float(gradients[1].abs().max())
