"""Weighted sums of dense losses, under our names and nnU-Net's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nnreg.errors import ConfigurationError
from nnreg.losses.base import LOSSES
from nnreg.losses.blobs import BlobDice
from nnreg.losses.boundary import Boundary, RegionDice
from nnreg.losses.dense import DenseLoss, Scored
from nnreg.losses.segmentation import BCE, CrossEntropy, Dice, Focal, SoftDiceLoss, TopK, Tversky

Kwargs = Mapping[str, Any]


class WeightedSum(DenseLoss):
    """Sum of named terms; a term of weight 0 is not computed.

    Parameters
    ----------
    terms : (name, weight, loss)
    """

    splits_over_ranks = None

    def __init__(self, terms: Sequence[tuple[str, float, DenseLoss]], **options: Any) -> None:
        super().__init__(**options)
        kept = [(name, float(weight), loss) for name, weight, loss in terms if weight != 0]
        if not kept:
            raise ConfigurationError(f"{type(self).__name__}: every weight is 0. Give one of {', '.join(name for name, _, _ in terms)} another.")
        self.names, self.weights = [name for name, _, _ in kept], [weight for _, weight, _ in kept]
        self.losses = nn.ModuleList(loss for _, _, loss in kept)
        self.last_terms: dict[str, Tensor] = {}
        """Value of every term when the loss was last called, detached, without its weight."""

    def score(self, scored: Scored) -> Tensor:
        """See :class:`DenseLoss`."""
        values = [loss.score(scored) for loss in self.losses]  # type: ignore[operator]
        self.last_terms = {name: value.detach() for name, value in zip(self.names, values, strict=True)}
        total: Tensor = torch.stack([weight * value for weight, value in zip(self.weights, values, strict=True)]).sum()
        return total

    def coarse(self) -> DenseLoss | None:
        """The terms that mean something on coarser levels."""
        terms = [(name, weight, loss) for name, weight, loss in zip(self.names, self.weights, self.losses, strict=True)]
        kept = [term for term in terms if not term[2].full_resolution_only]
        if len(kept) == len(terms):
            return self
        return WeightedSum(kept, ignore_label=self.ignore_label, regions=self.regions) if kept else None  # type: ignore[arg-type]


def _terms(*terms: tuple[str, float, type[DenseLoss], Kwargs | None], regions: bool) -> list[tuple[str, float, DenseLoss]]:
    """Terms from their classes and arguments; one of weight 0 is not built."""
    return [(name, weight, kind(**{"regions": regions, **dict(kwargs or {})})) for name, weight, kind, kwargs in terms if weight != 0]


@LOSSES.register("dice_ce", "DC_and_CE_loss")
class DC_and_CE_loss(WeightedSum):
    """nnU-Net's default: minus Dice plus cross entropy, weights 1 and 1."""

    def __init__(
        self,
        soft_dice_kwargs: Kwargs | None = None,
        ce_kwargs: Kwargs | None = None,
        weight_ce: float = 1.0,
        weight_dice: float = 1.0,
        **options: Any,
    ) -> None:
        terms = _terms(("dice", weight_dice, SoftDiceLoss, soft_dice_kwargs), ("ce", weight_ce, CrossEntropy, ce_kwargs), regions=False)
        super().__init__(terms, **options)


@LOSSES.register("dice_bce", "DC_and_BCE_loss")
class DC_and_BCE_loss(WeightedSum):
    """nnU-Net's loss of regions: minus Dice plus binary cross entropy (whose channels are summed where something is ignored, as nnU-Net's)."""

    def __init__(
        self,
        bce_kwargs: Kwargs | None = None,
        soft_dice_kwargs: Kwargs | None = None,
        weight_ce: float = 1.0,
        weight_dice: float = 1.0,
        **options: Any,
    ) -> None:
        bce = {"sum_channels_of_masked": True, **dict(bce_kwargs or {})}
        terms = _terms(("dice", weight_dice, SoftDiceLoss, soft_dice_kwargs), ("bce", weight_ce, BCE, bce), regions=True)
        super().__init__(terms, **{"regions": True, **options})


@LOSSES.register("dice_topk", "DC_and_topk_loss")
class DC_and_topk_loss(WeightedSum):
    """Minus Dice plus the cross entropy of the worst voxels."""

    def __init__(
        self,
        soft_dice_kwargs: Kwargs | None = None,
        ce_kwargs: Kwargs | None = None,
        weight_ce: float = 1.0,
        weight_dice: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(_terms(("dice", weight_dice, SoftDiceLoss, soft_dice_kwargs), ("topk", weight_ce, TopK, ce_kwargs), regions=False), **options)


@LOSSES.register("dice_blob_ce", "DC_and_Blob_CE_loss")
class DC_and_Blob_CE_loss(WeightedSum):
    """Minus Dice, minus the Dice of every component, plus cross entropy."""

    def __init__(
        self,
        soft_dice_kwargs: Kwargs | None = None,
        ce_kwargs: Kwargs | None = None,
        blob_kwargs: Kwargs | None = None,
        weight_ce: float = 1.0,
        weight_dice: float = 1.0,
        weight_blob: float = 1.0,
        **options: Any,
    ) -> None:
        parts = (
            ("dice", weight_dice, SoftDiceLoss, soft_dice_kwargs),
            ("blob_dice", weight_blob, BlobDice, blob_kwargs),
            ("ce", weight_ce, CrossEntropy, ce_kwargs),
        )
        super().__init__(_terms(*parts, regions=False), **options)


@LOSSES.register("blob_dice_ce", "BlobDiceCELoss")
class BlobDiceCELoss(DC_and_Blob_CE_loss):
    """Minus the Dice of every component plus cross entropy."""

    def __init__(
        self, blob_kwargs: Kwargs | None = None, ce_kwargs: Kwargs | None = None, weight_ce: float = 1.0, weight_blob: float = 1.0, **options: Any
    ) -> None:
        super().__init__(None, ce_kwargs, blob_kwargs, weight_ce=weight_ce, weight_dice=0.0, weight_blob=weight_blob, **options)


@LOSSES.register("region_dice_ce", "DC_and_Region_CE_loss")
class RegionDiceCELoss(WeightedSum):
    """Minus the Dice of boundary and interior plus cross entropy."""

    def __init__(
        self, region_kwargs: Kwargs | None = None, ce_kwargs: Kwargs | None = None, weight_ce: float = 1.0, weight_region: float = 1.0, **options: Any
    ) -> None:
        super().__init__(
            _terms(("region_dice", weight_region, RegionDice, region_kwargs), ("ce", weight_ce, CrossEntropy, ce_kwargs), regions=False), **options
        )


COMBINABLE: dict[str, type[DenseLoss]] = {
    "dice": Dice,
    "ce": CrossEntropy,
    "bce": BCE,
    "focal": Focal,
    "boundary": Boundary,
    "tversky": Tversky,
    "topk": TopK,
    "blob_dice": BlobDice,
    "region_dice": RegionDice,
}
BOUNDARY_STEP, REGIONAL_FLOOR = 0.01, 0.1  # Kervadec et al.: per epoch; least share of the regional terms


@LOSSES.register("combined", "CombinedLoss")
class Combined(WeightedSum):
    """Any dense losses with weights: ``combined(dice_weight=0.5, ce_weight=0.5)``, which is also what it is without arguments.

    Parameters
    ----------
    **weights_and_arguments
        ``NAME_weight`` (missing: 0) and ``NAME_kwargs`` for `NAME` in dice, ce, bce, focal, boundary, tversky, topk, blob_dice, region_dice.
        The Dice is one minus Dice with the background and smooth 1.
    boundary_schedule
        ``increase`` adds 0.01 per epoch to the boundary's weight; ``rebalance`` moves as much from the other terms, which keep a tenth of theirs.

    Examples
    --------
    >>> Combined(dice_weight=0.4, ce_weight=0.4, boundary_weight=0.2).names
    ['dice', 'ce', 'boundary']
    """

    def __init__(
        self,
        boundary_schedule: Literal["constant", "increase", "rebalance"] = "constant",
        ignore_label: int | None = None,
        regions: bool = False,
        **weights_and_arguments: Any,
    ) -> None:
        if boundary_schedule not in ("constant", "increase", "rebalance"):
            raise ConfigurationError(f"combined: boundary_schedule is {boundary_schedule!r}, expected 'constant', 'increase' or 'rebalance'.")
        known = {f"{name}_{part}" for name in COMBINABLE for part in ("weight", "kwargs")}
        if unknown := sorted(set(weights_and_arguments) - known):
            raise TypeError(f"unexpected {', '.join(map(repr, unknown))}; it takes {', '.join(sorted(known))}")
        weights = {name: weights_and_arguments.get(f"{name}_weight", 0.0) for name in COMBINABLE}
        if not any(f"{name}_weight" in weights_and_arguments for name in COMBINABLE):
            weights |= {"dice": 0.5, "bce" if regions else "ce": 0.5}
        terms = [(name, weight, COMBINABLE[name], weights_and_arguments.get(f"{name}_kwargs")) for name, weight in weights.items()]
        super().__init__(_terms(*terms, regions=regions), ignore_label=ignore_label, regions=regions)
        self.boundary_schedule, self.planned_weights = boundary_schedule, list(self.weights)

    def set_epoch(self, epoch: int) -> None:
        """Weights of an epoch, counted from 0."""
        if self.boundary_schedule == "constant" or "boundary" not in self.names:
            return
        moved = BOUNDARY_STEP * epoch
        share = max(REGIONAL_FLOOR, 1 - moved) if self.boundary_schedule == "rebalance" else 1.0
        self.weights = [weight + moved if name == "boundary" else weight * share for name, weight in zip(self.names, self.planned_weights, strict=True)]


def _named(name: str, **defaults: Any) -> None:
    """Register :class:`Combined` with its weights under a name of its own."""

    def build(**kwargs: Any) -> Combined:
        return Combined(**{**defaults, **kwargs})

    build.__doc__ = f"`combined` with {', '.join(f'{key}={value}' for key, value in defaults.items())}."
    build.kind = Combined.kind  # type: ignore[attr-defined]  # as the classes say
    LOSSES[name] = build


_named("dice_focal", dice_weight=0.5, focal_weight=0.5)
_named("dice_ce_boundary", dice_weight=0.4, ce_weight=0.4, boundary_weight=0.2)
