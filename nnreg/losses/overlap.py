"""Overlap of label maps."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from nnreg.errors import ConfigurationError
from nnreg.losses.base import LOSSES, check_pair, full_precision, masked
from nnreg.losses.label_maps import label_sums
from nnreg.losses.ranks import over_ranks


@LOSSES.register("soft_dice")
class SoftDice(nn.Module):
    """Soft Dice of label maps: per label ``(2 sum pg + s) / (sum p + sum g + s)``, averaged.

    Parameters
    ----------
    smooth
        The s above. nnU-Net takes 1e-5. A label absent from both maps scores 1 and has no gradient.
    form
        ``negative`` is nnU-Net's minus Dice, between -1 and 0; ``one_minus`` is one minus Dice.
    batch_dice
        Sum over the batch before dividing, so that a label absent from one sample is judged with the others.
    """

    kind = "labels"
    splits_over_ranks = True

    def __init__(self, smooth: float = 1e-5, form: Literal["negative", "one_minus"] = "negative", batch_dice: bool = False) -> None:
        super().__init__()
        if form not in ("negative", "one_minus") or smooth < 0:
            raise ConfigurationError(f"soft_dice needs form 'negative' or 'one_minus' and smooth >= 0, found {form!r} and {smooth}.")
        self.smooth, self.form, self.batch_dice = smooth, form, batch_dice

    def forward(self, *, warped: Tensor, fixed: Tensor, mask: Tensor | None = None) -> Tensor:
        """Loss of one-hot label maps (B, K, *spatial), one channel per label to score, over the voxels where `mask` is true."""
        check_pair(warped, fixed, mask)
        with torch.autocast(device_type=fixed.device.type, enabled=False):
            p, g = masked(full_precision(warped), mask), masked(full_precision(fixed), mask)
            axes = tuple(range(2, p.ndim)) if not self.batch_dice else (0, *range(2, p.ndim))
            overlap, size = (p * g).sum(dim=axes), p.sum(dim=axes) + g.sum(dim=axes)
            overlap, size = over_ranks(overlap, size) if self.batch_dice else (overlap, size)
            return self._signed(self._dice(overlap, size).mean())

    def of_label_maps(self, *, field: Tensor, fixed: Tensor, moving: Tensor) -> tuple[Tensor, Tensor]:
        """The same of every label that both label maps of a sample have, at the cost of a few one-hot maps; see :mod:`nnreg.losses.label_maps`.

        Parameters
        ----------
        field : Tensor, shape (B, ndim, *spatial_fixed), voxels
        fixed, moving : Tensor, shape (B, 1, *spatial), integers; 0 and below are background

        Returns
        -------
        Tensor, shape (B,)
            Loss of each sample; 0 where no label is in both maps.
        Tensor, shape (B,), bool
            Whether one is.
        """
        losses, known = [], []
        with torch.autocast(device_type=field.device.type, enabled=False):
            for sides in zip(field, fixed[:, 0], moving[:, 0], strict=True):
                sums = label_sums(*sides)
                dice = torch.where(sums.shared, self._dice(sums.overlap, sums.warped + sums.fixed), 0.0).sum() / sums.shared.sum().clamp(min=1)
                known.append(sums.shared.any())
                losses.append(torch.where(known[-1], self._signed(dice), 0.0))
        return torch.stack(losses), torch.stack(known)

    def _dice(self, overlap: Tensor, size: Tensor) -> Tensor:
        return (2.0 * overlap + self.smooth) / (size + self.smooth).clamp(min=1e-8)

    def _signed(self, dice: Tensor) -> Tensor:
        return -dice if self.form == "negative" else 1.0 - dice
