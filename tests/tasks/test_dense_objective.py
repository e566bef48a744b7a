"""The objective of dense prediction: nnU-Net's numbers, levels, regions, what is ignored, every loss of a recipe."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nnreg.dataset.labels import LabelManager
from nnreg.dataset.spec import DatasetSpec
from nnreg.errors import ConfigurationError
from nnreg.losses import LOSSES
from nnreg.metrics import dice
from nnreg.planning.dense_prediction.plans import DenseConfiguration, DenseTraining
from nnreg.planning.dense_prediction.resampling import Resampling
from nnreg.planning.plans import Architecture, LossTerm, Normalization
from nnreg.tasks.dense_prediction.objective import DenseObjective
from nnreg.training.configs import TRAINER_CONFIGS, TrainerConfig
from nnreg.training.configs.overrides import apply_training_overrides

ORACLE = json.loads((Path(__file__).parents[1] / "losses" / "data" / "nnunet_losses.json").read_text())
DICE_AND_CE = (LossTerm("negative_dice"), LossTerm("cross_entropy"))
pytestmark = pytest.mark.usefixtures("one_thread")


def configuration(ndim: int = 3, *, batch_dice: bool = False, **training: Any) -> DenseConfiguration:
    terms = tuple(LossTerm(term.name, term.weight, {"batch_dice": batch_dice} if "dice" in term.name else {}) for term in DICE_AND_CE)
    plan = {"supervision": terms, "deep_supervision_weights": (), "batch_size": 2, "epochs": 1, "iterations_per_epoch": 1, "validation_iterations": 1}
    optimiser = {"optimizer": "sgd", "learning_rate": 0.01, "weight_decay": 0.0, "gradient_clip": 12.0, "lr_schedule": "poly"}
    return DenseConfiguration(
        data_identifier="d",
        spacing=(1.0,) * ndim,
        patch_size=(8,) * ndim,
        median_image_size_in_voxels=(8.0,) * ndim,
        batch_dice=batch_dice,
        resampling=Resampling(),
        normalization=(Normalization("zscore"),),
        architecture=Architecture("plain_unet", ((1,) * ndim, (2,) * ndim), ((3,) * ndim,) * 2, (4, 8), (1, 1)),
        training=DenseTraining(**{**plan, **optimiser, **training}),
        memory_gb=1.0,
    )


def manager(labels: dict[str, Any], **spec: Any) -> LabelManager:
    return LabelManager.of(DatasetSpec.from_dict({"channel_names": {"0": "T1"}, "numTraining": 1, "file_ending": ".nii.gz", "labels": labels, **spec}))


PLAIN = manager({"background": 0, "a": 1, "b": 2})
IGNORING = manager({"background": 0, "a": 1, "b": 2, "ignore": 3})
REGIONS = manager({"background": 0, "whole": [1, 2], "core": 2}, regions_class_order=[1, 2])
REGIONS_IGNORING = manager({"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}, regions_class_order=[1, 2])
REGION_TERMS = (LossTerm("negative_dice"), LossTerm("binary_cross_entropy", kwargs={"sum_channels_of_masked": True}))


def objective(labels: LabelManager = PLAIN, recipe: TrainerConfig | None = None, ndim: int = 3, **options: Any) -> DenseObjective:
    if labels.has_regions and "supervision" not in options:
        options["supervision"] = REGION_TERMS
    return DenseObjective(configuration(ndim, **options), recipe or TrainerConfig(), labels)


def wave(*shape: int, frequency: float = 0.37) -> Tensor:
    return torch.from_numpy(np.sin(frequency * np.arange(np.prod(shape))).astype(np.float32).reshape(shape))


@pytest.mark.parametrize("batch_dice", [False, True])
def test_planned_loss_and_its_gradient_are_nnunets(batch_dice: bool) -> None:
    logits = wave(2, 3, 6, 5, 4).requires_grad_()
    target = (3 * wave(2, 1, 6, 5, 4, frequency=0.91).abs()).floor().clamp(0, 2).to(torch.int16)
    expected = ORACLE[f"dc_ce batch_dice={batch_dice} ignore=None"]
    for recipe in (TrainerConfig(), TRAINER_CONFIGS["dice_ce"]):
        loss, terms = objective(recipe=recipe, batch_dice=batch_dice).score([logits], {"labels": target})
        (gradient,) = torch.autograd.grad(loss, logits)
        assert float(loss.detach()) == pytest.approx(expected["loss"], rel=1e-6)
        assert float(gradient.norm()) == pytest.approx(expected["grad"]["l2"], rel=1e-5)
        assert float(sum(terms.values())) == pytest.approx(float(loss.detach()))


def test_regions_are_nnunets() -> None:
    # the closed form's three maps, each a region of one value: a label map cannot hold them, so regions are told from bits
    maps = wave(2, 3, 6, 5, 4, frequency=1.3) > 0
    labels = (maps * torch.tensor([1, 2, 4]).reshape(1, 3, 1, 1, 1)).sum(dim=1, keepdim=True).to(torch.int16)
    bits = [[value for value in range(1, 8) if value & bit] for bit in (1, 2, 4)]
    regions = manager({"background": 0, "x": bits[0], "y": bits[1], "z": bits[2]}, regions_class_order=[1, 2, 3])
    loss, _ = objective(regions).score([wave(2, 3, 6, 5, 4)], {"labels": labels})
    assert float(loss) == pytest.approx(ORACLE["dc_bce"], rel=1e-5)


def test_levels_get_nnunets_truth_and_weights() -> None:
    from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform

    labels = torch.randint(0, 3, (2, 1, 8, 12, 16), dtype=torch.int16)
    scales = [(1, 1, 1), (1, 0.5, 0.5), (0.5, 0.25, 0.25)]
    shapes = [(8, 12, 16), (8, 6, 8), (4, 3, 4)]
    made = objective()
    logits = [torch.randn(2, 3, *shape) for shape in shapes]
    expected = 0.0
    for sample in range(2):
        maps = DownsampleSegForDSTransform(scales)(segmentation=labels[sample])["segmentation"]
        for shape, found in zip(shapes, maps, strict=True):
            assert torch.equal(made.target(labels[sample : sample + 1], shape)[0], found)
    for weight, level in ((2 / 3, 0), (1 / 3, 1), (0.0, 2)):
        expected += weight * float(made.score([logits[level]], {"labels": made.target(labels, shapes[level])})[0])
    assert float(made.score(logits, {"labels": labels})[0]) == pytest.approx(expected, rel=1e-5)
    planned = objective(deep_supervision_weights=(0.5, 0.5))
    with pytest.raises(ConfigurationError, match="2 values, the network returns 3 outputs"):
        planned.score(logits, {"labels": labels})


@pytest.mark.parametrize("labels", [IGNORING, REGIONS_IGNORING], ids=["labels", "regions"])
def test_what_is_ignored_teaches_nothing_and_counts_nothing(labels: LabelManager) -> None:
    made, heads = objective(labels), labels.heads
    truth = torch.randint(0, 3, (2, 1, 6, 7, 5), dtype=torch.int16)
    hidden = torch.rand(2, 1, 6, 7, 5) < 0.4
    truth[hidden] = 3
    logits = torch.randn(2, heads, 6, 7, 5, requires_grad=True)
    loss, _ = made.score([logits], {"labels": truth})
    loss.backward()
    assert logits.grad is not None
    assert not logits.grad[hidden.expand_as(logits)].any()
    assert logits.grad[~hidden.expand_as(logits)].abs().min() > 0
    other = torch.where(hidden, torch.randn_like(logits) * 50, logits.detach())
    assert torch.equal(made.counts(other, truth), made.counts(logits.detach(), truth))
    whole = objective(REGIONS if labels.has_regions else PLAIN)
    assert made.counts(logits, truth).sum() < whole.counts(logits, truth.clamp(max=2)).sum()


def test_labels_need_not_be_consecutive() -> None:
    odd = manager({"background": 0, "left": 3, "right": 7, "ignore": 255})
    values = torch.randint(0, 3, (1, 1, 6, 6, 6), dtype=torch.int16)
    truth = torch.tensor([0, 3, 7], dtype=torch.int16)[values.long()]
    logits = torch.randn(1, 3, 6, 6, 6)
    assert torch.equal(objective(odd).target(truth, (6, 6, 6)), values.long())
    torch.testing.assert_close(objective(odd).score([logits], {"labels": truth})[0], objective().score([logits], {"labels": values})[0])
    truth[..., 0] = 255
    assert (objective(odd).target(truth, (6, 6, 6))[..., 0] == 3).all()


@pytest.mark.parametrize("labels", [PLAIN, REGIONS], ids=["labels", "regions"])
def test_counts_make_the_dice_of_our_metrics(labels: LabelManager) -> None:
    made = objective(labels)
    truth = torch.randint(0, 3, (3, 1, 7, 6, 5), dtype=torch.int16)
    logits = torch.randn(3, labels.heads, 7, 6, 5)
    hits, false, missed, rest = made.counts(logits, truth).double().unbind(1)
    assert set((hits + false + missed + rest).tolist()) == {truth.numel()}
    found = (2 * hits / (2 * hits + false + missed)).tolist()
    for index, entry in enumerate(labels.foreground):
        of_entry = torch.isin(truth, torch.tensor(entry))
        predicted = logits[:, index : index + 1] > 0 if labels.has_regions else logits.argmax(dim=1, keepdim=True) == entry
        assert found[index] == pytest.approx(dice(of_entry.int().numpy(), predicted.int().numpy(), [1])[1])


DENSE = ["dice", "ce", "focal", "tversky", "topk", "dice_ce", "dice_topk", "dice_focal", "dice_ce_boundary", "blob_dice"]
DENSE += ["blob_dice_ce", "dice_blob_ce", "region_dice", "region_dice_ce"]
OF_REGIONS = ["dice", "bce", "focal", "tversky", "blob_dice", "region_dice"]


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize(("name", "labels"), [*[(name, IGNORING) for name in DENSE], *[(name, REGIONS_IGNORING) for name in OF_REGIONS]], ids=str)
def test_every_loss_of_a_recipe_teaches(name: str, labels: LabelManager, ndim: int) -> None:
    made = objective(labels, TRAINER_CONFIGS[name], ndim)
    truth = torch.zeros(2, 1, *(8,) * ndim, dtype=torch.int16)
    truth[:, :, 2:5, 1:6], truth[:, :, 6:, 3:5], truth[..., 0] = 1, 2, 3
    logits = [torch.randn(2, labels.heads, *(size,) * ndim, requires_grad=True) for size in (8, 4, 2)]
    loss, _ = made.score(logits, {"labels": truth})
    loss.backward()
    assert torch.isfinite(loss)
    assert logits[0].grad is not None
    assert logits[0].grad.abs().sum() > 0
    assert not logits[0].grad[..., 0].any()
    # nothing to be found, as most patches of a large image
    empty, _ = made.score([entry.detach() for entry in logits], {"labels": torch.zeros_like(truth)})
    assert torch.isfinite(empty)


class Halved(nn.Module):
    """A loss of somebody's own, called as torch's."""

    def __init__(self, scale: float = 0.5) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return self.scale * nn.functional.cross_entropy(logits, target[:, 0].long())


@pytest.mark.parametrize("loss", [Halved, Halved(), lambda scale=0.5: Halved(scale)], ids=["class", "instance", "function"])
def test_a_loss_of_ones_own_is_called_as_torchs(loss: Callable[..., nn.Module] | nn.Module) -> None:
    logits, truth = torch.randn(2, 3, 5, 5, 5), torch.randint(0, 3, (2, 1, 5, 5, 5), dtype=torch.int16)
    expected = 0.5 * nn.functional.cross_entropy(logits, truth[:, 0].long())
    torch.testing.assert_close(objective(recipe=TrainerConfig(loss=loss)).score([logits], {"labels": truth})[0], expected)


@pytest.mark.parametrize(
    ("labels", "recipe", "message"),
    [
        (PLAIN, TrainerConfig(loss="lncc"), "not one of labels"),
        (PLAIN, TrainerConfig(loss="bce"), "exclusive classes need ce"),
        (REGIONS, TrainerConfig(loss="ce"), "regions need bce"),
        (REGIONS, TrainerConfig(loss="dice_ce"), "regions need bce"),
        (PLAIN, TrainerConfig(loss="ce", loss_kwargs={"class_weights": [1.0, 2.0]}), "2 values for 3 classes"),
        (PLAIN, TrainerConfig(loss="ce", loss_kwargs={"smooth": 1.0}), "smooth"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_trained(labels: LabelManager, recipe: TrainerConfig, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        objective(labels, recipe)


def test_a_planned_loss_of_fields_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="not one of labels"):
        objective(supervision=(LossTerm("diffusion"),))
    for options in ({"regularisation": []}, {"similarity": []}, {"bidirectional": True}):
        with pytest.raises(ConfigurationError, match="unknown key"):
            apply_training_overrides(configuration(), options, "--set")
    assert {"negative_dice", "cross_entropy", "binary_cross_entropy"} <= set(LOSSES)


def test_weights_of_classes_and_terms_count() -> None:
    logits, truth = torch.randn(1, 3, 6, 6, 6), torch.randint(0, 3, (1, 1, 6, 6, 6), dtype=torch.int16)
    terms = (LossTerm("negative_dice", 0.25), LossTerm("cross_entropy", 2.0, {"class_weights": [0.1, 1.0, 3.0]}))
    loss, found = objective(supervision=terms).score([logits], {"labels": truth})
    weighted = nn.functional.cross_entropy(logits, truth[:, 0].long(), weight=torch.tensor([0.1, 1.0, 3.0]))
    torch.testing.assert_close(found["cross_entropy_loss"], weighted)
    torch.testing.assert_close(loss, 0.25 * found["negative_dice_loss"] + 2 * weighted)
