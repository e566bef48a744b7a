"""Learning rate schedules by name."""

from typing import Any

from torch.optim import Optimizer

from nnreg.errors import ConfigurationError
from nnreg.registry import Registry
from nnreg.training.lr_scheduler.decays import ConstantLR, CosineLR, PlateauLR, StepLR
from nnreg.training.lr_scheduler.polynomial import PolynomialLRScheduler
from nnreg.training.lr_scheduler.schedule import Schedule

LR_SCHEDULES: Registry[type[Schedule]] = Registry("learning rate schedule")
LR_SCHEDULES["poly"] = PolynomialLRScheduler
LR_SCHEDULES["step"] = StepLR
LR_SCHEDULES["cosine"] = CosineLR
LR_SCHEDULES["plateau"] = PlateauLR
LR_SCHEDULES["constant"] = ConstantLR


def build_schedule(name: str, optimizer: Optimizer, initial_lr: float, max_epochs: int, kwargs: dict[str, Any]) -> Schedule:
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


__all__ = ["LR_SCHEDULES", "ConstantLR", "CosineLR", "PlateauLR", "PolynomialLRScheduler", "Schedule", "StepLR", "build_schedule"]
