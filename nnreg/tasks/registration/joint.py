"""What a segmentation head learns beside a registration, and what it teaches the field where labels are missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from nnreg.errors import ConfigurationError
from nnreg.geometry import warp

RAMP = 0.2  # of the epochs, over which the overlap of what the head finds gains its weight: at first it finds nothing; not tuned
SMOOTH = 1e-5  # nnU-Net's
MAPS = ("fixed_labels", "moving_labels")


class JointLoss(nn.Module):
    """Loss of segmentations of both images, and of how they overlap once the moving one is warped (after DeepAtlas, Xu and Niethammer 2019).

    Labelled images teach the head: cross entropy and one minus Dice. Of pairs that are not labelled both, one minus the Dice of the warped moving and the
    fixed structures, labels where there are any, else what the head finds. That teaches the field; and the head, where the other image is labelled.

    Parameters
    ----------
    labels
        Values that the head tells apart, in the order of its channels after the background.
    epochs
        Of the training.
    """

    def __init__(self, labels: Sequence[int], epochs: int) -> None:
        super().__init__()
        if not labels:
            raise ConfigurationError("training.segmentation_weight: dataset.json names no labels that a segmentation head could find. Set it to 0.")
        self.labels, self.ramp = tuple(labels), max(1.0, RAMP * epochs)
        self.share = 0.0

    def set_epoch(self, epoch: int) -> None:
        """Share of the overlap in an epoch, counted from 0."""
        self.share = min(1.0, epoch / self.ramp)

    def forward(self, field: Tensor, logits: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and detached terms of the finest field (B, ndim, *grid) and the logits (2 B, 1 + K, *grid) of the fixed, then of the moving images."""
        maps = torch.cat([batch[name] for name in MAPS])
        values = torch.tensor(self.labels, dtype=maps.dtype, device=maps.device).reshape(1, -1, *(1,) * (maps.ndim - 2))
        truth = (maps == values).float()
        known = truth.flatten(1).any(dim=1)
        found = logits.float().softmax(dim=1)[:, 1:]
        dice = _dice(found, truth)
        taught = torch.where(known, _entropy(logits, truth) + 1 - dice, 0.0).sum() / known.sum().clamp(min=1)
        overlap = 1 - self._overlap(field, found, truth, known)
        left = ~known.reshape(2, -1).all(dim=0)  # both labelled: the supervision compares those
        terms = {"segmentation": taught / known.any(), "consistency": torch.where(left, overlap, 0.0).sum() / left.sum()}
        terms["segmentation_dice"] = torch.where(known, dice, 0.0).sum() / known.sum()
        return taught + self.share * torch.where(left, overlap, 0.0).mean(), {name: value.detach() for name, value in terms.items()}

    @staticmethod
    def _overlap(field: Tensor, found: Tensor, truth: Tensor, known: Tensor) -> Tensor:
        """Dice (B,) of the structures of a pair; what is found learns only from labels, never from what is found in the other image."""
        there, others = (flags.reshape(-1, *(1,) * (truth.ndim - 1)) for flags in (known, known.reshape(2, -1).flip(0).flatten()))
        fixed, moving = torch.where(there, truth, torch.where(others, found, found.detach())).chunk(2)
        return _dice(warp(moving, field, padding="zeros"), fixed)


def _dice(one: Tensor, other: Tensor) -> Tensor:
    """Mean soft Dice (B,) over the channels."""
    axes = tuple(range(2, one.ndim))
    return ((2 * (one * other).sum(dim=axes) + SMOOTH) / (one.sum(dim=axes) + other.sum(dim=axes) + SMOOTH)).mean(dim=1)


def _entropy(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross entropy (B,) with one-hot maps (B, K, *grid), the background being what none of them covers."""
    background = 1 - truth.sum(dim=1, keepdim=True)
    return nnf.cross_entropy(logits.float(), torch.cat([background, truth], dim=1), reduction="none").flatten(1).mean(dim=1)
