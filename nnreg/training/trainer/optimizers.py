"""Optimisers by name."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from nnreg.errors import ConfigurationError
from nnreg.planning.plans import Training
from nnreg.registry import Registry

OPTIMIZERS: Registry[type[torch.optim.Optimizer]] = Registry("optimizer")
OPTIMIZERS["adam"] = torch.optim.Adam
OPTIMIZERS["adamw"] = torch.optim.AdamW
OPTIMIZERS["sgd"] = torch.optim.SGD


def build_optimizer(plan: Training, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The planned optimiser; ``betas``, ``eps``, ``momentum``, ``nesterov`` ... stand in ``optimizer_kwargs``.

    Raises
    ------
    ConfigurationError
        Unknown name or argument, or a value it does not take.
    """
    try:
        return OPTIMIZERS[plan.optimizer](
            parameters,
            lr=plan.learning_rate,
            weight_decay=plan.weight_decay,
            **plan.optimizer_kwargs,  # type: ignore[call-arg]
        )
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"optimizer {plan.optimizer}: {error}") from error


def check_names(plan: Training) -> None:
    """Raise a ConfigurationError if the optimiser, the schedule or one of their arguments is unknown, before a network is built."""
    from nnreg.training.lr_scheduler import build_schedule

    optimizer = build_optimizer(plan, [nn.Parameter(torch.zeros(1))])
    build_schedule(plan.lr_schedule, optimizer, plan.learning_rate, plan.epochs, schedule_arguments(plan))


def schedule_arguments(plan: Training) -> dict[str, object]:
    """Arguments of the planned schedule, the warm-up among them."""
    return {"warmup_epochs": plan.warmup_epochs, **plan.lr_schedule_kwargs}
