"""What a registration network is trained on: similarity of the warped image, smoothness of the field, labels where planned."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from nnreg.errors import ConfigurationError
from nnreg.geometry import resize, warp, warp_points
from nnreg.geometry.fields import constant
from nnreg.losses import LOSSES, SoftDice, deep_supervision_weights
from nnreg.planning.plans import LossTerm
from nnreg.planning.registration.plans import RegistrationConfiguration
from nnreg.planning.registration.rules.training import LABELS_PER_STEP
from nnreg.tasks.registration.joint import MAPS, JointLoss
from nnreg.training.configs.trainer_config import TrainerConfig


class WeightedLosses(nn.ModuleList):
    """Registered losses with their weights; equal names are told apart by a number."""

    def __init__(self, terms: Sequence[LossTerm]) -> None:
        super().__init__(_build(term.name, term.kwargs) for term in terms)
        names = [term.name for term in terms]
        self.names = [name if names.count(name) == 1 else f"{name}_{index}" for index, name in enumerate(names)]
        self.weights = [term.weight for term in terms]

    def items(self) -> list[tuple[str, float, nn.Module]]:
        """Name, weight and module of every term."""
        return list(zip(self.names, self.weights, self, strict=True))


def _build(name: str, kwargs: Mapping[str, Any]) -> nn.Module:
    try:
        return LOSSES[name](**kwargs)
    except TypeError as error:
        raise ConfigurationError(f"loss {name!r} with arguments {dict(kwargs)}: {error}.") from error


LABELS, KEYPOINTS, TRUE_FIELD, BOTH_WAYS = "labels", "keypoints", "true_field", "inverse_consistency"


def _check_kind(name: str, loss: Any, kinds: Sequence[str], where: str) -> None:
    """Refuse a registered loss that compares other things than `where` needs; one of the user's own, which says nothing, is taken as it is."""
    kind = getattr(loss, "kind", None)
    if kind is None or kind in kinds:
        return
    fitting = sorted(other for other, entry in LOSSES.items() if getattr(entry, "kind", None) in kinds)
    raise ConfigurationError(f"{where}: the loss {name!r} is one of {kind.replace('_', ' ')}, registration needs one of {', '.join(fitting)} here.")


class RegistrationObjective(nn.Module):
    """Weighted sum over levels and terms.

    Similarity compares the warped moving image with the fixed one at the resolution of each field the network returns; both are
    smoothed before they are shrunk. Regularisation sees each field in mm, so that one weight fits every level and any anisotropy.

    Parameters
    ----------
    configuration
        Its training plan names the terms and weights.
    recipe
        A TrainerConfig whose loss takes the place of the planned similarity.
    labels
        Of the dataset: for a segmentation head, and because of more than eight labels the overlap is that of all, not of drawn ones.
    """

    splits_over_ranks = None

    def __init__(self, configuration: RegistrationConfiguration, recipe: TrainerConfig, labels: Sequence[int] = ()) -> None:
        super().__init__()
        plan = configuration.training
        self.joint, self.joint_weight = (JointLoss(labels, plan.epochs) if plan.segmentation_weight else None), plan.segmentation_weight
        self.similarity = WeightedLosses(plan.similarity) if recipe.loss is None else _replaced_similarity(recipe)
        self.regularisation = WeightedLosses(plan.regularisation)
        self.supervision = WeightedLosses(plan.supervision)
        for where, losses, kinds in (
            ("training.similarity" if recipe.loss is None else "TrainerConfig.loss", self.similarity, ["similarity"]),
            ("training.regularisation", self.regularisation, ["regularisation"]),
            ("training.supervision", self.supervision, [LABELS, "similarity", KEYPOINTS, TRUE_FIELD, BOTH_WAYS]),
        ):
            for name, _, module in losses.items():
                _check_kind(name, module, kinds, where)
        if not plan.bidirectional and any(_kind(module) == BOTH_WAYS for module in self.supervision):
            raise ConfigurationError("training.supervision: inverse_consistency needs the field of both directions. Set training.bidirectional to true.")
        self.planned_weights = tuple(plan.deep_supervision_weights)
        self.spacing = tuple(configuration.spacing)
        self.bidirectional = plan.bidirectional
        self.many_labels = len(labels) > LABELS_PER_STEP  # not all are among those that are drawn

    def forward(self, network: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss and detached terms of a batch with ``fixed, moving, fixed_input, moving_input`` (B, C, *grid)."""
        fields, total, terms = self.first_way(network, batch)
        if not self.bidirectional:
            return total, terms
        swapped = {_SWAPPED.get(name, name): value for name, value in batch.items()}
        back = network(fixed=swapped["fixed_input"], moving=swapped["moving_input"])
        other, other_terms = self.score(back, swapped)
        total = 0.5 * (total + other)
        terms = {name: 0.5 * (value + other_terms.get(name, value)) for name, value in terms.items()}
        for name, factor, module in self.supervision.items():
            if _kind(module) == BOTH_WAYS:
                pairs = ((fields[0], back[0], batch), (back[0], fields[0], swapped))
                values = [module(one, backward=two, spacing=self.spacing, mask=side.get("fixed_mask")) for one, two, side in pairs]
                total, terms[name] = total + factor * 0.5 * (values[0] + values[1]), 0.5 * (values[0] + values[1]).detach()
        return total, terms

    def first_way(self, network: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Sequence[Tensor], Tensor, dict[str, Tensor]]:
        """Fields, total loss and terms of the pair as it is, with what a segmentation head adds."""
        images = {"fixed": batch["fixed_input"], "moving": batch["moving_input"]}
        labelled = all(name in batch for name in MAPS)  # a validation pair need not be
        if self.joint is None or not (labelled or torch.is_grad_enabled()):
            fields = network(**images)
            return fields, *self.score(fields, batch)
        if not labelled:
            raise ConfigurationError("training.segmentation_weight asks for a segmentation head, but no case has labels. Add labelsTr, or set it to 0.")
        fields, logits = network.with_segmentation(**images)  # type: ignore[operator]
        total, terms = self.score(fields, batch)
        more, found = self.joint(fields[0], logits, batch)
        return fields, total + self.joint_weight * more, terms | found

    def score(self, fields: Sequence[Tensor], batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss and detached terms of given fields, finest first."""
        weights = self._level_weights(len(fields))
        totals: dict[str, list[Tensor]] = {}
        shapes = [tuple(field.shape[2:]) for field in fields]
        images = {name: _pyramid(batch[name], shapes) for name in ("fixed", "moving")}
        masks = [None] * len(fields) if "fixed_mask" not in batch else [_resized_mask(batch["fixed_mask"], shape) for shape in shapes]
        loss = fields[0].new_zeros(())
        for level, (field, weight) in enumerate(zip(fields, weights, strict=True)):
            if weight == 0:
                continue
            warped = warp(images["moving"][level], field)
            spacing = [s * (full - 1) / max(size - 1, 1) for s, full, size in zip(self.spacing, shapes[0], shapes[level], strict=True)]
            for name, factor, module in self.similarity.items():
                value = module(warped=warped, fixed=images["fixed"][level], mask=masks[level])
                totals.setdefault(name, []).append(weight * value.detach())
                loss = loss + weight * factor * value
            for name, factor, module in self.regularisation.items():
                value = module(field, spacing=spacing)
                totals.setdefault(name, []).append(weight * value.detach())
                loss = loss + weight * factor * value
        for name, factor, module in self.supervision.items():
            if _kind(module) == BOTH_WAYS or not self._at_hand(module, batch):
                continue
            value, taught = self._supervised(module, fields[0], batch)
            totals.setdefault(name, []).append(value.detach() / taught)
            loss = loss + factor * value
        return loss, {name: torch.stack(values).sum() for name, values in totals.items()}

    def _level_weights(self, levels: int) -> Sequence[float]:
        if levels == 1:
            return (1.0,)
        # none planned: a recipe brought its own network, with its own number of levels
        weights = self.planned_weights or deep_supervision_weights(levels)
        if len(weights) != levels:
            raise ConfigurationError(f"deep_supervision_weights: the plan has {len(weights)} values, the network returns {levels} fields. Give one per field.")
        return weights

    @staticmethod
    def _at_hand(module: nn.Module, batch: Mapping[str, Tensor]) -> bool:
        """Whether the batch has what the term needs. A validation leaves out what it has not; a training must not."""
        keys, what, remedy = _NEEDS[_kind(module)]
        present = all(key in batch for key in keys)
        # the true field of one direction alone may be known
        if torch.is_grad_enabled() and not present and not (keys == ("field",) and "inverse_field" in batch):
            raise ConfigurationError(f"training.supervision names a {what} loss, but the samples have no {what}s. Remove the term or {remedy}.")
        return present

    def _supervised(self, module: nn.Module, field: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | float]:
        """The value of a term on the finest field, 0 where no sample has what it compares; and its divisor in the log, where that counts as unknown."""
        value: Tensor
        if _kind(module) == KEYPOINTS:
            spacing = constant(self.spacing, field.device)
            points = batch["fixed_keypoints"]
            # points that are not there are NaN, which no field may be sampled at
            mapped = warp_points(points.nan_to_num(), field) + 0.0 * points
            value = module(mapped * spacing, batch["moving_keypoints"] * spacing)
            there = (points + batch["moving_keypoints"]).isfinite().all(dim=-1)
            return value, there.any().to(value.dtype)
        if _kind(module) == TRUE_FIELD:
            known = known_voxels(batch["field"])
            inside = known if "fixed_mask" not in batch else known & batch["fixed_mask"].bool()
            value = module(field, batch["field"], spacing=self.spacing, mask=inside)
            return value, 1.0
        if self.many_labels and isinstance(module, SoftDice) and not module.batch_dice:
            each, known = module.of_label_maps(field=field, fixed=batch["fixed_labels"], moving=batch["moving_labels"])
            return each.mean(), known.float().mean()
        return self._overlap(module, field, batch)

    @staticmethod
    def _overlap(module: nn.Module, field: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | float]:
        """Overlap of the labels drawn for this sample, as one-hot maps warped linearly; of samples whose images have a label in common."""
        values = batch["label_subset"].reshape(field.shape[0], -1, *(1,) * (field.ndim - 2))
        fixed = (batch["fixed_labels"] == values).float()
        warped = warp((batch["moving_labels"] == values).float(), field, padding="zeros")
        known = batch.get("labels_known")
        if known is None or getattr(module, "batch_dice", False):
            return module(warped=warped, fixed=fixed), 1.0
        # sample by sample: labels that are nowhere would count as a perfect overlap
        each = torch.stack([module(warped=one[None], fixed=other[None]) for one, other in zip(warped, fixed, strict=True)])
        return torch.where(known, each, 0.0).mean(), known.float().mean()


def known_voxels(field: Tensor) -> Tensor:
    """Where a true field (B, ndim, *grid) is known, (B, 1, *grid): it is NaN elsewhere."""
    return field.isfinite().all(dim=1, keepdim=True)


def _kind(module: nn.Module) -> str:
    kind = getattr(module, "kind", LABELS)
    return kind if kind in _NEEDS or kind == BOTH_WAYS else LABELS


# what a term of supervision needs of a batch, what that is called, and where it comes from
_NEEDS = {
    LABELS: (("label_subset",), "label", "add labelsTr"),
    KEYPOINTS: (("fixed_keypoints", "moving_keypoints"), "keypoint", "add keypointsTr"),
    TRUE_FIELD: (("field",), "true field", "add fieldsTr, or train on a generator of deformed pairs"),
}
_SWAPPED = {
    f"{one}{part}": f"{other}{part}" for one, other in (("fixed", "moving"), ("moving", "fixed")) for part in ("", "_input", "_labels", "_mask", "_keypoints")
} | {"field": "inverse_field", "inverse_field": "field"}


def _replaced_similarity(recipe: TrainerConfig) -> WeightedLosses:
    loss = recipe.loss
    if isinstance(loss, str):
        return WeightedLosses([LossTerm(loss, 1.0, dict(recipe.loss_kwargs))])
    module = loss if isinstance(loss, nn.Module) else loss(**recipe.loss_kwargs)  # type: ignore[misc]
    if not isinstance(module, nn.Module):
        raise ConfigurationError(f"TrainerConfig.loss gave a {type(module).__name__}, expected a torch module called as loss(warped=, fixed=, mask=).")
    replaced = WeightedLosses([])
    replaced.append(module)
    replaced.names, replaced.weights = [type(module).__name__], [1.0]
    return replaced


def _pyramid(image: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """The image at each (ever coarser) shape. A 3-voxel mean before each shrinking keeps it from aliasing."""
    pool = nnf.avg_pool2d if image.ndim == 4 else nnf.avg_pool3d
    levels = [image.float()]
    for before, shape in itertools.pairwise(shapes):
        if shape == before:
            levels.append(levels[-1])
            continue
        kernel = [3 if new < old else 1 for new, old in zip(shape, before, strict=True)]
        smooth = pool(levels[-1], kernel, stride=1, padding=[size // 2 for size in kernel], count_include_pad=False)
        levels.append(resize(smooth, shape))
    return levels


def _resized_mask(mask: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A mask at another size; a voxel counts if more than half of what it covers does."""
    return mask if tuple(mask.shape[2:]) == shape else (resize(mask.float(), shape) > 0.5).to(mask.dtype)
