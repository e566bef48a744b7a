"""Learning rate schedules by name."""

from typing import Any

from torch.optim import Optimizer

from nnreg.errors import ConfigurationError
from nnreg.registry import Registry
from nnreg.training.lr_scheduler.polynomial import PolynomialLRScheduler

LR_SCHEDULES: Registry[type[PolynomialLRScheduler]] = Registry("learning rate schedule")
LR_SCHEDULES["poly"] = PolynomialLRScheduler


def build_schedule(name: str, optimizer: Optimizer, initial_lr: float, max_epochs: int, kwargs: dict[str, Any]) -> PolynomialLRScheduler:
    """The schedule `name`.

    Raises
    ------
    ConfigurationError
        Unknown name or argument.
    """
    try:
        return LR_SCHEDULES[name](optimizer, initial_lr, max_epochs, **kwargs)
    except TypeError as error:
        raise ConfigurationError(f"lr_schedule_kwargs {kwargs}: {error}.") from error


__all__ = ["LR_SCHEDULES", "PolynomialLRScheduler", "build_schedule"]
