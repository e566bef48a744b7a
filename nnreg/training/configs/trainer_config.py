"""A training recipe by name: what ``-tr NAME`` changes against the plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nnreg.registry import Registry

if TYPE_CHECKING:
    from torch import nn

    Architecture = str | type[nn.Module] | Callable[..., nn.Module]
    Loss = str | type[nn.Module] | nn.Module | Callable[..., nn.Module]


@dataclass(frozen=True)
class TrainerConfig:
    """What to train and how, where it differs from the plan. Everything left out comes from the plan.

    Attributes
    ----------
    architecture
        Name in ``nnreg.architecture.NETWORKS``, or a class or function called as the registered networks are.
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


TRAINER_CONFIGS: Registry[TrainerConfig] = Registry("trainer config")
TRAINER_CONFIGS["unetreg"] = TrainerConfig(architecture="unetreg", description="residual U-Net on the concatenated pair, displacement output")
TRAINER_CONFIGS["unetreg_velocity"] = TrainerConfig(
    architecture="unetreg", architecture_kwargs={"integration_steps": 7}, description="unetreg with a stationary velocity field, integrated in 7 steps"
)
TRAINER_CONFIGS["inverse_consistent"] = TrainerConfig(
    architecture="dual_pyramid",
    architecture_kwargs={"inverse_consistent": True},
    description="the default network, symmetric: swapping the images inverts the map",
)
TRAINER_CONFIGS["adam"] = TrainerConfig(training={"optimizer": "adam"}, description="Adam, the plan's learning rate")
TRAINER_CONFIGS["sgd"] = TrainerConfig(
    training={"optimizer": "sgd", "learning_rate": 1e-2, "optimizer_kwargs": {"momentum": 0.99, "nesterov": True}},
    description="SGD with Nesterov momentum 0.99, learning rate 0.01",
)
