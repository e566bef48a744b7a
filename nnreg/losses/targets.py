"""Losses of what is derived from labels: signed distances, directions, tensors. Called as ``loss(prediction, target, mask=None, source_pred=None)``."""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from nnreg.errors import ConfigurationError
from nnreg.losses.base import LOSSES, full_precision
from nnreg.losses.ranks import mean_over_ranks

EPSILON = 1e-8


class TargetLoss(nn.Module):
    """Loss of maps (B, C, *spatial) against derived maps.

    Parameters
    ----------
    ignore_index
        A target value that says nothing is known; a voxel of which a channel holds it is not scored.
    weight
        Factor of the loss.
    """

    kind = "regression"

    def __init__(self, ignore_index: float | None = -100.0, weight: float = 1.0) -> None:
        super().__init__()
        self.ignore_index, self.weight = ignore_index, weight

    def forward(self, prediction: Tensor, target: Tensor | None, mask: Tensor | None = None, source_pred: Tensor | None = None) -> Tensor:
        """Loss over the voxels where `mask` (B, 1, *spatial) is true; 0, with a gradient of 0, where there are none.

        Parameters
        ----------
        prediction, target : Tensors, shape (B, C, *spatial)
        mask : Tensor, shape (B, 1, *spatial), optional
        source_pred : Tensor, shape (B, K, *spatial), optional
            Logits of the labels that the target is derived from, for losses that ask where the object is.
        """
        if target is not None and target.shape != prediction.shape:
            raise ConfigurationError(f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} must have one shape.")
        if mask is not None and tuple(mask.shape) != (len(prediction), 1, *prediction.shape[2:]):
            raise ConfigurationError(f"a mask is (B, 1, *spatial), here {(len(prediction), 1, *prediction.shape[2:])}, found {tuple(mask.shape)}.")
        with torch.autocast(device_type=prediction.device.type, enabled=False):
            valid = prediction.new_ones((len(prediction), 1, *prediction.shape[2:]), dtype=torch.bool) if mask is None else mask.bool()
            if target is not None and self.ignore_index is not None:
                valid = valid & (target != self.ignore_index).all(dim=1, keepdim=True)
            truth = None if target is None else torch.where(valid, full_precision(target), 0.0)
            return self.weight * self.score(torch.where(valid, full_precision(prediction), 0.0), truth, valid, source_pred)

    def score(self, prediction: Tensor, target: Tensor | None, valid: Tensor, source_pred: Tensor | None) -> Tensor:
        """The loss; prediction and target are zero outside `valid` (B, 1, *spatial)."""
        raise ConfigurationError(f"{type(self).__name__} does not define score().")


def _needed(target: Tensor | None, name: str) -> Tensor:
    if target is None:
        raise ConfigurationError(f"{name} needs a target, found none.")
    return target


def _mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of (B, C, *spatial) over the valid voxels and the channels."""
    return mean_over_ranks(torch.where(valid, values, 0.0).sum() / (valid.sum().clamp(min=1) * values.shape[1]), valid.sum())


@LOSSES.register("masked_mse", "MaskedMSELoss")
class MaskedMSE(TargetLoss):
    """Mean squared difference over what is known."""

    splits_over_ranks = True

    def score(self, prediction: Tensor, target: Tensor | None, valid: Tensor, source_pred: Tensor | None) -> Tensor:
        """See :class:`TargetLoss`."""
        return _mean((prediction - _needed(target, "masked_mse")).square(), valid)


@LOSSES.register("smooth_l1", "weighted_smooth_l1", "WeightedSmoothL1Loss")
class WeightedSmoothL1(TargetLoss):
    """Mean smooth absolute difference; it may be weighted by which side of a threshold the target lies on (near or far from a surface, say).

    Parameters
    ----------
    beta
        Difference at which square turns into linear.
    threshold, weight_below, weight_above
        Factors of voxels whose target is below the threshold, and of the others.
    """

    splits_over_ranks = True

    def __init__(self, beta: float = 1.0, threshold: float = 0.0, weight_below: float = 1.0, weight_above: float = 1.0, **options: float) -> None:
        super().__init__(**options)
        if beta <= 0 or weight_below < 0 or weight_above < 0:
            raise ConfigurationError(f"weighted_smooth_l1 needs beta > 0 and weights >= 0, found {beta}, {weight_below} and {weight_above}.")
        self.beta, self.threshold, self.weights = beta, threshold, (weight_below, weight_above)

    def score(self, prediction: Tensor, target: Tensor | None, valid: Tensor, source_pred: Tensor | None) -> Tensor:
        """See :class:`TargetLoss`."""
        truth = _needed(target, "weighted_smooth_l1")
        below, above = self.weights
        return _mean(torch.where(truth < self.threshold, below, above) * nnf.smooth_l1_loss(prediction, truth, reduction="none", beta=self.beta), valid)


@LOSSES.register("signed_distance", "SignedDistanceLoss")
class SignedDistance(TargetLoss):
    """Smooth absolute difference of signed distances in a band around the surface, and how far the prediction's slope there is from 1.

    Parameters
    ----------
    rho
        Half width of the band, in the unit of the distances.
    beta
        Difference at which square turns into linear.
    eikonal, eikonal_weight
        Whether to ask for slope 1, and the weight of its mean squared error.
    spacing
        Step of the grid per axis in the unit of the distances; 1 where they are in voxels.
    """

    splits_over_ranks = True

    def __init__(
        self,
        rho: float = 4.0,
        beta: float = 1.0,
        eikonal: bool = True,
        eikonal_weight: float = 0.01,
        spacing: tuple[float, ...] | None = None,
        **options: float,
    ) -> None:
        super().__init__(**options)
        if rho <= 0 or beta <= 0 or eikonal_weight < 0:
            raise ConfigurationError(f"signed_distance needs rho > 0, beta > 0 and eikonal_weight >= 0, found {rho}, {beta} and {eikonal_weight}.")
        self.rho, self.beta, self.spacing = rho, beta, spacing
        self.eikonal_weight = eikonal_weight if eikonal else 0.0

    def score(self, prediction: Tensor, target: Tensor | None, valid: Tensor, source_pred: Tensor | None) -> Tensor:
        """See :class:`TargetLoss`."""
        truth = _needed(target, "signed_distance")
        if prediction.shape[1] != 1:
            raise ConfigurationError(f"signed_distance takes one channel, found {prediction.shape[1]}.")
        band = valid & (truth.abs() < self.rho)
        loss = _mean(nnf.smooth_l1_loss(prediction, truth, reduction="none", beta=self.beta), band)
        if self.eikonal_weight == 0:
            return loss
        # a slope that reaches into what is unknown is not one
        known = band & (nnf.max_pool3d if truth.ndim == 5 else nnf.max_pool2d)((~valid).to(truth.dtype), 3, stride=1, padding=1).eq(0)
        slope = (self._squared_slope(prediction) + EPSILON).sqrt()
        return loss + self.eikonal_weight * _mean((slope - 1).square(), known)

    def _squared_slope(self, prediction: Tensor) -> Tensor:
        """Squared gradient by central differences, one-sided on the border."""
        axes = [axis for axis in range(2, prediction.ndim) if prediction.shape[axis] > 1]
        steps = self.spacing or (1.0,) * (prediction.ndim - 2)
        if len(steps) != prediction.ndim - 2:
            raise ConfigurationError(f"signed_distance: spacing has {len(steps)} values for {prediction.ndim - 2} axes.")
        if not axes:
            return torch.ones_like(prediction)
        parts = torch.gradient(prediction, spacing=[float(steps[axis - 2]) for axis in axes], dim=axes)
        total: Tensor = torch.stack([part.square() for part in parts]).sum(dim=0)
        return total


@LOSSES.register("cosine", "CosineSimilarityLoss")
class CosineSimilarity(TargetLoss):
    """Mean of one minus the cosine between vectors along the channels. A true vector of length 0 says nothing and is not scored.

    Parameters
    ----------
    sign_invariant
        One minus the squared cosine: for axes (in-plane directions), whose sign means nothing.
    dim
        The channels' axis, which is 1.
    """

    splits_over_ranks = True

    def __init__(self, sign_invariant: bool = False, dim: int = 1, **options: float) -> None:
        super().__init__(**options)
        if dim != 1:
            raise ConfigurationError(f"cosine: channels are axis 1, found dim={dim}.")
        self.sign_invariant = sign_invariant

    def score(self, prediction: Tensor, target: Tensor | None, valid: Tensor, source_pred: Tensor | None) -> Tensor:
        """See :class:`TargetLoss`."""
        truth = _needed(target, "cosine")
        cosine = nnf.cosine_similarity(prediction, truth, dim=1, eps=EPSILON)[:, None]
        return _mean(1 - (cosine.square() if self.sign_invariant else cosine), valid & (truth.square().sum(dim=1, keepdim=True) > EPSILON))


@LOSSES.register("normal_smoothness", "NormalSmoothnessLoss")
class NormalSmoothness(TargetLoss):
    """Mean of ``(1 - cosine)^q`` between predicted normals and their Gaussian mean over the object: needs no truth.

    Parameters
    ----------
    sigma
        Of the Gaussian, voxels.
    q
        Exponent.
    """

    splits_over_ranks = True

    def __init__(self, sigma: float = 2.0, q: float = 2.0, **options: float) -> None:
        super().__init__(**options)
        if sigma <= 0 or q < 1:
            raise ConfigurationError(f"normal_smoothness needs sigma > 0 and q >= 1, found {sigma} and {q}.")
        self.sigma, self.q = sigma, q

    def score(self, prediction: Tensor, target: Tensor | None, valid: Tensor, source_pred: Tensor | None) -> Tensor:
        """See :class:`TargetLoss`; the object is where `source_pred` (one channel: sigmoid, else all but the first class) is above one half."""
        if source_pred is not None:
            logits = full_precision(source_pred.detach())
            found = logits.sigmoid() if logits.shape[1] == 1 else 1 - logits.softmax(dim=1)[:, :1]
            valid = valid & (found > 0.5)
        # the mean of the object's own normals: those of the background would bend it at the border. Its length does not matter
        normal = nnf.normalize(prediction, dim=1, eps=EPSILON)
        mean = _blurred(torch.where(valid, normal, 0.0), self.sigma)
        cosine = nnf.cosine_similarity(normal, mean, dim=1, eps=EPSILON)[:, None]
        return _mean((1 - cosine).clamp(min=0) ** self.q, valid)


def _blurred(values: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (B, C, *spatial), zero outside."""
    reach = ceil(3 * sigma)
    offsets = torch.arange(-reach, reach + 1, device=values.device, dtype=values.dtype)
    weights = torch.exp(-0.5 * (offsets / sigma).square())
    weights = weights / weights.sum()
    for axis in range(2, values.ndim):
        moved = values.movedim(axis, -1)
        lines = moved.reshape(-1, 1, moved.shape[-1])
        values = nnf.conv1d(lines, weights.reshape(1, 1, -1), padding=reach).reshape(moved.shape).movedim(-1, axis)
    return values
