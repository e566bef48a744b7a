"""Masks and several targets in the objective of dense prediction."""

from __future__ import annotations

import pytest
import torch
from test_dense_objective import IGNORING, PLAIN, REGIONS, REGIONS_IGNORING, configuration, wave
from torch import Tensor, nn

from nnreg.architecture import build_dense_network
from nnreg.dataset.labels import LabelManager
from nnreg.dataset.target_spec import LossEntry, Target
from nnreg.errors import ConfigurationError
from nnreg.tasks.dense_prediction.objective import DenseObjective
from nnreg.training.configs.trainer_config import TrainerConfig

BINARY = LabelManager((0, 1), regions=(1,), region_values=(1,))


def labels_of(*shape: int) -> Tensor:
    return (3 * wave(*shape, frequency=0.91).abs()).floor().clamp(0, 2).to(torch.int16)


@pytest.mark.parametrize(("plain", "ignoring"), [(PLAIN, IGNORING), (REGIONS, REGIONS_IGNORING)])
def test_a_mask_leaves_out_what_an_ignore_label_does(plain: LabelManager, ignoring: LabelManager) -> None:
    """At every level, in the loss, its gradient and the counts of the pseudo-Dice."""
    own = {"": Target() if plain is PLAIN else Target(activation="sigmoid")}
    one, other = (DenseObjective(configuration(), TrainerConfig(), labels, targets=own) for labels in (plain, ignoring))
    logits = [wave(2, plain.heads, *shape, frequency=0.3 + index).requires_grad_() for index, shape in enumerate([(7, 6, 5), (4, 3, 3), (2, 2, 2)])]
    truth, mask = labels_of(2, 1, 7, 6, 5), wave(2, 1, 7, 6, 5, frequency=0.2) > -0.3
    masked = {"labels": truth, "mask": mask}
    ignored = {"labels": torch.where(mask, truth, 3)}
    (loss, _), (expected, _) = one.score(logits, masked), other.score(logits, ignored)
    torch.testing.assert_close(loss, expected)
    scored = logits[:2]  # the lowest level weighs nothing
    for found, wanted in zip(torch.autograd.grad(loss, scored), torch.autograd.grad(expected, scored), strict=True):
        torch.testing.assert_close(found, wanted)
    assert torch.equal(one.counted(logits[0], masked), other.counted(logits[0], ignored))
    everything = {"labels": truth, "mask": torch.ones_like(mask)}
    assert torch.equal(one.counted(logits[0], everything), one.counted(logits[0], {"labels": truth}))
    nothing, _ = one.score(logits, {"labels": truth, "mask": torch.zeros_like(mask)})
    assert all(not gradient.any() for gradient in torch.autograd.grad(nothing, scored))


def test_a_loss_that_knows_no_masks_is_refused() -> None:
    made = DenseObjective(configuration(), TrainerConfig(loss=Mean()), PLAIN)
    with pytest.raises(ConfigurationError, match=r"Mean .*knows no masks"):
        made.score([wave(1, 3, 4, 4, 4)], {"labels": labels_of(1, 1, 4, 4, 4), "mask": torch.ones(1, 1, 4, 4, 4, dtype=torch.bool)})


class Mean(nn.Module):
    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return logits.mean() + 0 * target.float().mean()


def two_targets(**second: object) -> tuple[DenseObjective, nn.Module]:
    targets = {"organs": Target(), "ink": Target(activation="sigmoid", **second)}  # type: ignore[arg-type]
    made = DenseObjective(configuration(2), TrainerConfig(), {"organs": PLAIN, "ink": BINARY}, targets=targets)
    stages = {"strides": [(1, 1), (2, 2), (2, 2)], "kernel_sizes": [(3, 3)] * 3, "features_per_stage": (4, 6, 8), "blocks_per_stage": (1, 1, 1)}
    return made, build_dense_network("plain_unet", channels=1, outputs=3, ndim=2, auxiliary={"ink": 1}, **stages)


def test_targets_add_up_and_each_is_scored_on_its_own_labels_and_mask() -> None:
    made, network = two_targets(loss_weight=0.25)
    batch = {"image": wave(2, 1, 9, 14), "labels": torch.cat([labels_of(2, 1, 9, 14), (labels_of(2, 1, 9, 14) > 1).to(torch.int16)], dim=1)}
    batch["mask"] = wave(2, 2, 9, 14, frequency=0.2) > 0
    loss, terms, logits = made.scored(network, batch)
    first = DenseObjective(configuration(2), TrainerConfig(), PLAIN)
    second = DenseObjective(configuration(2), TrainerConfig(), BINARY, targets={"": Target(activation="sigmoid")})
    alone = [
        part.score(logits[name], {key: batch[key][:, index : index + 1] for key in ("labels", "mask")})[0]
        for index, (name, part) in enumerate({"organs": first, "ink": second}.items())
    ]
    torch.testing.assert_close(loss, alone[0] + 0.25 * alone[1])
    assert {"organs_cross_entropy_loss", "ink_binary_cross_entropy_loss"} < set(terms)
    assert made(network, batch)[0] == loss


def test_a_loss_of_a_target_may_begin_late() -> None:
    entries = (LossEntry("bce"), LossEntry("dice", weight=0.5, start_epoch=2))
    made, _ = two_targets(losses=entries)
    part = made.parts["ink"]
    batch = {"labels": (labels_of(2, 2, 8, 8) > 1).to(torch.int16)}
    found = []
    for epoch in (0, 1, 2):
        for module in made.modules():
            getattr(module, "set_epoch", lambda epoch: None)(epoch)
        loss, terms = part.score([wave(2, 1, 8, 8)], batch)
        found.append(float(loss) - float(terms["bce_loss"]))
    assert found[:2] == [0, 0]
    assert found[2] == pytest.approx(0.5 * float(terms["dice_loss"]), rel=1e-4)


def test_a_loss_of_something_else_is_refused_by_target() -> None:
    with pytest.raises(ConfigurationError, match=r"targets\.ink\.losses.*lncc"):
        two_targets(losses=(LossEntry("lncc"),))
