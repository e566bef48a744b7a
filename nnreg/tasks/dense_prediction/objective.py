"""What a network for dense prediction is trained on: the planned losses, or the recipe's, at every resolution it returns."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from nnreg.dataset.labels import LabelManager
from nnreg.errors import ConfigurationError
from nnreg.losses import LOSSES, DenseLoss, WeightedSum, build_loss, deep_supervision_weights
from nnreg.planning.dense.plans import DenseConfiguration
from nnreg.tasks.dense_prediction.auxiliary import AuxiliaryLosses, AuxiliaryTarget
from nnreg.training.configs.trainer_config import TrainerConfig

TRIAL_SIZE = 4  # voxels per axis on which a loss is tried before anything is trained


class DenseObjective(nn.Module):
    """Weighted sum over resolutions; truth is brought to each of them by its nearest voxels, as nnU-Net does.

    Parameters
    ----------
    configuration
        Its training plan names terms and weights.
    recipe
        A TrainerConfig whose loss takes the place of all planned terms.
    labels
        What the channels of the logits are.
    auxiliary
        Further targets by name, each with a decoder of its own in the network.

    Raises
    ------
    ConfigurationError
        If a loss does not fit labels (or regions).
    """

    encoding: Tensor

    def __init__(
        self, configuration: DenseConfiguration, recipe: TrainerConfig, labels: LabelManager, auxiliary: Mapping[str, AuxiliaryTarget] | None = None
    ) -> None:
        super().__init__()
        plan = configuration.training
        for name, value in (("similarity", plan.similarity), ("regularisation", plan.regularisation), ("bidirectional", plan.bidirectional)):
            if value:
                raise ConfigurationError(f"training.{name} belongs to registration, dense prediction has no pairs. Leave it out, or choose another recipe.")
        self.labels = labels
        self.ignore = len(labels.values) if labels.ignore is not None else None
        """Class index of voxels without annotation."""
        self.loss = self._planned(configuration) if recipe.loss is None else self._recipes(recipe, configuration)
        self.planned_weights = tuple(configuration.training.deep_supervision_weights)
        self.register_buffer("encoding", _encoding(labels), persistent=False)
        self._plain = bool((self.encoding == torch.arange(len(self.encoding), device="cpu")).all())
        self.auxiliary = AuxiliaryLosses(auxiliary, configuration.spacing) if auxiliary else None
        self._try(configuration.ndim)

    def forward(self, network: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss and detached terms of a batch with ``image`` (B, C, *patch), ``labels`` (B, 1, *patch) and what is derived from them."""
        loss, terms, _ = self.scored(network, batch)
        return loss, terms

    def scored(self, network: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor], list[Tensor]]:
        """Loss and terms, and the logits of every level, finest first."""
        if self.auxiliary is None:
            logits: list[Tensor] = network(batch["image"])
            return *self.score(logits, batch), logits
        logits, further = network.with_auxiliary(batch["image"])  # type: ignore[operator]  # networks of auxiliary targets have it
        loss, terms = self.score(logits, batch)
        other, other_terms = self.auxiliary(further, batch, self.level_weights(len(logits)), logits)
        return loss + other, {**terms, **other_terms}, logits

    def score(self, outputs: Sequence[Tensor], batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss of given logits, finest first, and the detached terms of the finest."""
        weights = self.level_weights(len(outputs))
        coarse = getattr(self.loss, "coarse", lambda: self.loss)()
        total, terms = outputs[0].new_zeros((), dtype=torch.float32), {}
        for level, (logits, weight) in enumerate(zip(outputs, weights, strict=True)):
            loss = self.loss if level == 0 else coarse
            if weight == 0 or loss is None:
                continue
            value = loss(logits, self.target(batch["labels"], logits.shape[2:]))
            total = total + weight * value
            if level == 0:
                terms = {f"{name}_loss": term for name, term in getattr(loss, "last_terms", {}).items()}  # a term named dice is not the metric
        return total, terms

    def target(self, labels: Tensor, shape: Sequence[int]) -> Tensor:
        """What logits of a shape are held against: class indices (B, 1, *shape), or a map per region (and one of what is ignored)."""
        found = labels[:, :1]
        if found.shape[2:] != shape:
            found = nnf.interpolate(found.float(), tuple(shape), mode="nearest-exact").to(labels.dtype)
        if not self.labels.has_regions:
            return found if self._plain else self.encoding[found.long()]
        regions = [*self.labels.regions, *([] if self.labels.ignore is None else [self.labels.ignore])]
        return torch.cat([_inside(found, region) for region in regions], dim=1)

    def counts(self, logits: Tensor, labels: Tensor) -> Tensor:
        """True positives, false positives and false negatives (classes, 3) over the batch: of every region, or every label but background."""
        truth = self.target(labels, logits.shape[2:])
        axes = (0, *range(2, logits.ndim))
        if self.labels.has_regions:
            predicted = logits > 0
            valid = ~truth[:, self.labels.heads :].any(dim=1, keepdim=True)
            truth = truth[:, : self.labels.heads]
        else:
            valid = truth != self.ignore if self.ignore is not None else torch.ones_like(truth, dtype=torch.bool)
            classes = torch.arange(1, self.labels.heads, device=logits.device).reshape(1, -1, *(1,) * (logits.ndim - 2))
            predicted, truth = logits.argmax(dim=1, keepdim=True) == classes, truth == classes
        pairs = (predicted & truth, predicted & ~truth, ~predicted & truth)
        return torch.stack([(found & valid).sum(dim=axes) for found in pairs], dim=1)

    def level_weights(self, count: int) -> tuple[float, ...]:
        """Weights of so many outputs: the planned ones, or nnU-Net's where another network is trained."""
        if count == 1:
            return (1.0,)
        if not self.planned_weights:
            return deep_supervision_weights(count, keep_lowest=False)
        if len(self.planned_weights) != count:
            raise ConfigurationError(
                f"training.deep_supervision_weights has {len(self.planned_weights)} values, the network returns {count} outputs. Give one per output, or none."
            )
        return self.planned_weights

    def _planned(self, configuration: DenseConfiguration) -> DenseLoss:
        terms = [
            (term.name, term.weight, build_loss(term.name, **self._arguments(LOSSES[term.name], term.kwargs, configuration)))
            for term in configuration.training.supervision
        ]
        for name, _, loss in terms:
            self._check_kind(name, loss, "training.supervision")
        return WeightedSum(terms, ignore_label=self.ignore, regions=self.labels.has_regions)  # type: ignore[arg-type]  # their kind was checked

    def _recipes(self, recipe: TrainerConfig, configuration: DenseConfiguration) -> nn.Module:
        if isinstance(recipe.loss, nn.Module):
            loss = recipe.loss
        elif isinstance(recipe.loss, str):
            loss = build_loss(recipe.loss, **self._arguments(LOSSES[recipe.loss], recipe.loss_kwargs, configuration))
        else:
            made: Callable[..., nn.Module] = recipe.loss  # type: ignore[assignment]  # neither a name nor a network, and asked only where there is one
            loss = made(**self._arguments(made, recipe.loss_kwargs, configuration))
        self._check_kind(recipe.loss if isinstance(recipe.loss, str) else type(loss).__name__, loss, "TrainerConfig.loss")
        return loss

    def _arguments(self, made: Callable[..., Any], given: Mapping[str, Any], configuration: DenseConfiguration) -> dict[str, Any]:
        """Arguments of a loss: what labels and plan say of ours, under those that are given."""
        if getattr(made, "kind", None) != DenseLoss.kind:
            return dict(given)
        known: dict[str, Any] = {"ignore_label": self.ignore, "regions": self.labels.has_regions}
        over_batch = {"batch_dice": configuration.batch_dice}
        names = inspect.signature(made).parameters
        known |= over_batch if "batch_dice" in names else {}
        known |= {"soft_dice_kwargs": {**over_batch, **dict(given.get("soft_dice_kwargs") or {})}} if "soft_dice_kwargs" in names else {}
        return {**known, **{name: value for name, value in given.items() if name != "soft_dice_kwargs"}}

    @staticmethod
    def _check_kind(name: str, loss: nn.Module, where: str) -> None:
        """Refuse a registered loss of other things; one of the user's own, which says nothing, is taken as it is."""
        if getattr(loss, "kind", DenseLoss.kind) != DenseLoss.kind:
            fitting = sorted(other for other, entry in LOSSES.items() if getattr(entry, "kind", None) == DenseLoss.kind)
            raise ConfigurationError(f"{where}: the loss {name!r} is not one of labels. Dense prediction takes {', '.join(fitting)}.")

    def _try(self, ndim: int) -> None:
        """Let the loss speak before hours are spent: on background alone."""
        shape = (TRIAL_SIZE,) * ndim
        with torch.device("cpu"):  # networks are also built where tensors have no numbers
            self.loss(torch.zeros(1, self.labels.heads, *shape), self.target(torch.zeros(1, 1, *shape, dtype=torch.int16), shape))


def _encoding(labels: LabelManager) -> Tensor:
    """Class index of every label value; ignore comes after the last class."""
    table = torch.zeros(max(labels.allowed) + 1, dtype=torch.long, device="cpu")
    for index, value in enumerate(labels.values if labels.ignore is None else (*labels.values, labels.ignore)):
        table[value] = index
    return table


def _inside(labels: Tensor, region: int | tuple[int, ...]) -> Tensor:
    return labels == region if isinstance(region, int) else torch.isin(labels, torch.tensor(region, device=labels.device, dtype=labels.dtype))
