"""Losses that look at the surface of the truth: Dice of its neighbourhood, and Kervadec's boundary loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn import functional as nnf

from nnreg.errors import ConfigurationError
from nnreg.losses.base import LOSSES
from nnreg.losses.dense import DenseLoss, Scored, spatial_axes
from nnreg.losses.ranks import mean_over_ranks, over_ranks


def _dilated(maps: Tensor, reach: Sequence[int]) -> Tensor:
    """Where a box of half size `reach` around a voxel meets maps (B, C, *spatial) of 0 and 1."""
    for axis, radius in enumerate(reach):
        if radius:
            pool = nnf.max_pool2d if maps.ndim == 4 else nnf.max_pool3d
            kernel = [2 * radius + 1 if other == axis else 1 for other in range(len(reach))]
            maps = pool(maps, kernel, stride=1, padding=[size // 2 for size in kernel])
    return maps


@LOSSES.register("region_dice", "RegionDiceLoss")
class RegionDice(DenseLoss):
    """Minus the weighted mean of the Dice near the surface of each class and the Dice of its interior.

    The interior are the voxels further than `band_width` from what is not of the class; there only a hole can be wrong. Near the surface is all else: the outer
    voxels of the class, and the background wherever it is, for a false object has a surface that should not be there. A class too thin to have an interior is
    one region, and its loss the Dice.

    Parameters
    ----------
    band_width
        Depth at which the interior begins: voxels, or mm with `spacing`. A box, not a ball: it is found by sweeps along the axes.
    boundary_weight, interior_weight
        Of the two regions.
    smooth, batch_dice, ddp
        As in Dice. With `batch_dice` the sums of a region are those of the batch (of all ranks).
    spacing
        mm per voxel, array axis order.

    Notes
    -----
    A class absent from the truth is not scored: what is predicted there is left to the Dice or cross entropy beside it.
    """

    full_resolution_only = True
    splits_over_ranks = True

    def __init__(
        self,
        band_width: float = 2.0,
        boundary_weight: float = 2.0,
        interior_weight: float = 1.0,
        smooth: float = 1e-5,
        batch_dice: bool = False,
        spacing: Sequence[float] | None = None,
        ddp: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if band_width <= 0 or boundary_weight < 0 or interior_weight < 0 or boundary_weight + interior_weight <= 0 or smooth < 0:
            raise ConfigurationError(
                f"region_dice needs band_width > 0, weights >= 0 (not both 0), smooth >= 0, found {band_width}, {boundary_weight}, {interior_weight}, {smooth}."
            )
        self.band_width, self.weights, self.smooth = band_width, (boundary_weight, interior_weight), smooth
        self.batch_dice, self.spacing, self.ddp = batch_dice, spacing, ddp

    def score(self, scored: Scored) -> Tensor:
        """See :class:`DenseLoss`."""
        p = scored.masked(scored.probabilities[:, scored.first_class :])
        g = (scored.maps[:, scored.first_class :] > 0.5).to(p.dtype)
        interior = self._interior(scored, g)
        axes = spatial_axes(p, batch=False)
        parts = [torch.stack([(region * p * g).sum(dim=axes), (region * p).sum(dim=axes), (region * g).sum(dim=axes)]) for region in (1 - interior, interior)]
        if self.batch_dice:
            summed = [part.sum(dim=1, keepdim=True) for part in parts]
            parts = list(over_ranks(*summed)) if self.ddp else summed
        near, inside = ((2 * overlap + self.smooth) / (predicted + true + self.smooth).clamp(min=1e-8) for overlap, predicted, true in parts)
        boundary, weight = self.weights
        dice = torch.where(parts[1][2] == 0, near, (boundary * near + weight * inside) / (boundary + weight))
        present = parts[0][2] + parts[1][2] > 0
        value = -torch.where(present, dice, 0.0).sum() / present.sum().clamp(min=1)
        # the sums of a batch are those of all ranks already
        return (value if self.batch_dice else mean_over_ranks(value, present.sum())) + 0.0 * scored.logits.sum()

    def _interior(self, scored: Scored, g: Tensor) -> Tensor:
        """1 deep inside each map (B, C, *spatial); neither the border of the image nor what is ignored is a surface."""
        spatial = g.ndim - 2
        if self.spacing is not None and len(self.spacing) != spatial:
            raise ConfigurationError(f"region_dice: spacing has {len(self.spacing)} values for {spatial} axes.")
        steps = self.spacing or (1.0,) * spatial
        reach = [round(self.band_width / step) for step in steps]
        if not any(reach):
            raise ConfigurationError(f"region_dice: a band of {self.band_width} is less than half a voxel of {tuple(steps)}. Widen it.")
        with torch.no_grad():
            return g * (1 - _dilated(scored.masked(1 - g), reach))


def surface_distance(maps: np.ndarray[Any, np.dtype[Any]], valid: np.ndarray[Any, np.dtype[Any]], spacing: Sequence[float] | None) -> np.ndarray[Any, Any]:
    """Signed distance of every voxel from the surface of a class: positive outside, 0 on its outermost voxels, negative inside.

    Parameters
    ----------
    maps : array of bool, shape (*spatial)
    valid : array of bool, shape (*spatial)
        What is not valid is on no side of a surface.
    spacing
        mm per voxel; voxels without.

    Returns
    -------
    array, shape (*spatial), float32
        Zero if the class or all else is missing.
    """
    outside = valid & ~maps
    if not maps.any() or not outside.any():
        return np.zeros(maps.shape, np.float32)
    step = 1.0 if spacing is None else min(spacing)
    inner = np.maximum(distance_transform_edt(~outside, sampling=spacing) - step, 0)
    return np.where(maps, -inner, distance_transform_edt(~maps, sampling=spacing)).astype(np.float32)


@LOSSES.register("boundary", "BoundaryLoss")
class Boundary(DenseLoss):
    """Mean of probability times signed distance from the true surface (Kervadec et al., MIDL 2019): false positives cost by how far out they are.

    Unbounded below, and nothing happens near the surface at first: use it beside Dice or cross entropy, with a weight that grows.

    Parameters
    ----------
    clip
        Largest distance that counts (voxels, or mm with `spacing`).
    spacing
        mm per voxel, array axis order.
    """

    full_resolution_only = True
    splits_over_ranks = True

    def __init__(self, clip: float | None = None, spacing: Sequence[float] | None = None, **options: Any) -> None:
        super().__init__(**options)
        if clip is not None and clip <= 0:
            raise ConfigurationError(f"boundary needs clip > 0, found {clip}.")
        self.clip, self.spacing = clip, spacing

    def score(self, scored: Scored) -> Tensor:
        """See :class:`DenseLoss`."""
        p = scored.probabilities[:, scored.first_class :]
        maps = (scored.maps[:, scored.first_class :] > 0.5).cpu().numpy()
        if self.spacing is not None and len(self.spacing) != maps.ndim - 2:
            raise ConfigurationError(f"boundary: spacing has {len(self.spacing)} values for {maps.ndim - 2} axes.")
        valid = np.ones(maps.shape[2:], bool)
        distances = np.empty(maps.shape, np.float32)
        for sample, channels in enumerate(maps):
            inside = valid if scored.mask is None else scored.mask[sample, 0].cpu().numpy()
            for channel, image in enumerate(channels):
                distances[sample, channel] = surface_distance(image, inside, self.spacing)
        distance = torch.from_numpy(distances).to(p)
        if self.clip is not None:
            distance = distance.clamp(-self.clip, self.clip)
        return scored.mean(p * distance)
