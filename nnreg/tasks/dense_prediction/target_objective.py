"""What the losses of every kind of target share: their sum over targets, weights of the levels, and which of a batch's maps are a target's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nnreg.dataset.target_spec import WHOLE, Target
from nnreg.errors import ConfigurationError
from nnreg.losses import deep_supervision_weights
from nnreg.planning.dense_prediction.plans import DenseConfiguration
from nnreg.tasks.dense_prediction.auxiliary import AuxiliaryLosses, AuxiliaryTarget


class TargetObjective(nn.Module):
    """Weighted sum over resolutions of one target's losses, and of those of the targets after it.

    Parameters
    ----------
    configuration
        Its training plan names the weights of the levels.
    name, own, channel
        Of the target, what dataset.json says of it, and which of a batch's labels and masks are its.
    others
        Further targets by name; this one's outputs are the network's own, each other has a decoder of its own.
    auxiliary
        Targets by name that are derived from labels, each with a decoder of its own too.
    """

    splits_over_ranks = None

    def __init__(
        self,
        configuration: DenseConfiguration,
        *,
        name: str = WHOLE,
        own: Target | None = None,
        channel: int = 0,
        others: Mapping[str, TargetObjective] | None = None,
        auxiliary: Mapping[str, AuxiliaryTarget] | None = None,
    ) -> None:
        super().__init__()
        self.name, self.own, self.channel = name, own or Target(), channel
        self.others = nn.ModuleDict(others)
        self.planned_weights = tuple(configuration.training.deep_supervision_weights)
        self.auxiliary = AuxiliaryLosses(auxiliary, configuration.spacing) if auxiliary else None

    def forward(self, network: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss and detached terms of a batch with ``image`` (B, C, *patch), ``labels`` (B, T, *patch) and what is derived from them."""
        loss, terms, _ = self.scored(network, batch)
        return loss, terms

    @property
    def parts(self) -> dict[str, TargetObjective]:
        """What scores each target, this one first."""
        return {self.name: self, **self.others}  # type: ignore[dict-item]  # a ModuleDict of these

    def scored(self, network: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor], dict[str, list[Tensor]]]:
        """Loss and terms, and by target the outputs of every level, finest first."""
        if self.auxiliary is None and not self.others:
            outputs: list[Tensor] = network(batch["image"])
            return *self.score(outputs, batch), {self.name: outputs}
        outputs, further = network.with_auxiliary(batch["image"])  # type: ignore[operator]  # networks of several targets have it
        found = {self.name: outputs, **{name: further[name] for name in self.others}}
        terms: dict[str, Tensor] = {}
        total = outputs[0].new_zeros((), dtype=torch.float32)
        for name, part in self.parts.items():
            loss, own = part.score(found[name], batch)
            total = total + loss
            terms |= {f"{name}_{term}": value for term, value in own.items()} if self.others else own
        if self.auxiliary is not None:
            other, other_terms = self.auxiliary(further, batch, self.level_weights(len(outputs)), found)
            total, terms = total + other, {**terms, **other_terms}
        return total, terms, found

    def score(self, outputs: Sequence[Tensor], batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss of given outputs of this target, finest first, and the detached terms of the finest."""
        raise ConfigurationError(f"{type(self).__name__} does not define score(outputs, batch).")

    def counted(self, outputs: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """What the online metric of an epoch is made of, a row per class or channel, summed over a batch."""
        raise ConfigurationError(f"{type(self).__name__} does not define counted(outputs, batch).")

    def _own(self, maps: Tensor) -> Tensor:
        """Of maps (B, T, *patch) that of the target, (B, 1, *patch)."""
        return maps[:, self.channel : self.channel + 1]

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
