"""Similarity of intensities over the whole image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nnreg.losses.base import LOSSES, check_pair, full_precision, masked_mean


@LOSSES.register("mse")
class MSE(nn.Module):
    """Mean squared difference of intensities: for images of one contrast and one normalisation."""

    def forward(self, *, warped: Tensor, fixed: Tensor, mask: Tensor | None = None) -> Tensor:
        """Loss of images (B, C, *spatial), over the voxels where `mask` (B, 1, *spatial) is true."""
        check_pair(warped, fixed, mask)
        with torch.autocast(device_type=fixed.device.type, enabled=False):
            return masked_mean((full_precision(warped) - full_precision(fixed)).square(), mask)
