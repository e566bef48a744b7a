"""What a network for dense prediction is trained on: the planned losses, or the recipe's, at every resolution it returns."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from nnreg.dataset.continuous import Continuous, map_places
from nnreg.dataset.labels import LabelManager
from nnreg.dataset.spec import FILE_NAME
from nnreg.dataset.target_spec import WHOLE, LossEntry, Output, Target
from nnreg.errors import ConfigurationError
from nnreg.losses import LOSSES, DenseLoss, WeightedSum, build_loss
from nnreg.planning.dense_prediction.fingerprint import MapValues
from nnreg.planning.dense_prediction.plans import DenseConfiguration
from nnreg.tasks.dense_prediction.auxiliary import AuxiliaryTarget
from nnreg.tasks.dense_prediction.continuous import ContinuousObjective
from nnreg.tasks.dense_prediction.target_objective import TargetObjective
from nnreg.training.configs.trainer_config import TrainerConfig

TRIAL_SIZE = 4  # voxels per axis on which a loss is tried before anything is trained


class DenseObjective(TargetObjective):
    """Weighted sum over resolutions; truth is brought to each of them by its nearest voxels, as nnU-Net does.

    Parameters
    ----------
    configuration
        Its training plan names terms and weights.
    recipe
        A TrainerConfig whose loss takes the place of all planned terms.
    labels
        What the channels of the logits are; of several targets by their names. The first are the network's logits, each other has a decoder of its own.
    auxiliary
        Further targets by name, derived from labels, each with a decoder of its own too.
    targets
        What ``targets`` of dataset.json say of those in `labels`.
    channel, others
        As :class:`TargetObjective` has them; `others` in place of those in `labels`.

    Raises
    ------
    ConfigurationError
        If a loss does not fit labels (or regions).
    """

    encoding: Tensor

    def __init__(
        self,
        configuration: DenseConfiguration,
        recipe: TrainerConfig,
        labels: LabelManager | Mapping[str, LabelManager],
        auxiliary: Mapping[str, AuxiliaryTarget] | None = None,
        *,
        targets: Mapping[str, Target] | None = None,
        channel: int = 0,
        others: Mapping[str, TargetObjective] | None = None,
    ) -> None:
        every = {WHOLE: labels} if isinstance(labels, LabelManager) else dict(labels)
        (name, labels), *more = every.items()
        own = (targets or {}).get(name, Target())
        made = {key: DenseObjective(configuration, recipe, {key: other}, targets=targets, channel=index) for index, (key, other) in enumerate(more, start=1)}
        super().__init__(configuration, name=name, own=own, channel=channel, others=made if others is None else others, auxiliary=auxiliary)
        self.labels = labels
        self.ignore = len(labels.values) if labels.ignore is not None else None
        """Class index of voxels without annotation."""
        self.loss = self._recipes(recipe, configuration) if recipe.loss is not None and not self.own.losses else self._planned(configuration)
        self.register_buffer("encoding", _encoding(labels), persistent=False)
        self._plain = bool((self.encoding == torch.arange(len(self.encoding), device="cpu")).all())
        self._try(configuration.ndim)

    def score(self, outputs: Sequence[Tensor], batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss of given logits of this target, finest first, and the detached terms of the finest.

        A batch may have ``mask`` (B, T, *patch): voxels where it is false are left out, at every level.
        """
        mask = self._own(batch["mask"]) if "mask" in batch else None
        weights = self.level_weights(len(outputs))
        coarse = getattr(self.loss, "coarse", lambda: self.loss)()
        total, terms = outputs[0].new_zeros((), dtype=torch.float32), {}
        for level, (logits, weight) in enumerate(zip(outputs, weights, strict=True)):
            loss = self.loss if level == 0 else coarse
            if weight == 0 or loss is None:
                continue
            truth = self.target(self._own(batch["labels"]), logits.shape[2:])
            value = loss(logits, truth) if mask is None else self._masked(loss, logits, truth, mask)
            total = total + self.own.loss_weight * weight * value
            if level == 0:
                terms = {f"{name}_loss": term for name, term in getattr(loss, "last_terms", {}).items()}  # a term named dice is not the metric
        return total, terms

    def _masked(self, loss: nn.Module, logits: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
        if getattr(loss, "kind", None) != DenseLoss.kind:
            raise ConfigurationError(f"the loss {type(loss).__name__} is called as loss(logits, target) and knows no masks. Use one of nnReg's, or no masksTr.")
        valid: Tensor = loss(logits, truth, _nearest(mask, logits.shape[2:]))
        return valid

    def target(self, labels: Tensor, shape: Sequence[int]) -> Tensor:
        """What logits of a shape are held against: class indices (B, 1, *shape), or a map per region (and one of what is ignored)."""
        found = _nearest(labels[:, :1], shape)
        if not self.labels.has_regions:
            return found if self._plain else self.encoding[found.long()]
        regions = [*self.labels.regions, *([] if self.labels.ignore is None else [self.labels.ignore])]
        return torch.cat([_inside(found, region) for region in regions], dim=1)

    def counted(self, logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """:meth:`counts` of this target in a batch, where its mask, if there is one, is true."""
        return self.counts(logits, self._own(batch["labels"]), self._own(batch["mask"]) if "mask" in batch else None)

    def counts(self, logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
        """True and false positives, false and true negatives (classes, 4) over the batch: of every region, or every label but background."""
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
        valid = valid if mask is None else valid & mask
        pairs = (predicted & truth, predicted & ~truth, ~predicted & truth, ~predicted & ~truth)
        return torch.stack([(found & valid).sum(dim=axes) for found in pairs], dim=1)

    def _planned(self, configuration: DenseConfiguration) -> DenseLoss:
        """The target's own terms, or the planned ones."""
        where = f"{FILE_NAME}: targets.{self.name}.losses" if self.own.losses else "training.supervision"
        entries = self.own.losses or [LossEntry(self._fitting(term.name), term.weight, term.kwargs) for term in configuration.training.supervision]
        terms = [(entry.name, entry.weight, build_loss(entry.name, **self._arguments(LOSSES[entry.name], entry.kwargs, configuration))) for entry in entries]
        for name, _, loss in terms:
            self._check_kind(name, loss, where)
        kind = functools.partial(_Scheduled, starts=[entry.start_epoch for entry in entries]) if any(entry.start_epoch for entry in entries) else WeightedSum
        return kind(terms, ignore_label=self.ignore, regions=self.labels.has_regions)  # type: ignore[arg-type]  # their kind was checked

    def _fitting(self, name: str) -> str:
        """The planned cross entropy is of the dataset's labels; that of a target with labels of another kind is the other one."""
        kinds = ("cross_entropy", "binary_cross_entropy")
        return kinds[self.labels.has_regions] if name in kinds and self.own.says_what_labels_are else name

    def _recipes(self, recipe: TrainerConfig, configuration: DenseConfiguration) -> nn.Module:
        if isinstance(recipe.loss, nn.Module):
            loss = self._told(recipe.loss)
        elif isinstance(recipe.loss, str):
            loss = build_loss(recipe.loss, **self._arguments(LOSSES[recipe.loss], recipe.loss_kwargs, configuration))
        else:
            made: Callable[..., nn.Module] = recipe.loss  # type: ignore[assignment]  # neither a name nor a network, and asked only where there is one
            loss = made(**self._arguments(made, recipe.loss_kwargs, configuration))
        self._check_kind(recipe.loss if isinstance(recipe.loss, str) else type(loss).__name__, loss, "TrainerConfig.loss")
        return loss

    def _told(self, loss: nn.Module) -> nn.Module:
        """A loss that was made before the dataset was known; one of nnReg's is told, in a copy, what is not annotated."""
        if not isinstance(loss, DenseLoss):
            return loss
        name = type(loss).__name__
        if loss.regions != self.labels.has_regions:
            found, wanted = ("regions", "labels") if loss.regions else ("labels", "regions")
            raise ConfigurationError(
                f"TrainerConfig.loss: this {name} was made for {found}, the dataset has {wanted}. Make it with regions={not loss.regions}, or give the class."
            )
        if self.ignore is None or loss.regions:
            return loss
        if loss.ignore_label not in (None, self.ignore, self.labels.ignore):
            raise ConfigurationError(
                f"TrainerConfig.loss: this {name} leaves out the label {loss.ignore_label}, the dataset's ignore label is {self.labels.ignore}. "
                "Leave ignore_label out: the dataset says it."
            )
        loss = copy.deepcopy(loss)
        loss.ignore_label = self.ignore
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


def objective_of(
    configuration: DenseConfiguration,
    recipe: TrainerConfig,
    outputs: Mapping[str, Output],
    auxiliary: Mapping[str, AuxiliaryTarget] | None = None,
    *,
    targets: Mapping[str, Target],
    values: Mapping[str, Sequence[MapValues]],
) -> TargetObjective:
    """What every target of a dataset is trained on.

    Parameters
    ----------
    configuration, recipe, auxiliary, targets
        As :class:`DenseObjective` takes them.
    outputs
        What the network's outputs mean, by target.
    values
        Of the continuous targets.

    Raises
    ------
    ConfigurationError
        If a loss does not fit its target.
    """
    places = map_places(outputs)

    def made(name: str, channel: int, **more: Any) -> TargetObjective:
        output = outputs[name]
        if isinstance(output, Continuous):
            if len(values.get(name, ())) != output.channels:
                raise ConfigurationError(f"the plans do not say how the target {name!r} of {FILE_NAME} is normalised. Plan and preprocess the dataset again.")
            alone = len(places) == len(outputs)
            return ContinuousObjective(
                configuration, recipe, values[name], place=places[name], alone=alone, name=name, own=targets[name], channel=channel, **more
            )
        return DenseObjective(configuration, recipe, {name: output}, targets=targets, channel=channel, **more)

    first, *others = outputs
    return made(first, 0, others={name: made(name, index) for index, name in enumerate(others, start=1)}, auxiliary=auxiliary)


class _Scheduled(WeightedSum):
    """A sum whose terms may begin late."""

    def __init__(self, terms: Sequence[tuple[str, float, DenseLoss]], starts: Sequence[int], **options: Any) -> None:
        super().__init__(terms, **options)
        self._full = [(weight, start) for (_, weight, _), start in zip(terms, starts, strict=True) if weight != 0]
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Of the training, counted from 0: a term that has not begun is computed, for the log, but weighs nothing."""
        self.weights = [weight if epoch >= start else 0.0 for weight, start in self._full]

    def coarse(self) -> DenseLoss | None:
        """The terms that mean something on coarser levels, once one of them has begun."""
        begun = any(weight and not loss.full_resolution_only for weight, loss in zip(self.weights, self.losses, strict=True))
        return super().coarse() if begun else None


def _nearest(maps: Tensor, shape: Sequence[int]) -> Tensor:
    """Maps (B, C, *patch) at another resolution, of their type, by their nearest voxels."""
    return maps if maps.shape[2:] == shape else nnf.interpolate(maps.float(), tuple(shape), mode="nearest-exact").to(maps.dtype)


def _encoding(labels: LabelManager) -> Tensor:
    """Class index of every label value; ignore comes after the last class."""
    table = torch.zeros(max(labels.allowed) + 1, dtype=torch.long, device="cpu")
    for index, value in enumerate(labels.values if labels.ignore is None else (*labels.values, labels.ignore)):
        table[value] = index
    return table


def _inside(labels: Tensor, region: int | tuple[int, ...]) -> Tensor:
    return labels == region if isinstance(region, int) else torch.isin(labels, torch.tensor(region, device=labels.device, dtype=labels.dtype))
