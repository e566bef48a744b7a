"""One contract for every loss."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from dense_cases import DENSE, TARGETS
from torch import Tensor, nn

from nnreg.errors import ConfigurationError
from nnreg.losses import LOSSES, DeepSupervision, build_loss, deep_supervision_weights

pytestmark = pytest.mark.usefixtures("one_thread")


SHAPES = [(12, 15), (7, 9, 8)]
COMPARISONS: dict[str, tuple[str, dict[str, Any]]] = {
    "lncc": ("lncc", {"window": 5}),
    "lncc smoothed": ("lncc", {"window": 5, "smooth_nr": 1e-4, "smooth_dr": 1e-2}),
    "ncc": ("ncc", {}),
    "ncc squared": ("ncc", {"squared": True}),
    "mse": ("mse", {}),
    "nmi": ("nmi", {"bins": 6}),
    "mind": ("mind", {"dilation": 1}),
    "soft_dice": ("soft_dice", {}),
    "soft_dice one minus": ("soft_dice", {"form": "one_minus", "smooth": 1.0, "batch_dice": True}),
}
REGULARISERS: dict[str, tuple[str, dict[str, Any]]] = {
    "diffusion": ("diffusion", {}),
    "diffusion l1": ("diffusion", {"norm": "l1"}),
    "bending": ("bending", {}),
    "elastic": ("elastic", {}),
}


def content(name: str, shape: tuple[int, ...], batch: int = 2, channels: int = 2) -> Tensor:
    """Images, or for an overlap one-hot labels."""
    values = torch.randn(batch, channels, *shape)
    return (values > 0).float() if name.startswith("soft_dice") else values


def test_every_registered_loss_is_under_a_contract() -> None:
    named = {name for name, _ in [*COMPARISONS.values(), *REGULARISERS.values(), *DENSE.values(), *TARGETS.values()]}
    classes = {LOSSES[name] for name in named}
    of_their_own = {"ndv", "dvf", "inverse_consistency", "keypoints"}  # test_field_losses
    assert {name for name, loss in LOSSES.items() if loss not in classes} == of_their_own


@pytest.mark.parametrize("shape", SHAPES, ids=["2d", "3d"])
@pytest.mark.parametrize(("name", "options"), COMPARISONS.values(), ids=COMPARISONS.keys())
class TestEveryComparison:
    def check(self, value: Tensor, warped: Tensor) -> None:
        assert value.shape == ()
        assert value.dtype == torch.float32
        assert torch.isfinite(value)
        value.backward()
        assert warped.grad is not None
        assert torch.isfinite(warped.grad).all()

    @pytest.mark.parametrize("level", [0.0, 1.0], ids=["empty", "full"])
    @pytest.mark.parametrize("other", ["same", "structured"])
    def test_flat_images_are_finite(self, name: str, options: dict[str, Any], shape: tuple[int, ...], level: float, other: str) -> None:
        warped = torch.full((1, 2, *shape), level, requires_grad=True)
        fixed = torch.full((1, 2, *shape), level) if other == "same" else content(name, shape, batch=1)
        self.check(build_loss(name, **options)(warped=warped, fixed=fixed), warped)
        flat_fixed = fixed if other == "same" else torch.full_like(fixed, level)
        structured = content(name, shape, batch=1).requires_grad_()
        self.check(build_loss(name, **options)(warped=structured, fixed=flat_fixed), structured)

    def test_everything_ignored_leaves_no_gradient(self, name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
        warped = content(name, shape).requires_grad_()
        self.check(build_loss(name, **options)(warped=warped, fixed=content(name, shape), mask=torch.zeros(2, 1, *shape, dtype=torch.bool)), warped)
        assert warped.grad is not None
        assert (warped.grad == 0).all()

    def test_what_is_ignored_does_not_count(self, name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
        loss, warped, fixed = build_loss(name, **options), content(name, shape), content(name, shape)
        mask = torch.rand(2, 1, *shape) > 0.3
        expected = loss(warped=warped, fixed=fixed, mask=mask)
        assert not torch.isclose(expected, loss(warped=warped, fixed=fixed))
        spoiled = torch.where(mask, warped, float("nan")).requires_grad_()
        value = loss(warped=spoiled, fixed=torch.where(mask, fixed, 7.0), mask=mask)
        torch.testing.assert_close(value, expected)
        self.check(value, spoiled)

    def test_a_mask_of_ones_is_no_mask(self, name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
        loss, warped, fixed = build_loss(name, **options), content(name, shape), content(name, shape)
        torch.testing.assert_close(loss(warped=warped, fixed=fixed, mask=torch.ones(2, 1, *shape)), loss(warped=warped, fixed=fixed))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_half_precision_is_scored_in_full(self, name: str, options: dict[str, Any], shape: tuple[int, ...], dtype: torch.dtype) -> None:
        warped, fixed = content(name, shape).to(dtype).requires_grad_(), content(name, shape).to(dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = build_loss(name, **options)(warped=warped, fixed=fixed)
        torch.testing.assert_close(value, build_loss(name, **options)(warped=warped.float(), fixed=fixed.float()))
        self.check(value, warped)

    def test_a_perfect_match_is_the_minimum(self, name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
        loss, fixed = build_loss(name, **options), content(name, shape, batch=1)
        perfect = float(loss(warped=fixed, fixed=fixed))
        assert perfect < float(loss(warped=content(name, shape, batch=1), fixed=fixed)) - 0.01
        # soft bins: moving every value to the middle of its bin sharpens a histogram by a hair
        slack = 1e-3 if name == "nmi" else 0.0
        for _ in range(5):
            nudged = (fixed + 0.05 * torch.randn_like(fixed)).clamp(0, 1) if name == "soft_dice" else fixed + 0.05 * torch.randn_like(fixed)
            assert float(loss(warped=nudged, fixed=fixed)) > perfect - slack

    def test_descent_improves_the_match(self, name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
        loss, fixed, warped = build_loss(name, **options), content(name, shape, batch=1), content(name, shape, batch=1).requires_grad_()
        value = loss(warped=warped, fixed=fixed)
        (gradient,) = torch.autograd.grad(value, warped)
        assert gradient.norm() > 0
        step = warped - 1e-2 * gradient / gradient.abs().max()
        assert loss(warped=step.detach(), fixed=fixed) < value

    def test_refuses_shapes_that_differ(self, name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
        loss, images = build_loss(name, **options), content(name, shape)
        with pytest.raises(ConfigurationError, match="one shape"):
            loss(warped=images[:1], fixed=images)
        with pytest.raises(ConfigurationError, match="mask"):
            loss(warped=images, fixed=images, mask=torch.ones_like(images))


@pytest.mark.parametrize(("name", "options"), REGULARISERS.values(), ids=REGULARISERS.keys())
class TestEveryRegulariser:
    def test_nothing_moves_nothing_costs(self, name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
        still = torch.ones(1, len(shape), *shape, requires_grad=True)
        value = build_loss(name, **options)(still)
        value.backward()
        assert value == 0
        assert still.grad is not None
        assert torch.isfinite(still.grad).all()

    def test_any_other_field_costs(self, name: str, options: dict[str, Any], shape: tuple[int, ...], smooth_field: Callable[..., Tensor]) -> None:
        field = smooth_field(shape, batch=2).requires_grad_()
        value = build_loss(name, **options)(field, spacing=(1.5,) * len(shape))
        assert value.dtype == torch.float32
        assert value > 0
        value.backward()
        assert field.grad is not None
        assert torch.isfinite(field.grad).all()
        assert field.grad.norm() > 0

    def test_half_precision_is_scored_in_full(self, name: str, options: dict[str, Any], shape: tuple[int, ...], smooth_field: Callable[..., Tensor]) -> None:
        field = smooth_field(shape).half()
        value = build_loss(name, **options)(field)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, build_loss(name, **options)(field.float()))

    def test_short_axes_are_left_out(self, name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
        loss = build_loss(name, **options)
        flat = torch.randn(1, len(shape), 1, *shape[1:], requires_grad=True)
        value = loss(flat)
        assert torch.isfinite(value)
        assert value > 0
        point = torch.randn(1, len(shape), *(1,) * len(shape), requires_grad=True)
        loss(point).backward()
        assert point.grad is not None
        assert (point.grad == 0).all()

    def test_refuses_wrong_spacing(self, name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
        for spacing in ((1.0,), (0.0,) * len(shape)):
            with pytest.raises(ConfigurationError, match="spacing"):
                build_loss(name, **options)(torch.zeros(1, len(shape), *shape), spacing=spacing)


class TestDeepSupervision:
    def test_is_the_weighted_sum(self) -> None:
        pairs = [(torch.randn(1, 1, size, size), torch.randn(1, 1, size, size)) for size in (8, 4, 2)]
        loss = build_loss("mse")
        total = DeepSupervision(loss, (0.5, 0.3, 0.2))(warped=[w for w, _ in pairs], fixed=[f for _, f in pairs], mask=None)
        torch.testing.assert_close(total, sum(weight * loss(warped=w, fixed=f) for weight, (w, f) in zip((0.5, 0.3, 0.2), pairs, strict=True)))

    def test_a_level_without_weight_is_not_computed(self) -> None:
        class Counting(nn.Module):
            calls = 0

            def forward(self, field: Tensor, spacing: object = None) -> Tensor:
                self.calls += 1
                return field.sum()

        loss = Counting()
        fields = [torch.ones(1, 2, size, size) for size in (8, 4, 2)]
        assert DeepSupervision(loss, (1.0, 0.0, 0.5))(fields, spacing=[None] * 3) == fields[0].sum() + 0.5 * fields[2].sum()
        assert loss.calls == 2

    def test_refuses_lists_of_another_length(self) -> None:
        images = [torch.zeros(1, 1, 4, 4)]
        with pytest.raises(ConfigurationError, match="levels"):
            DeepSupervision(build_loss("mse"), (0.5, 0.5))(warped=images, fixed=images)
        with pytest.raises(ConfigurationError, match="non-zero"):
            DeepSupervision(build_loss("mse"), (0.0,))

    @pytest.mark.parametrize("levels", range(1, 8))
    def test_weights_halve_and_sum_to_one(self, levels: int) -> None:
        for keep in (True, False):
            weights = deep_supervision_weights(levels, keep_lowest=keep)
            assert len(weights) == levels
            assert sum(weights) == pytest.approx(1)
            trained = levels if keep or levels == 1 else levels - 1
            assert all(fine == pytest.approx(2 * coarse) for fine, coarse in pairwise(weights[:trained]))
            assert all(weight == 0 for weight in weights[trained:])


def test_unknown_names_and_arguments_are_named() -> None:
    with pytest.raises(ConfigurationError, match="lncc"):
        build_loss("lnccc")
    with pytest.raises(ConfigurationError, match="windw"):
        build_loss("lncc", windw=9)
    for name, options in (("lncc", {"window": 4}), ("lncc", {"smooth_dr": 0.0}), ("diffusion", {"norm": "l3"}), ("soft_dice", {"form": "dice"})):
        with pytest.raises(ConfigurationError):
            build_loss(name, **options)
