"""One contract for the losses of dense prediction: empty, full, ignored, masked, one sample, half precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dense_cases import DENSE, TARGETS
from torch import Tensor

from nnreg.errors import ConfigurationError
from nnreg.losses import LOSSES, DeepSupervision, build_loss
from nnreg.losses.dense import DenseLoss

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPES = [(11, 14), (6, 9, 7)]
CLASSES, IGNORED = 3, 9
BLIND_TO_EMPTY = ("blob_dice", "region_dice")  # alone, they leave what is not there to the terms beside them


def truth(options: dict[str, Any], name: str, shape: tuple[int, ...], batch: int = 2) -> Tensor:
    """A label map (B, 1, *shape) with a few objects, or one map per region."""
    coarse = torch.randn(batch, CLASSES, *(size // 3 + 1 for size in shape))
    maps = torch.nn.functional.interpolate(coarse, size=shape, mode="nearest")
    return (maps > 0.3).float() if is_regions(name, options) else maps.argmax(dim=1, keepdim=True)


def is_regions(name: str, options: dict[str, Any]) -> bool:
    return bool(options.get("regions")) or name in ("bce", "dice_bce")


def sharp(target: Tensor, regions: bool) -> Tensor:
    """Logits of a network that is right everywhere."""
    maps = target if regions else torch.zeros(len(target), CLASSES, *target.shape[2:]).scatter_(1, target, 1.0)
    return 12.0 * (maps - 0.5)


@pytest.mark.parametrize("shape", SHAPES, ids=["2d", "3d"])
@pytest.mark.parametrize(("name", "options"), DENSE.values(), ids=DENSE.keys())
class TestEveryDenseLoss:
    def check(self, value: Tensor, logits: Tensor) -> Tensor:
        assert value.shape == ()
        assert value.dtype == torch.float32
        assert torch.isfinite(value)
        value.backward()
        assert logits.grad is not None
        assert torch.isfinite(logits.grad).all()
        return logits.grad

    @pytest.mark.parametrize("level", [0, 1], ids=["empty", "full"])
    def test_one_class_everywhere_is_finite(self, name: str, options: dict[str, Any], shape: tuple[int, ...], level: int) -> None:
        for batch in (1, 2):
            target = torch.full_like(truth(options, name, shape, batch), level)
            logits = torch.randn(batch, CLASSES, *shape, requires_grad=True)
            self.check(build_loss(name, **options)(logits, target), logits)

    def test_everything_ignored_leaves_no_gradient(self, name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
        logits = torch.randn(2, CLASSES, *shape, requires_grad=True)
        value = build_loss(name, **options)(logits, truth(options, name, shape), torch.zeros(2, 1, *shape))
        assert (self.check(value, logits) == 0).all()

    def test_an_ignored_label_is_a_mask(self, name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
        regions = is_regions(name, options)
        target, mask, logits = truth(options, name, shape), torch.rand(2, 1, *shape) > 0.2, torch.randn(2, CLASSES, *shape)
        loss = build_loss(name, **options)
        expected = loss(logits, target, mask)
        spoiled = torch.where(mask, logits, float("nan")).requires_grad_()
        self.check(loss(spoiled, target, mask), spoiled)
        torch.testing.assert_close(loss(spoiled, target, mask), expected)
        if regions:
            ignored = torch.cat([torch.where(mask, target, 1.0), (~mask).float()], dim=1)
            torch.testing.assert_close(loss(logits, ignored), expected)
        else:
            torch.testing.assert_close(build_loss(name, **options, ignore_label=IGNORED)(logits, torch.where(mask, target, IGNORED)), expected)

    def test_a_mask_of_ones_is_no_mask(self, name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
        if name == "dice_bce":
            options = {"bce_kwargs": {"sum_channels_of_masked": False}}  # nnU-Net's scale depends on there being a mask
        loss, target, logits = build_loss(name, **options), truth(options, name, shape), torch.randn(2, CLASSES, *shape)
        torch.testing.assert_close(loss(logits, target, torch.ones(2, 1, *shape)), loss(logits, target))

    def test_half_precision_is_scored_in_full(self, name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
        target, logits = truth(options, name, shape), torch.randn(2, CLASSES, *shape).half().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = build_loss(name, **options)(logits, target)
        torch.testing.assert_close(value, build_loss(name, **options)(logits.float(), target))
        self.check(value, logits)

    def test_being_right_is_better_than_chance_empty_or_full(self, name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
        loss, target, regions = build_loss(name, **options), truth(options, name, shape), is_regions(name, options)
        right = float(loss(sharp(target, regions), target))
        guesses = [torch.randn(2, CLASSES, *shape), sharp(torch.zeros_like(target), regions), sharp(torch.ones_like(target), regions)]
        assert all(right < float(loss(guess, target)) for guess in guesses)

    def test_descent_improves(self, name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
        loss, target = build_loss(name, **options), truth(options, name, shape, batch=1)
        logits = torch.randn(1, CLASSES, *shape, requires_grad=True)
        value = loss(logits, target)
        (gradient,) = torch.autograd.grad(value, logits)
        assert gradient.norm() > 0
        assert loss((logits - 1e-2 * gradient / gradient.abs().max()).detach(), target) < value

    def test_maps_of_a_label_map_score_alike(self, name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
        if is_regions(name, options):
            return
        loss, target, logits = build_loss(name, **options), truth(options, name, shape), torch.randn(2, CLASSES, *shape)
        maps = torch.zeros(2, CLASSES, *shape).scatter_(1, target, 1.0)
        # a weighted mean over classes needs to know the class of a voxel; of soft labels the mean is torch's, over voxels
        if "class_weights" not in options:
            torch.testing.assert_close(loss(logits, maps), loss(logits, target))
        torch.testing.assert_close(loss(logits, target[:, 0]), loss(logits, target))

    def test_refuses_what_does_not_fit(self, name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
        loss, logits = build_loss(name, **options), torch.randn(2, CLASSES, *shape)
        target = truth(options, name, shape)
        with pytest.raises(ConfigurationError, match="grid"):
            loss(logits[..., :-1], target)
        with pytest.raises(ConfigurationError, match="mask"):
            loss(logits, target, torch.ones(2, CLASSES, *shape))
        with pytest.raises(ConfigurationError, match=r"maps|labels \[7\]"):
            loss(logits, target[:, :2] if is_regions(name, options) else torch.full_like(target, 7))

    def test_levels_below_the_finest_see_no_small_structures(self, name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
        loss = build_loss(name, **options)
        assert isinstance(loss, DenseLoss)
        target, logits = truth(options, name, shape), torch.randn(2, CLASSES, *shape)
        total = DeepSupervision(loss, (0.75, 0.25))([logits, logits], [target, target])
        coarse = loss.coarse()
        expected = 0.75 * loss(logits, target) + (0.0 if coarse is None else 0.25 * coarse(logits, target))
        torch.testing.assert_close(total, expected)
        assert (coarse is None) == (name in ("blob_dice", "region_dice", "boundary"))


@pytest.mark.parametrize("shape", SHAPES, ids=["2d", "3d"])
@pytest.mark.parametrize(("name", "options"), TARGETS.values(), ids=TARGETS.keys())
class TestEveryTargetLoss:
    def maps(self, name: str, shape: tuple[int, ...], batch: int = 2) -> Tensor:
        return torch.randn(batch, 1 if name == "signed_distance" else len(shape), *shape)

    def test_is_finite_and_blind_to_what_is_ignored(self, name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
        loss, prediction, target = build_loss(name, **options), self.maps(name, shape), self.maps(name, shape)
        mask = torch.rand(2, 1, *shape) > 0.05
        spoiled = torch.where(mask, prediction, float("nan")).requires_grad_()
        value = loss(spoiled, torch.where(mask, target, float("nan")), mask)
        value.backward()
        assert value.dtype == torch.float32
        assert torch.isfinite(value)
        assert spoiled.grad is not None
        assert torch.isfinite(spoiled.grad).all()
        assert (spoiled.grad != 0).any()
        torch.testing.assert_close(value, loss(prediction, torch.where(mask, target, -100.0)))
        torch.testing.assert_close(loss(prediction, target, torch.ones_like(mask)), loss(prediction, target))

    def test_nothing_to_score_is_zero_with_a_zero_gradient(self, name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
        prediction = self.maps(name, shape).requires_grad_()
        value = build_loss(name, **options)(prediction, self.maps(name, shape), torch.zeros(2, 1, *shape))
        value.backward()
        assert value == 0
        assert prediction.grad is not None
        assert (prediction.grad == 0).all()

    def test_flat_predictions_are_finite(self, name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
        for level in (0.0, 1.0):
            prediction = torch.full_like(self.maps(name, shape, 1), level).requires_grad_()
            value = build_loss(name, **options)(prediction, torch.full_like(prediction, level))
            value.backward()
            assert torch.isfinite(value)
            assert prediction.grad is not None
            assert torch.isfinite(prediction.grad).all()

    def test_half_precision_is_scored_in_full(self, name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
        prediction, target = self.maps(name, shape).half(), self.maps(name, shape)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = build_loss(name, **options)(prediction, target)
        torch.testing.assert_close(value, build_loss(name, **options)(prediction.float(), target))

    def test_refuses_shapes_that_differ(self, name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
        with pytest.raises(ConfigurationError, match="one shape"):
            build_loss(name, **options)(self.maps(name, shape), self.maps(name, shape)[:1])


def test_nnunets_and_the_sources_names_build() -> None:
    names = "DC_and_CE_loss DC_and_BCE_loss DC_and_topk_loss DC_and_Blob_CE_loss BlobDiceLoss BlobDiceCELoss RegionDiceLoss SoftDiceLoss BCEWithLogitsLoss"
    for name in [*names.split(), "SignedDistanceLoss", "CosineSimilarityLoss", "NormalSmoothnessLoss", "MaskedMSELoss", "WeightedSmoothL1Loss"]:
        assert callable(LOSSES[name]())
