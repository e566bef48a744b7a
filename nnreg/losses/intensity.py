"""Similarity of intensities over the whole image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nnreg.losses.base import LOSSES, check_pair, full_precision, masked
from nnreg.losses.ranks import mean_over_ranks


@LOSSES.register("mse")
class MSE(nn.Module):
    """Mean squared difference of intensities: for images of one contrast and one normalisation."""

    kind = "similarity"
    splits_over_ranks = True

    def forward(self, *, warped: Tensor, fixed: Tensor, mask: Tensor | None = None) -> Tensor:
        """Loss of images (B, C, *spatial), over the voxels where `mask` (B, 1, *spatial) is true."""
        check_pair(warped, fixed, mask)
        with torch.autocast(device_type=fixed.device.type, enabled=False):
            difference = masked(full_precision(warped) - full_precision(fixed), mask)
            count = difference.numel() if mask is None else (mask.bool().sum() * fixed.shape[1]).clamp(min=1)
            return mean_over_ranks(difference.square().sum() / count, count)


@LOSSES.register("ncc")
class NCC(nn.Module):
    """Negated correlation of intensities: -1 where one image is a brighter, higher-contrast copy of the other, 0 where one is flat.

    Correlated per sample and channel, then averaged, so that a bright sample does not decide for the batch.

    Parameters
    ----------
    squared
        Square the correlation: blind to the sign of contrast.
    """

    kind = "similarity"
    splits_over_ranks = True

    def __init__(self, squared: bool = False) -> None:
        super().__init__()
        self.squared = squared

    def forward(self, *, warped: Tensor, fixed: Tensor, mask: Tensor | None = None) -> Tensor:
        """Loss of images (B, C, *spatial), over the voxels where `mask` (B, 1, *spatial) is true."""
        check_pair(warped, fixed, mask)
        with torch.autocast(device_type=fixed.device.type, enabled=False):
            a, energy_a = _centred(full_precision(warped), mask)
            b, energy_b = _centred(full_precision(fixed), mask)
            energy = energy_a * energy_b
            flat = energy <= 0
            # the root of zero has no gradient: flat images take a one in its place and score nothing
            correlation = (a * b).sum(dim=-1) / torch.where(flat, 1.0, energy).sqrt()
            correlation = torch.where(flat, 0.0, correlation)
            return -(correlation.square() if self.squared else correlation).mean()


def _centred(image: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Images (B, C, voxels) without their mean, zero outside the mask, and their sums of squares (0 where rounding is all there is)."""
    values = image.flatten(2)
    if mask is None:
        centred = values - values.mean(dim=-1, keepdim=True)
    else:
        inside = mask.bool().flatten(2)
        values = torch.where(inside, values, 0.0)  # not a product: what the mask leaves out may be NaN
        mean = values.sum(dim=-1, keepdim=True) / inside.sum(dim=-1, keepdim=True).clamp(min=1)
        centred = torch.where(inside, values - mean, 0.0)
    energy = centred.square().sum(dim=-1)
    rounding = 100 * torch.finfo(values.dtype).eps * values.detach().abs().amax(dim=-1)
    return centred, torch.where(energy > rounding.square() * values.shape[-1], energy, 0.0)
