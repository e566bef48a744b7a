"""What the processes of test_distributed.py do: every loss on a part of a batch, and on the whole batch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nnreg.losses import LOSSES, DenseLoss
from nnreg.losses.ranks import unsplittable
from nnreg.training.distributed import Ranks, left_in_order
from nnreg.training.trainer.trainer import nnRegTrainer

BATCH, CLASSES, GRID = 3, 3, (10, 12)
OVER_BATCH = ("dice", "negative_dice", "tversky", "blob_dice", "region_dice", "soft_dice")


def cases() -> dict[str, tuple[str, dict[str, Any]]]:
    """Case to the name of a loss and its arguments: all that split, those of sums over the batch too."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    seen = set()
    for name in sorted(LOSSES, key=lambda name: (not name.islower(), name)):
        if LOSSES[name] in seen or unsplittable(LOSSES[name]()):
            continue
        seen.add(LOSSES[name])
        ignoring = isinstance(loss := LOSSES[name](), DenseLoss) and not loss.regions
        found[name] = (name, {"ignore_label": CLASSES} if ignoring else {})
        if name in OVER_BATCH:
            found[f"{name} over the batch"] = (name, {**found[name][1], "batch_dice": True})
    return found


def batch(kind: str, regions: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """What a loss of a kind is given, a gradient for the first; what is known differs much from sample to sample."""
    generator = torch.Generator().manual_seed(7)
    draw = lambda *shape: torch.randn(BATCH, *shape, *GRID, generator=generator)  # noqa: E731
    mask = draw(1) > torch.tensor([-1.0, 0.0, 1.0]).reshape(-1, 1, 1, 1)
    if kind == "segmentation":
        labels = (draw(1) * 1.5).round().abs().clamp(max=CLASSES).long()
        target = torch.cat([labels == value for value in range(CLASSES)], dim=1) if regions else labels
        return draw(CLASSES), {"target": target, "mask": mask}
    if kind == "regression":
        return draw(1), {"target": draw(1), "mask": mask}
    if kind == "similarity":
        return draw(1), {"fixed": draw(1), "mask": mask}
    if kind == "labels":
        return draw(2).sigmoid(), {"fixed": (draw(2) > 0).float(), "mask": mask}
    if kind == "keypoints":
        target = torch.randn(BATCH, 9, 2, generator=generator)
        target[0, 2:] = torch.nan
        return torch.randn(BATCH, 9, 2, generator=generator), {"target": target}
    field = 2 * draw(2)
    return field, {"true_field": {"truth": draw(2), "mask": mask}, "inverse_consistency": {"backward": draw(2), "mask": mask}}.get(kind, {})


def loss_and_gradient(name: str, arguments: Mapping[str, Any], part: range, weight: float) -> tuple[float, Tensor]:
    """Of the samples of a part of the batch."""
    torch.manual_seed(0)
    loss = LOSSES[name](**arguments)
    kind = getattr(loss, "kind", "segmentation")
    first, others = batch(kind, getattr(loss, "regions", False))
    inputs = first[part.start : part.stop].clone().requires_grad_()
    given = {key: value[part.start : part.stop] for key, value in others.items()}
    value = loss(warped=inputs, **given) if kind in ("similarity", "labels") else loss(inputs, **given)
    (weight * value).backward()
    assert inputs.grad is not None
    return float(value.detach()), inputs.grad


def losses(ranks: Ranks) -> dict[str, tuple[float, Tensor]]:
    """Case to the loss of the batch and its gradient, put together as a training does it."""
    part = ranks.part(BATCH)
    weight = len(part) * ranks.size / BATCH
    found = {}
    for case, (name, arguments) in cases().items():
        value, gradient = loss_and_gradient(name, arguments, part, weight)
        if ranks.size > 1:
            parts = ranks.gathered((weight * value, gradient))
            value, gradient = sum(value for value, _ in parts) / ranks.size, torch.cat([gradient for _, gradient in parts]) / ranks.size
        found[case] = (value, gradient)
    return found


def work(path: Path) -> None:
    """Losses of two processes, and what else is to be seen there, into a file."""
    torch.set_num_threads(1)
    ranks = Ranks.of_environment()
    ranks.connect(torch.device("cpu"))
    with left_in_order(ranks):
        entries = {"image": torch.zeros(2, 1, 4), "points": torch.zeros(2, 5 + ranks.rank, 3)} | ({"mask": torch.zeros(2, 1, 4)} if ranks.leads else {})
        agreed = sorted(ranks.agreed(entries))
        order = ranks.in_order([{"index": torch.tensor(index)} for index in range(ranks.rank, 5, ranks.size)])
        found = losses(ranks)
        if ranks.leads:
            torch.save({"losses": found, "agreed": agreed, "order": [int(step["index"]) for step in order]}, path)


class Killed(nnRegTrainer):
    """The second process is killed after its first epoch."""

    def on_epoch_end(self, *terms: Any) -> None:
        super().on_epoch_end(*terms)
        if not self.ranks.leads:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGKILL)


class Refuses(nnRegTrainer):
    """The second process alone finds something wrong."""

    def on_epoch_start(self) -> None:
        super().on_epoch_start()
        if not self.ranks.leads:
            from nnreg.errors import TrainingError

            raise TrainingError("case s1 is damaged. Mend it.")


class OwnStep(nnRegTrainer):
    """A step that nobody can share."""

    def train_step(self, batch: dict[str, Tensor]) -> Tensor:
        return self.objective(self.network, batch)[0]


class OwnLoss(nnRegTrainer):
    """A loss of which nothing is known."""

    def _build_loss(self) -> Any:
        return lambda network, batch: (network(fixed=batch["fixed_input"], moving=batch["moving_input"])[0].square().mean(), {})
