"""What the losses of dense prediction share: logits against a label map or maps of regions, what is ignored, and sums over the batch and its ranks."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from nnreg.errors import ConfigurationError
from nnreg.losses.base import full_precision
from nnreg.losses.ranks import mean_over_ranks


class Scored:
    """One prediction and its truth, checked, in full precision, without what is ignored.

    Attributes
    ----------
    logits : Tensor, shape (B, C, *spatial), zero where nothing is scored
    labels : Tensor of int64, shape (B, *spatial), or None
        Label map, 0 where nothing is scored; None where the truth came as maps.
    mask : Tensor of bool, shape (B, 1, *spatial), or None
    regions : bool
        Channels are independent (sigmoid), there is no background channel.
    """

    def __init__(self, logits: Tensor, labels: Tensor | None, maps: Tensor | None, mask: Tensor | None, regions: bool) -> None:
        self.logits, self.labels, self.mask, self.regions = logits, labels, mask, regions
        self._maps = maps

    @functools.cached_property
    def probabilities(self) -> Tensor:
        """Sigmoid or softmax of the logits (B, C, *spatial)."""
        return self.logits.sigmoid() if self.regions else self.logits.softmax(dim=1)

    @functools.cached_property
    def maps(self) -> Tensor:
        """The truth as one map per channel (B, C, *spatial): bool from a label map, else as given; zero where nothing is scored."""
        if self._maps is not None:
            return self._maps
        if self.labels is None:
            raise ConfigurationError("a dense loss has neither a label map nor maps to score.")
        hot = torch.zeros(self.logits.shape, dtype=torch.bool, device=self.logits.device).scatter_(1, self.labels[:, None], value=True)
        return hot if self.mask is None else hot & self.mask

    def masked(self, values: Tensor) -> Tensor:
        """Zero where nothing is scored."""
        return values if self.mask is None else torch.where(self.mask, values, 0.0)

    @property
    def voxels(self) -> Tensor | int:
        """How many voxels are scored, at least 1."""
        return self.logits[:, 0].numel() if self.mask is None else self.mask.sum().clamp(min=1)

    def mean(self, values: Tensor) -> Tensor:
        """Mean of values (B, K, *spatial) over the scored voxels and the K channels."""
        return mean_over_ranks(self.masked(values).sum() / (self.voxels * values.shape[1]), self.voxels)

    @property
    def first_class(self) -> int:
        """First channel that is not background."""
        return 0 if self.regions else 1


class DenseLoss(nn.Module):
    """Loss of logits (B, C, *spatial), called as nnU-Net's: ``loss(logits, target, mask=None)``.

    Parameters
    ----------
    ignore_label
        Value of a label map that is not scored.
    regions
        Channels are independent (sigmoid) instead of exclusive (softmax); the target is one map per channel.
    """

    kind = "segmentation"
    full_resolution_only = False
    """Whether coarser levels of deep supervision are not scored: structures of a few voxels are gone there."""

    def __init__(self, *, ignore_label: int | None = None, regions: bool = False) -> None:
        super().__init__()
        self.ignore_label, self.regions = ignore_label, regions

    def forward(self, logits: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """Loss of logits against a truth.

        Parameters
        ----------
        logits : Tensor, shape (B, C, *spatial)
        target : Tensor
            Label map (B, 1, *spatial) or (B, *spatial), or one map per channel (B, C, *spatial), soft or not. With regions, a map more than
            channels holds what is ignored.
        mask : Tensor, shape (B, 1, *spatial), optional
            What is scored; the logits elsewhere may be NaN.

        Raises
        ------
        ConfigurationError
            If shapes do not fit, or a label has no channel.
        """
        with torch.autocast(device_type=logits.device.type, enabled=False):
            return self.score(self._scored(logits, target, mask))

    def score(self, scored: Scored) -> Tensor:
        """The loss, of one prediction that may be shared with other terms."""
        raise ConfigurationError(f"{type(self).__name__} does not define score(scored).")

    def coarse(self) -> DenseLoss | None:
        """What scores the coarser levels of deep supervision, None for nothing."""
        return None if self.full_resolution_only else self

    def _scored(self, logits: Tensor, target: Tensor, mask: Tensor | None) -> Scored:
        spatial, channels = tuple(logits.shape[2:]), logits.shape[1]
        if mask is not None and tuple(mask.shape) != (len(logits), 1, *spatial):
            raise ConfigurationError(f"a mask is (B, 1, *spatial), here {(len(logits), 1, *spatial)}, found {tuple(mask.shape)}.")
        valid = None if mask is None else mask.bool()
        if target.ndim == logits.ndim - 1:
            target = target[:, None]
        if len(target) != len(logits) or tuple(target.shape[2:]) != spatial:
            raise ConfigurationError(f"logits {tuple(logits.shape)} and target {tuple(target.shape)} must have one batch size and one grid.")
        if target.shape[1] == 1 and not self.regions:
            labels, valid = self._labels(target, valid, channels)
            return Scored(_without(full_precision(logits), valid), labels, None, valid, regions=False)
        if target.shape[1] == channels + 1 and self.regions:
            ignored = target[:, -1:].bool()
            target, valid = target[:, :-1], ~ignored if valid is None else valid & ~ignored
        if target.shape[1] != channels:
            raise ConfigurationError(f"logits of {channels} channels need a label map or {channels} maps, found a target of {target.shape[1]} channels.")
        maps = target if target.dtype == torch.bool else full_precision(target)
        return Scored(_without(full_precision(logits), valid), None, _without(maps, valid), valid, self.regions)

    def _labels(self, target: Tensor, valid: Tensor | None, channels: int) -> tuple[Tensor, Tensor | None]:
        labels = target.long()
        if self.ignore_label is not None:
            kept = labels != self.ignore_label
            valid = kept if valid is None else valid & kept
        if valid is not None:
            labels = torch.where(valid, labels, 0)
        # an index out of range would be a crash of the whole device on a GPU
        if labels.numel() and not 0 <= int(labels.amin()) <= int(labels.amax()) < channels:
            found = sorted(set(labels.unique().tolist()) - set(range(channels)))
            raise ConfigurationError(f"the target has labels {found}, the network {channels} channels (0 to {channels - 1}). Is an ignore_label missing?")
        return labels[:, 0], valid


def _without(values: Tensor, valid: Tensor | None) -> Tensor:
    if valid is None:
        return values
    return values & valid if values.dtype == torch.bool else torch.where(valid, values, 0.0)


def spatial_axes(values: Tensor, batch: bool) -> tuple[int, ...]:
    """Axes to sum (B, C, *spatial) over: the spatial ones, and the batch's too if asked."""
    return (0, *range(2, values.ndim)) if batch else tuple(range(2, values.ndim))
