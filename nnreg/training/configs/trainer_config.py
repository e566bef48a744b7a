"""A training recipe by name: what ``-tr NAME`` changes against the plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nnreg.errors import ConfigurationError
from nnreg.registry import Registry

if TYPE_CHECKING:
    from torch import nn

    Architecture = str | type[nn.Module] | nn.Module | Callable[..., nn.Module]
    Loss = str | type[nn.Module] | nn.Module | Callable[..., nn.Module]


@dataclass(frozen=True)
class TrainerConfig:
    """What to train and how, where it differs from the plan. Everything left out comes from the plan.

    Attributes
    ----------
    architecture
        Name in ``nnreg.architecture.NETWORKS``, a class or function called as the registered networks are, or a network, of which every
        training takes a copy.
    architecture_kwargs
        Its own arguments; they are merged over the plan's.
    loss
        Name in ``nnreg.losses.LOSSES``, a class, an instance, or a function that returns one: takes the place of the similarity.
    loss_kwargs
        Arguments of a name, class or function.
    training
        Values for fields of :class:`nnreg.planning.plans.Training`, such as ``{"optimizer": "sgd", "epochs": 50}``.
    description
        One line for listings.
    """

    architecture: Architecture | None = None
    architecture_kwargs: Mapping[str, Any] = field(default_factory=dict)
    loss: Loss | None = None
    loss_kwargs: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    description: str = ""

    def merged(self, other: TrainerConfig) -> TrainerConfig:
        """The recipe with `other` over it: of two values for one key the other's stands.

        Raises
        ------
        ConfigurationError
            If both name a network or both a loss, and not the same: there is no telling which is meant.
        """
        for article, what in (("an", "architecture"), ("a", "loss")):
            mine, its = getattr(self, what), getattr(other, what)
            if mine is not None and its is not None and mine is not its and mine != its:
                raise ConfigurationError(f"two recipes name {article} {what}: {_name(mine)} and {_name(its)}. Keep one of them.")
        return TrainerConfig(
            architecture=self.architecture if other.architecture is None else other.architecture,
            architecture_kwargs={**self.architecture_kwargs, **other.architecture_kwargs},
            loss=self.loss if other.loss is None else other.loss,
            loss_kwargs={**self.loss_kwargs, **other.loss_kwargs},
            training=merged_settings(self.training, other.training),
            description="; ".join(part for part in (self.description, other.description) if part),
        )


ARGUMENTS_OF = {"optimizer": "optimizer_kwargs", "lr_schedule": "lr_schedule_kwargs"}


def merged_settings(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Two sets of values, the second over the first. One that names another optimiser or schedule drops the arguments of the former."""
    kept = dict(first)
    for name, arguments in ARGUMENTS_OF.items():
        if name in second and second[name] != first.get(name):
            kept = {key: value for key, value in kept.items() if key != arguments and not key.startswith(f"{arguments}.")}
    return {**kept, **second}


def _name(part: Any) -> str:
    return part if isinstance(part, str) else getattr(part, "__name__", type(part).__name__)


TRAINER_CONFIGS: Registry[TrainerConfig] = Registry("trainer config", replaceable=True)
"""Recipes by name. A recipe of the user's own may take the name of one of ours; the training's log then says so."""
