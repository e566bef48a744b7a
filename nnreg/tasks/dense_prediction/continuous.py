"""What a network for continuous values is trained on, at every resolution it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nnreg.dataset.spec import FILE_NAME
from nnreg.dataset.target_spec import LossEntry
from nnreg.errors import ConfigurationError
from nnreg.losses import LOSSES, build_loss
from nnreg.losses.targets import TargetLoss
from nnreg.planning.dense_prediction.fingerprint import MapValues
from nnreg.planning.dense_prediction.plans import DenseConfiguration
from nnreg.planning.dense_prediction.settings import CONTINUOUS_LOSS
from nnreg.tasks.dense_prediction.auxiliary import at_level
from nnreg.tasks.dense_prediction.target_objective import TargetObjective
from nnreg.training.configs.trainer_config import TrainerConfig


class ContinuousObjective(TargetObjective):
    """Losses of continuous values, in deviations of the training set; what is unknown or masked is left out. Coarser levels learn local means.

    Parameters
    ----------
    configuration
        Its training plan names terms and weights.
    recipe
        A TrainerConfig whose loss, if it is one of values, takes the place of the planned terms.
    values
        Of each channel in training.
    place
        Which of a batch's maps are the target's.
    alone
        Whether no target has labels: a recipe's loss must then be one of values.
    **more
        See :class:`TargetObjective`.

    Raises
    ------
    ConfigurationError
        If a loss is not one of values.
    """

    deviation: Tensor

    def __init__(
        self, configuration: DenseConfiguration, recipe: TrainerConfig, values: Sequence[MapValues], *, place: slice, alone: bool, **more: Any
    ) -> None:
        super().__init__(configuration, **more)
        self.place, self.epoch = place, 0
        self.entries = self.own.losses or self._recipes(recipe, alone) or self._planned(configuration) or (LossEntry(CONTINUOUS_LOSS),)
        where = f"{FILE_NAME}: targets.{self.name}.losses" if self.own.losses else "training.supervision"
        given = recipe.loss if isinstance(recipe.loss, nn.Module) else None
        self.losses = nn.ModuleList([given if given is not None and not entry.name else self._built(entry, where) for entry in self.entries])
        self.register_buffer("deviation", torch.tensor([channel.std for channel in values], device="cpu"), persistent=False)

    def set_epoch(self, epoch: int) -> None:
        """Of the training, counted from 0; losses may begin late."""
        self.epoch = epoch

    def score(self, outputs: Sequence[Tensor], batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """See :class:`TargetObjective`; a batch has ``maps`` (B, M, *patch), NaN where unknown, and may have ``mask`` (B, T, *patch)."""
        truth, known = self._truth(batch)
        total, terms = outputs[0].new_zeros((), dtype=torch.float32), {}
        for level, (prediction, weight) in enumerate(zip(outputs, self.level_weights(len(outputs)), strict=True)):
            if weight == 0:
                continue
            coarse, valid = at_level(truth, prediction.shape[2:], unit=False, known=known)
            for entry, loss in zip(self.entries, self.losses, strict=True):
                value = loss(prediction, coarse, valid)
                if self.epoch >= entry.start_epoch:
                    total = total + self.own.loss_weight * weight * entry.weight * value
                if level == 0:
                    terms[f"{entry.name or type(loss).__name__}_loss"] = value.detach()
        return total, terms

    def counted(self, outputs: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Sum of absolute errors in the units of the files, how many voxels that is of, and the deviation, (channels, 3)."""
        truth, known = self._truth(batch)
        error = torch.where(known, (outputs.float() - truth).abs(), 0.0).sum(dim=(0, *range(2, truth.ndim))) * self.deviation
        return torch.stack([error, known.sum().expand(len(error)).to(error), self.deviation], dim=1)

    def _truth(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Values (B, C, *patch), 0 where unknown, and where they are known (B, 1, *patch)."""
        truth = batch["maps"][:, self.place]
        known = truth.isfinite().all(dim=1, keepdim=True)
        if "mask" in batch:
            known = known & self._own(batch["mask"])
        return torch.where(known, truth, 0.0), known

    @staticmethod
    def _recipes(recipe: TrainerConfig, alone: bool) -> tuple[LossEntry, ...]:
        """The recipe's loss; one without a name stands for itself. None where it is of labels and another target has them."""
        if recipe.loss is None:
            return ()
        made = LOSSES[recipe.loss] if isinstance(recipe.loss, str) else recipe.loss
        if isinstance(recipe.loss, str) and getattr(made, "kind", None) == TargetLoss.kind:
            return (LossEntry(recipe.loss, kwargs=dict(recipe.loss_kwargs)),)
        if isinstance(made, TargetLoss):
            return (LossEntry(""),)
        if alone:
            raise ConfigurationError(f"TrainerConfig.loss: {_name(recipe.loss)!r} is no loss of continuous values, which are {', '.join(_fitting())}.")
        return ()

    @staticmethod
    def _planned(configuration: DenseConfiguration) -> tuple[LossEntry, ...]:
        terms = configuration.training.supervision
        return tuple(LossEntry(term.name, term.weight, term.kwargs) for term in terms if getattr(LOSSES[term.name], "kind", None) == TargetLoss.kind)

    @staticmethod
    def _built(entry: LossEntry, where: str) -> nn.Module:
        """A registered loss of values; what is unknown comes as a mask, so no value stands for it."""
        if getattr(LOSSES[entry.name], "kind", None) != TargetLoss.kind:
            raise ConfigurationError(f"{where}: the loss {entry.name!r} is not one of continuous values. Use {', '.join(_fitting())}.")
        return build_loss(entry.name, **{"ignore_index": None, **entry.kwargs})


def _fitting() -> list[str]:
    return sorted(name for name, made in LOSSES.items() if getattr(made, "kind", None) == TargetLoss.kind)


def _name(loss: Any) -> str:
    return loss if isinstance(loss, str) else type(loss).__name__
