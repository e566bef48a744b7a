"""Losses of dense prediction that look at voxels one by one or at their sums: Dice, cross entropy, focal, top-k, Tversky."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as nnf

from nnreg.errors import ConfigurationError
from nnreg.losses.base import LOSSES
from nnreg.losses.dense import DenseLoss, Scored, spatial_axes
from nnreg.losses.ranks import mean_over_ranks, over_ranks


class OverlapLoss(DenseLoss):
    """What Dice and Tversky share: true positives, false positives and false negatives per class."""

    splits_over_ranks = True

    def __init__(self, smooth: float, form: Literal["negative", "one_minus"], batch_dice: bool, do_bg: bool | None, ddp: bool, **options: Any) -> None:
        super().__init__(**options)
        if form not in ("negative", "one_minus") or smooth < 0:
            raise ConfigurationError(f"an overlap loss needs form 'negative' or 'one_minus' and smooth >= 0, found {form!r} and {smooth}.")
        self.smooth, self.form, self.batch_dice, self.do_bg, self.ddp = smooth, form, batch_dice, do_bg, ddp

    def first_channel(self, scored: Scored) -> int:
        """0 with the background, else the first class."""
        return scored.first_class if self.do_bg is None else int(not self.do_bg)

    def sums(self, scored: Scored, *, squared: bool = False) -> Sequence[Tensor]:
        """Sums of ``p g``, of ``p`` and of ``g`` (of their squares if asked), (B, C) or with `batch_dice` (C,)."""
        first = self.first_channel(scored)
        p, g = scored.masked(scored.probabilities[:, first:]), scored.maps[:, first:]
        if p.shape[1] == 0:
            raise ConfigurationError(f"{type(self).__name__}: logits of one channel leave no class without the background. Use regions=True or do_bg=True.")
        axes = spatial_axes(p, self.batch_dice)
        # a one-hot truth stays one byte a voxel: it picks what is summed
        overlap = torch.where(g, p, 0.0).sum(dim=axes) if g.dtype == torch.bool else (p * g).sum(dim=axes)
        power = 2 if squared else 1
        parts = (overlap, (p**power).sum(dim=axes), g.sum(dim=axes, dtype=p.dtype) if g.dtype == torch.bool else (g**power).sum(dim=axes))
        return over_ranks(*parts) if self.batch_dice and self.ddp else parts

    def signed(self, overlap: Tensor) -> Tensor:
        """Minus the mean overlap, or one minus it."""
        return -overlap.mean() if self.form == "negative" else 1.0 - overlap.mean()


@LOSSES.register("dice", "DiceLoss")
class Dice(OverlapLoss):
    """One minus the mean soft Dice of the classes.

    Per class ``(2 sum pg + s) / (sum p + sum g + s)`` over the voxels of a sample, or of the batch.

    Parameters
    ----------
    smooth
        The s above: with 1 a class absent from the truth pulls gently, with nnU-Net's 1e-5 hard.
    form
        ``one_minus``, or ``negative``: nnU-Net's minus Dice.
    batch_dice
        Sum over the batch (of all ranks with `ddp`) before dividing.
    do_bg
        Whether the background counts; None: it does not, and regions have none.
    squared
        Squares in the denominator (Milletari et al. 2016).
    """

    def __init__(
        self,
        smooth: float = 1.0,
        form: Literal["negative", "one_minus"] = "one_minus",
        batch_dice: bool = False,
        do_bg: bool | None = True,
        ddp: bool = True,
        squared: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(smooth, form, batch_dice, do_bg, ddp, **options)
        self.squared = squared

    def score(self, scored: Scored) -> Tensor:
        """See :class:`DenseLoss`."""
        overlap, predicted, true = self.sums(scored, squared=self.squared)
        return self.signed((2.0 * overlap + self.smooth) / (predicted + true + self.smooth).clamp(min=1e-8))


@LOSSES.register("negative_dice", "SoftDiceLoss", "MemoryEfficientSoftDiceLoss")
class SoftDiceLoss(Dice):
    """:class:`Dice` with nnU-Net's defaults: minus the mean, no background among exclusive classes, smooth 1e-5."""

    def __init__(self, smooth: float = 1e-5, batch_dice: bool = False, do_bg: bool | None = None, **options: Any) -> None:
        super().__init__(smooth=smooth, form=options.pop("form", "negative"), batch_dice=batch_dice, do_bg=do_bg, **options)


@LOSSES.register("tversky", "TverskyLoss")
class Tversky(OverlapLoss):
    """One minus the Tversky index (Salehi et al. 2017): Dice whose false positives count `alpha` and false negatives `beta`.

    ``alpha = beta = 0.5`` is Dice. `gamma` raises one minus each class's index to a power (focal Tversky, Abraham and Khan 2019).
    """

    def __init__(
        self,
        alpha: float = 0.3,
        beta: float = 0.7,
        gamma: float = 1.0,
        smooth: float = 1e-5,
        batch_dice: bool = False,
        do_bg: bool | None = None,
        ddp: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(smooth, "one_minus", batch_dice, do_bg, ddp, **options)
        if alpha < 0 or beta < 0 or alpha + beta <= 0 or gamma <= 0:
            raise ConfigurationError(f"tversky needs alpha, beta >= 0 (not both 0) and gamma > 0, found {alpha}, {beta} and {gamma}.")
        self.alpha, self.beta, self.gamma = alpha, beta, gamma

    def score(self, scored: Scored) -> Tensor:
        """See :class:`DenseLoss`."""
        overlap, predicted, true = self.sums(scored)
        penalty = self.alpha * (predicted - overlap) + self.beta * (true - overlap)
        missing = 1 - (overlap + self.smooth) / (overlap + penalty + self.smooth).clamp(min=1e-8)
        # rounding may leave a hair below zero, of which no power exists
        return (missing if self.gamma == 1 else missing.clamp(min=1e-7) ** self.gamma).mean()


def class_weights(weight: Sequence[float] | Tensor | None, logits: Tensor) -> Tensor | None:
    """Weights of the classes as a tensor beside the logits."""
    if weight is None:
        return None
    values = torch.as_tensor(weight, dtype=logits.dtype, device=logits.device)
    if values.shape != (logits.shape[1],):
        raise ConfigurationError(f"class_weights: {values.numel()} values for {logits.shape[1]} classes. Give one per class, background first.")
    return values


@LOSSES.register("ce", "cross_entropy", "CrossEntropyLoss", "RobustCrossEntropyLoss")
class CrossEntropy(DenseLoss):
    """Mean cross entropy of exclusive classes over the scored voxels.

    Parameters
    ----------
    class_weights : one per class, optional
        The mean is weighted by them. `weight` is another name for it, torch's.
    label_smoothing
        Share of the truth spread evenly over the classes.
    """

    splits_over_ranks = True

    def __init__(
        self,
        class_weights: Sequence[float] | Tensor | None = None,
        label_smoothing: float = 0.0,
        weight: Sequence[float] | Tensor | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if self.regions:
            raise ConfigurationError("cross entropy is for exclusive classes; regions need bce.")
        if class_weights is not None and weight is not None:
            raise ConfigurationError("cross entropy: class_weights and weight are the same thing. Give one of them.")
        chosen = class_weights if weight is None else weight
        if chosen is not None and min(float(value) for value in chosen) < 0:
            raise ConfigurationError(f"class_weights must not be negative, found {list(map(float, chosen))}.")
        self.class_weights, self.label_smoothing = chosen, label_smoothing

    def per_voxel(self, scored: Scored) -> tuple[Tensor, Tensor | int]:
        """Cross entropy (B, 1, *spatial), zero where nothing is scored, and what its sum is divided by for the mean."""
        if scored.regions:
            raise ConfigurationError("cross entropy is for exclusive classes; regions need bce.")
        weights = class_weights(self.class_weights, scored.logits)
        truth = scored.maps.to(scored.logits.dtype) if scored.labels is None else scored.labels
        values = nnf.cross_entropy(scored.logits, truth, weight=weights, reduction="none", label_smoothing=self.label_smoothing)[:, None]
        if weights is None or scored.labels is None:
            return scored.masked(values), scored.voxels
        return scored.masked(values), scored.masked(weights[scored.labels][:, None]).sum().clamp(min=torch.finfo(weights.dtype).tiny)

    def score(self, scored: Scored) -> Tensor:
        """See :class:`DenseLoss`."""
        values, count = self.per_voxel(scored)
        return mean_over_ranks(values.sum() / count, count)


@LOSSES.register("topk", "TopKLoss")
class TopK(CrossEntropy):
    """Mean cross entropy of the worst `k` percent of the scored voxels."""

    splits_over_ranks = False  # the worst of the batch are not the worst of its parts

    def __init__(self, k: float = 10.0, **options: Any) -> None:
        super().__init__(**options)
        if not 0 < k <= 100:
            raise ConfigurationError(f"topk needs 0 < k <= 100 percent, found {k}.")
        self.k = k

    def score(self, scored: Scored) -> Tensor:
        """See :class:`DenseLoss`."""
        values, _ = self.per_voxel(scored)
        chosen = max(1, int(int(scored.voxels) * self.k / 100))
        return values.flatten().topk(chosen, sorted=False).values.mean()


@LOSSES.register("bce", "binary_cross_entropy", "BCEWithLogitsLoss")
class BCE(DenseLoss):
    """Mean binary cross entropy of regions over scored voxels and channels.

    Parameters
    ----------
    sum_channels_of_masked
        nnU-Net's scale: where a mask (or an ignored region) is given, channels are summed instead of averaged.
    """

    splits_over_ranks = True

    def __init__(self, sum_channels_of_masked: bool = False, regions: bool = True, **options: Any) -> None:
        super().__init__(regions=True, **options)
        if not regions:
            raise ConfigurationError("bce is for regions (independent channels); exclusive classes need ce.")
        self.sum_channels_of_masked = sum_channels_of_masked

    def score(self, scored: Scored) -> Tensor:
        """See :class:`DenseLoss`."""
        values = nnf.binary_cross_entropy_with_logits(scored.logits, scored.maps.to(scored.logits.dtype), reduction="none")
        scale = values.shape[1] if self.sum_channels_of_masked and scored.mask is not None else 1
        return scored.mean(values) * scale


@LOSSES.register("focal", "FocalLoss")
class Focal(DenseLoss):
    """Focal loss (Lin et al. 2017): cross entropy with what is predicted well counting less, ``-alpha (1 - p)^gamma log p``, mean over scored voxels.

    Parameters
    ----------
    alpha
        One number: of two classes (or a region), the foreground's factor, the background's being 1 - alpha; of more classes, a factor of all.
        One per class: each class's own. None: 1.
    gamma
        0 is cross entropy.
    """

    splits_over_ranks = True

    def __init__(self, alpha: float | Sequence[float] | None = 0.25, gamma: float = 2.0, **options: Any) -> None:
        super().__init__(**options)
        if gamma < 0:
            raise ConfigurationError(f"focal needs gamma >= 0, found {gamma}.")
        self.alpha, self.gamma = alpha, gamma

    def score(self, scored: Scored) -> Tensor:
        """See :class:`DenseLoss`."""
        logits, maps = scored.logits, scored.maps.to(scored.logits.dtype)
        if scored.regions:
            on, off = nnf.logsigmoid(logits), nnf.logsigmoid(-logits)
            foreground, background = (1.0, 1.0) if self.alpha is None else self._pair(logits)
            return scored.mean(-(foreground * maps * (1 - on.exp()) ** self.gamma * on + background * (1 - maps) * (1 - off.exp()) ** self.gamma * off))
        logs = logits.log_softmax(dim=1)
        # the power of a hair below zero does not exist
        values = -self._factors(logits) * maps * (1 - logs.exp()).clamp(min=0) ** self.gamma * logs
        return scored.mean(values) * values.shape[1]

    def _pair(self, logits: Tensor) -> tuple[Any, Any]:
        if isinstance(self.alpha, (int, float)):
            return self.alpha, 1 - self.alpha
        values = class_weights(self.alpha, logits)
        return values.reshape(1, -1, *(1,) * (logits.ndim - 2)) if values is not None else 1.0, 1.0

    def _factors(self, logits: Tensor) -> Tensor:
        channels = logits.shape[1]
        alpha: Sequence[float]
        if self.alpha is None:
            alpha = [1.0] * channels
        elif isinstance(self.alpha, (int, float)):
            alpha = [1 - self.alpha, self.alpha] if channels == 2 else [self.alpha] * channels
        else:
            alpha = self.alpha
        values = class_weights(alpha, logits)
        return logits.new_ones(()) if values is None else values.reshape(1, -1, *(1,) * (logits.ndim - 2))
