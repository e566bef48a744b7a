"""Dense losses against nnU-Net's numbers, torch, and their definitions written out."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as nnf

from nnreg.errors import ConfigurationError
from nnreg.losses import (
    BCE,
    BlobDice,
    Boundary,
    Combined,
    CrossEntropy,
    DC_and_BCE_loss,
    DC_and_Blob_CE_loss,
    DC_and_CE_loss,
    DeepSupervision,
    Dice,
    Focal,
    RegionDice,
    SignedDistance,
    SoftDiceLoss,
    TopK,
    Tversky,
    blobs,
    build_loss,
)
from nnreg.losses.boundary import surface_distance

pytestmark = pytest.mark.usefixtures("one_thread")
ORACLE = json.loads((Path(__file__).parent / "data" / "nnunet_losses.json").read_text())


def wave(*shape: int, frequency: float = 0.37) -> Tensor:
    return torch.from_numpy(np.sin(frequency * np.arange(np.prod(shape))).astype(np.float32).reshape(shape))


def one_hot(labels: Tensor, classes: int) -> Tensor:
    return torch.zeros(len(labels), classes, *labels.shape[2:]).scatter_(1, labels, 1.0)


class TestNnunetsNumbers:
    @pytest.mark.parametrize("batch_dice", [False, True])
    @pytest.mark.parametrize("ignore", [None, 2])
    def test_dice_and_cross_entropy(self, batch_dice: bool, ignore: int | None) -> None:
        logits = wave(2, 3, 6, 5, 4).requires_grad_()
        target = (3 * wave(2, 1, 6, 5, 4, frequency=0.91).abs()).floor().clamp(0, 2)
        expected = ORACLE[f"dc_ce batch_dice={batch_dice} ignore={ignore}"]
        loss = DC_and_CE_loss({"batch_dice": batch_dice, "smooth": 1e-5, "do_bg": False, "ddp": False}, {}, ignore_label=ignore)(logits, target)
        loss.backward()
        assert float(loss.detach()) == pytest.approx(expected["loss"], rel=1e-6)
        assert logits.grad is not None
        gradient = logits.grad
        assert float(gradient.norm()) == pytest.approx(expected["grad"]["l2"], rel=1e-5)
        assert float(gradient.min()) == pytest.approx(expected["grad"]["min"], rel=1e-4)
        assert gradient.flatten()[:4].tolist() == pytest.approx(expected["grad"]["head"], rel=1e-4, abs=1e-9)

    def test_dice_and_binary_cross_entropy(self) -> None:
        target = (wave(2, 3, 6, 5, 4, frequency=1.3) > 0).float()
        assert float(DC_and_BCE_loss({}, {"batch_dice": False, "do_bg": True, "smooth": 1e-5})(wave(2, 3, 6, 5, 4), target)) == pytest.approx(
            ORACLE["dc_bce"], rel=1e-5
        )

    def test_deep_supervision(self) -> None:
        from nnreg.losses import deep_supervision_weights

        for levels, weights in ORACLE["deep_supervision_weights"].items():
            assert deep_supervision_weights(int(levels), keep_lowest=False) == pytest.approx(weights)
        loss = DeepSupervision(torch.nn.MSELoss(), deep_supervision_weights(3, keep_lowest=False))
        waves = [wave(1, 1, 4, 4), wave(1, 1, 2, 2), wave(1, 1, 1, 1)]
        value = float(loss(waves, [torch.full_like(image, float(level > 0)) for level, image in enumerate(waves)]))
        assert value == pytest.approx(ORACLE["deep_supervision_mse"], rel=1e-6)


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(2, 3, 9, 8)


@pytest.fixture
def target() -> Tensor:
    return torch.randint(0, 3, (2, 1, 9, 8))


class TestVoxelwise:
    def test_cross_entropy_is_torchs(self, logits: Tensor, target: Tensor) -> None:
        weights = torch.tensor([0.2, 0.5, 0.3])
        for options in ({}, {"weight": weights}, {"label_smoothing": 0.2}):
            torch.testing.assert_close(CrossEntropy(**options)(logits, target), nnf.cross_entropy(logits, target[:, 0], **options))
        torch.testing.assert_close(
            CrossEntropy(class_weights=[0.2, 0.5, 0.3], label_smoothing=0.1)(logits, target),
            nnf.cross_entropy(logits, target[:, 0], weight=weights, label_smoothing=0.1),
        )

    def test_focal_without_focus_is_cross_entropy(self, logits: Tensor, target: Tensor) -> None:
        torch.testing.assert_close(Focal(alpha=1.0, gamma=0.0)(logits, target), CrossEntropy()(logits, target))
        maps = (logits.roll(1) > 0).float()
        torch.testing.assert_close(Focal(alpha=None, gamma=0.0, regions=True)(logits, maps), BCE()(logits, maps))

    def test_focal_by_definition(self) -> None:
        logits, target = torch.randn(1, 2, 7), torch.randint(0, 2, (1, 1, 7))
        p = logits.softmax(dim=1).gather(1, target)
        alpha = torch.where(target == 1, 0.25, 0.75)
        torch.testing.assert_close(Focal()(logits[..., None], target[..., None]), (-alpha * (1 - p) ** 2 * p.log()).mean())
        single = logits[:, :1, :, None]
        torch.testing.assert_close(
            Focal(regions=True)(single, (target == 1).float()[..., None]), Focal()(torch.cat([0 * single, single], 1), target[..., None])
        )

    def test_the_worst_voxels_cost_more_than_all(self, logits: Tensor, target: Tensor) -> None:
        values = nnf.cross_entropy(logits, target[:, 0], reduction="none").flatten()
        torch.testing.assert_close(TopK(k=25)(logits, target), values.sort(descending=True).values[: len(values) // 4].mean())
        torch.testing.assert_close(TopK(k=100)(logits, target), CrossEntropy()(logits, target))
        mask = torch.rand(2, 1, 9, 8) > 0.7
        kept = nnf.cross_entropy(logits, target[:, 0], reduction="none")[:, None][mask]
        torch.testing.assert_close(TopK(k=50)(logits, target, mask), kept.sort(descending=True).values[: len(kept) // 2].mean())

    def test_dice_by_definition(self, logits: Tensor, target: Tensor) -> None:
        p, g = logits.softmax(dim=1), one_hot(target, 3)
        dice = (2 * (p * g).sum((2, 3)) + 1) / (p.sum((2, 3)) + g.sum((2, 3)) + 1)
        torch.testing.assert_close(Dice()(logits, target), 1 - dice.mean())
        torch.testing.assert_close(Dice(do_bg=False, form="negative")(logits, target), -dice[:, 1:].mean())

    def test_tversky_of_equal_weights_is_dice(self, logits: Tensor, target: Tensor) -> None:
        torch.testing.assert_close(Tversky(alpha=0.5, beta=0.5)(logits, target), 1 + SoftDiceLoss(smooth=2e-5)(logits, target))

    def test_nnunets_scale_of_ignored_regions(self, logits: Tensor) -> None:
        maps, mask = (logits.roll(1) > 0).float(), torch.rand(2, 1, 9, 8) > 0.3
        plain = BCE()(logits, maps, mask)
        torch.testing.assert_close(BCE(sum_channels_of_masked=True)(logits, maps, mask), 3 * plain)
        torch.testing.assert_close(BCE(sum_channels_of_masked=True)(logits, maps), BCE()(logits, maps))


class TestCombined:
    def test_is_the_weighted_sum_of_its_terms(self, logits: Tensor, target: Tensor) -> None:
        loss = Combined(dice_weight=0.4, ce_weight=0.4, boundary_weight=0.2, boundary_kwargs={"clip": 3.0})
        parts = 0.4 * Dice()(logits, target) + 0.4 * CrossEntropy()(logits, target) + 0.2 * Boundary(clip=3.0)(logits, target)
        torch.testing.assert_close(loss(logits, target), parts)
        assert set(loss.last_terms) == {"dice", "ce", "boundary"}
        torch.testing.assert_close(build_loss("dice_ce_boundary", boundary_kwargs={"clip": 3.0})(logits, target), parts)
        torch.testing.assert_close(Combined()(logits, target), 0.5 * Dice()(logits, target) + 0.5 * CrossEntropy()(logits, target))

    def test_the_documented_call_of_source_004(self, logits: Tensor, target: Tensor) -> None:
        parts = SoftDiceLoss(batch_dice=True)(logits, target) + BlobDice()(logits, target) + CrossEntropy()(logits, target)
        torch.testing.assert_close(DC_and_Blob_CE_loss({"batch_dice": True}, {})(logits, target), parts)

    def test_the_boundarys_weight_moves_with_the_epoch(self) -> None:
        growing = Combined(dice_weight=1.0, boundary_weight=0.01, boundary_schedule="increase")
        growing.set_epoch(5)
        assert growing.weights == pytest.approx([1.0, 0.06])
        moving = Combined(dice_weight=1.0, boundary_weight=0.0 + 0.01, boundary_schedule="rebalance")
        for epoch, share in ((0, 1.0), (50, 0.5), (500, 0.1)):
            moving.set_epoch(epoch)
            assert moving.weights[0] == pytest.approx(share)

    def test_a_weight_of_nothing_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="dicee_weight"):
            build_loss("combined", dicee_weight=1.0)
        with pytest.raises(ConfigurationError, match="every weight is 0"):
            build_loss("combined", dice_weight=0.0)
        with pytest.raises(ConfigurationError, match="regions need bce"):
            build_loss("combined", ce_weight=1.0, regions=True)


def blobs_by_definition(p: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], classes: int) -> list[list[float]]:
    """The paper's Dice of every component per sample: itself and what is of no component of its class."""
    result = []
    for sample, image in enumerate(labels):
        scores = []
        for value in range(1, classes):
            found, count = ndimage.label(image == value, structure=np.ones((3,) * image.ndim))
            for component in range(1, count + 1):
                region = (found == component) | (image != value)
                truth = found == component
                scores.append(2 * p[sample, value][truth].sum() / (p[sample, value][region].sum() + truth.sum()))
        result.append(scores)
    return result


class TestBlobDice:
    @pytest.fixture(params=[(17, 19), (9, 8, 10)], ids=["2d", "3d"])
    def pair(self, request: pytest.FixtureRequest) -> tuple[Tensor, Tensor]:
        noise = np.random.default_rng(0).random((2, *request.param))
        labels = np.select([noise > 0.93, noise > 0.86], [2, 1], 0)
        labels[1][noise[1] < 0.93] = 0  # another number of components per sample
        return torch.randn(2, 3, *request.param), torch.from_numpy(labels)[:, None]

    def test_is_the_dice_of_every_component(self, pair: tuple[Tensor, Tensor]) -> None:
        logits, labels = pair
        scores = blobs_by_definition(logits.softmax(dim=1).numpy(), labels[:, 0].numpy(), 3)
        assert len(scores[0]) != len(scores[1]) > 3
        assert float(BlobDice(smooth=0.0, cells=False)(logits, labels)) == pytest.approx(-np.mean([np.mean(one) for one in scores]), rel=1e-5)
        assert float(BlobDice(smooth=0.0, batch_dice=True, cells=False)(logits, labels)) == pytest.approx(-np.mean(np.concatenate(scores)), rel=1e-5)

    def test_regions_are_scored_like_the_classes_they_are(self, pair: tuple[Tensor, Tensor]) -> None:
        logits, labels = pair
        maps = one_hot(labels, 3)[:, 1:]
        p = logits.softmax(dim=1)[:, 1:]
        for cells in (False, True):
            torch.testing.assert_close(BlobDice(regions=True, cells=cells)(p.logit(), maps), BlobDice(cells=cells)(logits, labels))

    def test_one_component_is_dice(self) -> None:
        labels = torch.zeros(1, 1, 9, 11, dtype=torch.long)
        labels[..., 2:5, 3:7] = 1
        logits = torch.randn(1, 2, 9, 11)
        for cells in (False, True):
            torch.testing.assert_close(BlobDice(cells=cells)(logits, labels), SoftDiceLoss()(logits, labels))

    def test_foreground_everywhere_is_not_perfect(self, pair: tuple[Tensor, Tensor]) -> None:
        _, labels = pair
        everywhere = torch.stack([torch.full(labels[:, 0].shape, value) for value in (-9.0, 9.0, -9.0)], dim=1)
        assert float(BlobDice(cells=False)(everywhere, labels)) > -0.5
        assert float(BlobDice()(everywhere, labels)) > -0.6
        assert float(BlobDice()(20 * one_hot(labels, 3), labels)) == pytest.approx(-1, abs=1e-3)

    def test_a_false_positive_costs_the_nearest_component_alone(self) -> None:
        labels, logits = torch.zeros(1, 1, 6, 30, dtype=torch.long), torch.full((1, 2, 6, 30), -20.0)
        labels[..., 2:4, 2:4] = labels[..., 2:4, 25:27] = 1
        logits[:, 1:][labels > 0] = 20.0
        logits[:, 1, 2:4, 6:8] = 20.0
        logits[:, 0] = -logits[:, 1]
        # of four voxels, four false: 2 * 4 / (4 + 8), for one component or both
        assert float(BlobDice(cells=True)(logits, labels)) == pytest.approx(-(2 / 3 + 1) / 2, rel=1e-4)
        assert float(BlobDice(cells=False)(logits, labels)) == pytest.approx(-2 / 3, rel=1e-4)

    def test_cells_of_large_images_are_found_on_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        labels = torch.zeros(1, 1, 21, 34, dtype=torch.long)
        labels[..., 3:5, 4:7] = labels[..., 13:15, 5:6] = labels[..., 8:14, 25:30] = 1
        logits = torch.randn(1, 2, 21, 34)
        exact = float(BlobDice()(logits, labels))
        monkeypatch.setattr(blobs, "CELL_VOXELS", 200)  # blocks of 2 x 2
        assert float(BlobDice()(logits, labels)) == pytest.approx(exact, abs=0.02)
        assert float(BlobDice()(20 * one_hot(labels, 2).float(), labels)) == pytest.approx(-1, abs=1e-3)
        # an error deep inside a cell is that cell's, whatever the blocks
        monkeypatch.undo()
        logits = 20 * one_hot(labels, 2).float()
        logits[:, 1, 18:20, 30:33] = 40.0
        exact = float(BlobDice()(logits, labels))
        monkeypatch.setattr(blobs, "CELL_VOXELS", 200)
        assert float(BlobDice()(logits, labels)) == pytest.approx(exact)

    def test_small_ones_weigh_more_if_asked(self) -> None:
        labels, logits = torch.zeros(1, 1, 8, 30, dtype=torch.long), torch.zeros(1, 2, 8, 30)
        labels[..., 1:7, 1:7] = labels[..., 3:4, 20:22] = 1
        logits[:, 1] = -20.0
        logits[:, 1, 1:7, 1:7] = 20.0  # the small one is missed
        uniform, log, inverse = (float(BlobDice(component_weight=weight)(logits, labels)) for weight in ("uniform", "log", "inverse_volume"))
        assert uniform < log < inverse < 0

    def test_the_smallest_components_may_be_one(self, pair: tuple[Tensor, Tensor]) -> None:
        logits, labels = pair
        whole = [BlobDice(max_components=most)(logits, labels) for most in (1, 10**6)]
        torch.testing.assert_close(whole[1], BlobDice()(logits, labels))
        binary = (labels > 0).long()
        torch.testing.assert_close(BlobDice(max_components=1)(logits[:, :2], binary), SoftDiceLoss()(logits[:, :2], binary))

    def test_faces_or_corners(self) -> None:
        labels = torch.zeros(1, 1, 6, 6, dtype=torch.long)
        labels[0, 0, 1, 1] = labels[0, 0, 2, 2] = 1
        logits = torch.randn(1, 2, 6, 6)
        torch.testing.assert_close(BlobDice()(logits, labels), SoftDiceLoss()(logits, labels))
        assert not torch.isclose(BlobDice(connectivity="faces")(logits, labels), SoftDiceLoss()(logits, labels))

    def test_gradients_are_exact(self) -> None:
        labels = (torch.rand(2, 1, 5, 6) > 0.7).long()
        logits = torch.randn(2, 2, 5, 6, dtype=torch.float64, requires_grad=True)
        for loss in (
            BlobDice(component_weight="log"),
            BlobDice(batch_dice=True),
            BlobDice(cells=False),
            RegionDice(band_width=1.0),
            Tversky(gamma=0.75),
            Focal(),
        ):
            assert torch.autograd.gradcheck(lambda z, loss=loss: loss(z, labels), [logits])


class TestSurfaces:
    def square(self) -> Tensor:
        labels = torch.zeros(1, 1, 16, 18, dtype=torch.long)
        labels[..., 3:12, 4:15] = 1
        return labels

    def test_false_objects_are_errors_of_the_surface_and_holes_of_the_interior(self) -> None:
        labels, loss = self.square(), RegionDice(band_width=1.0, boundary_weight=2.0, interior_weight=1.0)
        truth = labels[0, 0].numpy() > 0
        interior = ndimage.binary_erosion(truth, np.ones((3, 3)), border_value=1)
        logits = torch.randn(1, 2, 16, 18)
        p = logits.softmax(dim=1)[0, 1].numpy()
        dices = [2 * (p * truth * region).sum() / ((p * region).sum() + (truth & region).sum()) for region in (~interior, interior)]
        assert float(loss(logits, labels)) == pytest.approx(-(2 * dices[0] + dices[1]) / 3, rel=1e-4)
        perfect = 20 * one_hot(labels, 2).float()
        far, hole = perfect.clone(), perfect.clone()
        far[:, 1, 14:16, 16:18] = hole[:, 0, 6:8, 8:10] = 40.0
        surface_alone, interior_alone = RegionDice(interior_weight=0.0), RegionDice(boundary_weight=0.0)
        assert float(surface_alone(far, labels)) > float(surface_alone(perfect, labels)) + 0.01
        assert float(interior_alone(far, labels)) == pytest.approx(float(interior_alone(perfect, labels)))
        assert float(interior_alone(hole, labels)) > float(interior_alone(perfect, labels)) + 0.01
        assert float(surface_alone(hole, labels)) == pytest.approx(float(surface_alone(perfect, labels)))

    def test_a_band_may_be_in_mm(self) -> None:
        labels, loss, logits = self.square(), RegionDice(band_width=1.0), torch.randn(1, 2, 16, 18)
        mm = RegionDice(band_width=1.0, spacing=(1.0, 0.5))
        assert float(mm(logits, labels)) != pytest.approx(float(loss(logits, labels)), rel=1e-3)
        torch.testing.assert_close(RegionDice(band_width=3.0, spacing=(3.0, 3.0))(logits, labels), loss(logits, labels))

    def test_a_thin_class_is_one_region_and_an_absent_one_none(self) -> None:
        labels = torch.zeros(1, 1, 12, 12, dtype=torch.long)
        labels[..., 5, 2:10] = 1
        logits = torch.randn(1, 2, 12, 12)
        torch.testing.assert_close(RegionDice()(logits, labels), SoftDiceLoss()(logits, labels))
        assert float(RegionDice()(logits, 0 * labels)) == 0

    def test_the_border_of_the_image_is_no_surface(self) -> None:
        labels = torch.ones(1, 1, 12, 12, dtype=torch.long)
        labels[..., 8:] = 0
        logits = torch.randn(1, 2, 12, 12)
        missed = logits.clone()
        missed[:, 1, :, 0] = -20  # inside, by the border: the interior's Dice alone
        weights = {"boundary_weight": 1.0, "interior_weight": 0.0}
        torch.testing.assert_close(RegionDice(**weights)(missed, labels), RegionDice(**weights)(logits, labels))

    def test_signed_distance_is_scipys_with_a_rim_of_zero(self) -> None:
        inside = self.square()[0, 0].numpy() > 0
        distance = surface_distance(inside, np.ones_like(inside), None)
        assert (distance[inside] <= 0).all()
        assert (distance[~inside] >= 1).all()
        assert (distance[inside & ~ndimage.binary_erosion(inside)] == 0).all()
        np.testing.assert_allclose(distance[~inside], ndimage.distance_transform_edt(~inside)[~inside], rtol=1e-6)
        # an unknown voxel is on no side of a surface
        valid = np.ones_like(inside)
        valid[5, 6] = False
        np.testing.assert_array_equal(surface_distance(inside & valid, valid, None)[~inside], distance[~inside])
        assert surface_distance(inside & valid, valid, None)[5, 7] == distance[5, 7]

    def test_the_boundary_loss_counts_how_far_out(self) -> None:
        labels = self.square()
        costs = []
        for column in (15, 16, 17):
            logits = torch.stack([torch.full((1, 16, 18), 20.0), torch.full((1, 16, 18), -20.0)], dim=1)
            logits[:, 0, 7, column], logits[:, 1, 7, column] = -20.0, 20.0
            costs.append(float(Boundary()(logits, labels)))
        assert all(later - before == pytest.approx(1 / labels.numel(), rel=1e-3) for before, later in pairwise(costs))
        assert float(Boundary(spacing=(2.0, 2.0))(logits, labels)) == pytest.approx(2 * costs[-1], rel=1e-4)


class TestSignedDistanceLoss:
    def test_a_true_distance_costs_nothing(self) -> None:
        """Half a voxel from the surface on either side: slope 1 all through, which a jump from 1 to -1 at the surface is not."""
        positions = torch.arange(20.0).reshape(1, 1, 20, 1).expand(1, 1, 20, 9) - 9.5
        assert float(SignedDistance(rho=6.0)(positions, positions)) == pytest.approx(0, abs=1e-7)
        spaced = SignedDistance(rho=6.0, spacing=(2.0, 1.0))
        assert float(spaced(2 * positions, 2 * positions)) == pytest.approx(0, abs=1e-7)
        assert float(SignedDistance(rho=6.0)(2 * positions, 2 * positions)) == pytest.approx(0.01, rel=1e-4)

    def test_only_the_band_counts(self) -> None:
        target, prediction = torch.linspace(-8, 8, 17).reshape(1, 1, 17, 1), torch.zeros(1, 1, 17, 1)
        inside = target.abs() < 4
        expected = nnf.smooth_l1_loss(prediction[inside], target[inside])
        torch.testing.assert_close(SignedDistance(eikonal=False)(prediction, target), expected)
        assert float(SignedDistance()(prediction, torch.full_like(target, 99.0))) == 0


def test_axes_have_no_sign_and_normals_do() -> None:
    target = torch.randn(1, 3, 4, 5, 6)
    assert float(build_loss("cosine")(-3 * target, target)) == pytest.approx(2, abs=1e-5)
    assert float(build_loss("cosine", sign_invariant=True)(-3 * target, target)) == pytest.approx(0, abs=1e-5)


def test_equal_normals_are_smooth_up_to_the_edge_of_the_object() -> None:
    normals = torch.zeros(1, 2, 12, 14)
    normals[:, 0, :, :7], normals[:, 1, :, 7:] = 1.0, 1.0
    left = torch.full((1, 1, 12, 14), -9.0)
    left[..., :7] = 9.0
    loss = build_loss("normal_smoothness")
    assert float(loss(normals, None, source_pred=left)) == pytest.approx(0, abs=1e-6)
    assert float(loss(normals, None)) > 1e-3
    torch.testing.assert_close(loss(normals, None, source_pred=torch.cat([-left, left], 1)), loss(normals, None, source_pred=left))
