"""Losses that hold a field against another, against points, or against folding; and similarities against the engine's own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from nnreg import metrics
from nnreg.engine.mind import mind
from nnreg.engine.similarity import MutualInformation
from nnreg.errors import ConfigurationError
from nnreg.geometry import identity_grid, inverse
from nnreg.losses import MIND, NMI, Elastic, InverseConsistency, Keypoints, NonDiffeomorphicVolume, TrueField, build_loss
from nnreg.losses import mind as mind_module
from nnreg.losses import regularization as regularisation

pytestmark = pytest.mark.usefixtures("one_thread")
SPACING = (0.8, 2.5, 1.5)


def unit_image(shape: tuple[int, ...], seed: int) -> Tensor:
    """Values that span [0, 1] exactly, as the engine's images do."""
    image = torch.from_numpy(np.random.default_rng(seed).random((1, 1, *shape)).astype(np.float32))
    return (image - image.amin()) / (image.amax() - image.amin())


class TestSimilaritiesAreTheEngines:
    def test_mutual_information(self, shape: tuple[int, ...]) -> None:
        fixed, warped = unit_image(shape, 0), unit_image(shape, 1)
        volume = (1, *shape) if len(shape) == 3 else (1, shape[0], 1, shape[1])
        value, gradient = MutualInformation(fixed.numpy().reshape(volume))(warped.numpy().reshape(volume), np.ones(volume[1:], np.float32))
        for dtype in (torch.float32, torch.float64):  # the compiled histogram, and torch's
            image = warped.to(dtype, copy=True).requires_grad_()
            loss = NMI()(warped=image, fixed=fixed.to(dtype))
            loss.backward()
            assert float(loss.detach()) == pytest.approx(-value, abs=1e-6)
            assert image.grad is not None
            np.testing.assert_allclose(-image.grad.numpy().reshape(volume), gradient, atol=1e-5 * np.abs(gradient).max() + 1e-9)

    def test_self_similarity(self, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
        fixed, warped = unit_image(shape, 0), unit_image(shape, 1)
        volume = (1, *shape) if len(shape) == 3 else (1, shape[0], 1, shape[1])
        expected = np.square(mind(fixed.numpy().reshape(volume)) - mind(warped.numpy().reshape(volume))).mean()
        values = [float(MIND()(warped=warped, fixed=fixed))]
        monkeypatch.setattr(mind_module, "SLAB_VOXELS", 3 * fixed[0, 0, 0].numel())  # slabs of three rows
        values.append(float(MIND()(warped=warped, fixed=fixed)))
        assert values == pytest.approx([expected] * 2, rel=1e-4)

    @pytest.mark.parametrize("masked", [False, True])
    def test_gradients_are_exact(self, masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(mind_module, "SLAB_VOXELS", 20)
        mask = torch.rand(1, 1, 6, 5) > 0.3 if masked else None
        pair = [torch.rand(1, 1, 6, 5, dtype=torch.float64, requires_grad=True) for _ in range(2)]
        assert torch.autograd.gradcheck(lambda fixed, warped: MIND(dilation=1)(fixed=fixed, warped=warped, mask=mask), pair, fast_mode=True)
        assert torch.autograd.gradcheck(lambda warped: NMI(8, limits=(-0.2, 1.2))(fixed=pair[0].detach(), warped=warped, mask=mask), pair[1:], fast_mode=True)

    def test_mutual_information_is_blind_to_how_contrast_is_mapped(self) -> None:
        fixed = unit_image((16, 18), 0)
        other = (fixed - 0.3).abs()
        noise = unit_image((16, 18), 1)
        assert float(NMI(8)(warped=other, fixed=fixed)) < float(NMI(8)(warped=noise, fixed=fixed)) - 0.1
        # beyond the limits nothing pulls
        warped = (4 * other).requires_grad_()
        NMI(8, limits=(0.0, 1.0))(warped=warped, fixed=fixed).backward()
        assert warped.grad is not None
        assert (warped.grad[warped > 1] == 0).all()
        assert (warped.grad[warped < 0.9] != 0).any()

    def test_refuse_wrong_arguments(self) -> None:
        for name, options in (("nmi", {"bins": 3}), ("nmi", {"limits": [1.0, 0.0]}), ("mind", {"dilation": 0}), ("mind", {"radius": -1})):
            with pytest.raises(ConfigurationError, match=name):
                build_loss(name, **options)


class TestFieldPairs:
    def test_the_error_of_a_field_is_the_metrics(self, shape: tuple[int, ...], smooth_field: Callable[..., Tensor]) -> None:
        field, truth, spacing = smooth_field(shape), smooth_field(shape, seed=1), SPACING[: len(shape)]
        for steps in (None, spacing):
            assert float(TrueField("l2")(field, truth, spacing=steps)) == pytest.approx(metrics.endpoint_error(field, truth, spacing=steps), rel=1e-5)
        assert float(TrueField()(field, truth)) == pytest.approx(float((field - truth).square().sum(dim=1).mean()), rel=1e-5)

    def test_inverse_consistency_is_the_metrics(self, shape: tuple[int, ...], smooth_field: Callable[..., Tensor]) -> None:
        field, other, spacing = smooth_field(shape), smooth_field(shape, seed=1), SPACING[: len(shape)]
        for steps in (None, spacing):
            expected = metrics.inverse_consistency_error(field, other, spacing=steps)
            assert float(InverseConsistency("l2")(field, backward=other, spacing=steps)) == pytest.approx(expected, rel=1e-4)
        back = inverse(field)[0]
        assert float(InverseConsistency()(field, backward=back)) < 0.05 * float(InverseConsistency()(field, backward=other))

    def test_masks_and_perfect_fields(self, smooth_field: Callable[..., Tensor]) -> None:
        field = smooth_field((9, 11)).requires_grad_()
        mask = torch.rand(1, 1, 9, 11) > 0.5
        for norm in ("l2", "squared"):
            spoiled = torch.where(mask, field.detach() + 1, float("nan"))
            assert float(TrueField(norm)(field.detach(), spoiled, mask=mask)) == pytest.approx(2**0.5 if norm == "l2" else 2.0, rel=1e-5)
            for value in (TrueField(norm)(field, field.detach()), TrueField(norm)(field, spoiled, mask=torch.zeros_like(mask))):
                (gradient,) = torch.autograd.grad(value, field)
                assert value == 0
                assert (gradient == 0).all()
        still = torch.zeros(1, 2, 9, 11, requires_grad=True)
        (gradient,) = torch.autograd.grad(InverseConsistency("l2")(still, backward=still), still)
        assert torch.isfinite(gradient).all()

    def test_half_precision_is_scored_in_full(self, smooth_field: Callable[..., Tensor]) -> None:
        field, truth = smooth_field((9, 11)).half(), smooth_field((9, 11), seed=1).half()
        for loss in (TrueField(), InverseConsistency()):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                value = loss(field, truth)
            torch.testing.assert_close(value, loss(field.float(), truth.float()))

    def test_refuse_what_does_not_fit(self) -> None:
        field = torch.zeros(1, 2, 6, 7)
        for loss in (TrueField(), InverseConsistency()):
            with pytest.raises(ConfigurationError, match="one shape"):
                loss(field, field[..., :-1])
        with pytest.raises(ConfigurationError, match="correspond"):
            Keypoints()(torch.zeros(1, 3, 2), torch.zeros(1, 4, 2))
        for name in ("dvf", "inverse_consistency", "keypoints"):
            with pytest.raises(ConfigurationError, match="norm"):
                build_loss(name, norm="l3")


def test_keypoints_are_the_target_registration_error() -> None:
    mapped, target = torch.randn(1, 20, 3), torch.randn(1, 20, 3)
    assert float(Keypoints()(mapped, target)) == pytest.approx(metrics.tre(mapped[0], target[0]), rel=1e-5)
    gone = mapped.clone()
    gone[:, 10:] = float("nan")
    assert float(Keypoints()(gone, target)) == pytest.approx(metrics.tre(mapped[0, :10], target[0, :10]), rel=1e-5)
    mapped.requires_grad_()
    for value in (Keypoints()(mapped, mapped.detach()), Keypoints()(mapped, target * float("nan"))):
        (gradient,) = torch.autograd.grad(value, mapped)
        assert value == 0
        assert (gradient == 0).all()


class TestFolding:
    def test_is_the_metric(self, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
        field = 1.5 * torch.randn(2, len(shape), *shape)
        expected = metrics.non_diffeomorphic_volume(field) / 100
        assert expected > 0.01
        assert float(NonDiffeomorphicVolume()(field)) == pytest.approx(expected, rel=1e-4)
        monkeypatch.setattr(regularisation, "SLAB_VOXELS", 1)
        assert float(NonDiffeomorphicVolume()(field)) == pytest.approx(expected, rel=1e-4)

    def test_no_fold_no_cost(self, shape: tuple[int, ...], smooth_field: Callable[..., Tensor]) -> None:
        field = smooth_field(shape, largest=0.2).requires_grad_()
        value = NonDiffeomorphicVolume()(field)
        value.backward()
        assert value == 0
        assert field.grad is not None
        assert (field.grad == 0).all()
        assert NonDiffeomorphicVolume(margin=1.0)(field) > 0
        assert NonDiffeomorphicVolume()(torch.randn(1, 2, 2, 9)) == 0

    def test_the_gradient_is_exact(self) -> None:
        for shape in ((5, 4), (4, 3, 4)):
            field = 2 * torch.randn(1, len(shape), *shape, dtype=torch.float64)
            assert torch.autograd.gradcheck(lambda u: NonDiffeomorphicVolume(margin=0.1)(u), [field.requires_grad_()], fast_mode=True)


class TestElastic:
    def test_energy_of_an_affine_field_is_that_of_its_strain(self, shape: tuple[int, ...]) -> None:
        n = len(shape)
        matrix, spacing = torch.randn(n, n), torch.tensor(SPACING[:n])
        grid = identity_grid(shape).flatten(2)[0] * spacing[:, None]
        field = ((matrix @ grid) / spacing[:, None]).reshape(1, n, *shape)
        strain = (matrix + matrix.T) / 2
        expected = 0.7 * strain.square().sum() + 1.3 / 2 * strain.trace() ** 2
        torch.testing.assert_close(Elastic(shear=0.7, compression=1.3)(field, spacing=spacing.tolist()), expected, rtol=1e-3, atol=1e-3)

    def test_an_infinitesimal_rotation_costs_nothing(self, shape: tuple[int, ...]) -> None:
        n = len(shape)
        matrix = torch.randn(n, n)
        field = ((matrix - matrix.T) @ identity_grid(shape).flatten(2)[0]).reshape(1, n, *shape)
        assert float(Elastic()(field)) == pytest.approx(0, abs=1e-6)

    def test_the_gradient_is_exact(self) -> None:
        field = torch.randn(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda u: Elastic()(u, spacing=(1.0, 2.0)), [field])
