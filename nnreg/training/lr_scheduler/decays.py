"""Constant, step, cosine and plateau schedules."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from nnreg.errors import ConfigurationError
from nnreg.training.lr_scheduler.schedule import Schedule


class ConstantLR(Schedule):
    """The initial rate throughout."""

    def decayed(self, epoch: float) -> float:
        """See :class:`Schedule`."""
        return self.initial_lr


class StepLR(Schedule):
    """``lr = initial_lr * gamma ** floor(epoch / step_size)``."""

    def __init__(self, optimizer: Optimizer, initial_lr: float, max_epochs: int, step_size: int = 50, gamma: float = 0.1, warmup_epochs: int = 0) -> None:
        super().__init__(optimizer, initial_lr, max_epochs, warmup_epochs)
        if step_size < 1 or gamma <= 0:
            raise ConfigurationError(f"step schedule: step_size is {step_size} and gamma {gamma}, expected 1 or more and a positive number.")
        self.step_size, self.gamma = step_size, gamma

    def decayed(self, epoch: float) -> float:
        """See :class:`Schedule`."""
        return self.initial_lr * self.gamma ** int(epoch // self.step_size)


class CosineLR(Schedule):
    """Half a cosine from `initial_lr` down to `eta_min` over `T_max` epochs, where it stays.

    Parameters
    ----------
    optimizer, initial_lr, max_epochs, warmup_epochs
        See :class:`Schedule`.
    T_max : None takes max_epochs
    eta_min
    """

    def __init__(
        self, optimizer: Optimizer, initial_lr: float, max_epochs: int, T_max: int | None = None, eta_min: float = 0.0, warmup_epochs: int = 0
    ) -> None:
        super().__init__(optimizer, initial_lr, max_epochs, warmup_epochs)
        self.length, self.eta_min = T_max, eta_min
        if (T_max is not None and T_max < 1) or eta_min < 0:
            raise ConfigurationError(f"cosine schedule: T_max is {T_max} and eta_min {eta_min}, expected 1 or more and 0 or more.")

    def decayed(self, epoch: float) -> float:
        """See :class:`Schedule`."""
        # torch's own goes up again past T_max; a training that lasts longer than its schedule is not meant to start over
        done = min(1.0, epoch / (self.max_epochs if self.length is None else self.length))
        return self.eta_min + (self.initial_lr - self.eta_min) * (1 + math.cos(math.pi * done)) / 2


class PlateauLR(Schedule):
    """Times `factor` whenever the validation loss has not fallen for more than `patience` validations (torch's rule).

    Parameters
    ----------
    optimizer, initial_lr, max_epochs, warmup_epochs
        See :class:`Schedule`.
    patience, factor, min_lr, threshold
        As in ``torch.optim.lr_scheduler.ReduceLROnPlateau``.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        initial_lr: float,
        max_epochs: int,
        patience: int = 10,
        factor: float = 0.5,
        min_lr: float = 0.0,
        threshold: float = 1e-4,
        warmup_epochs: int = 0,
    ) -> None:
        super().__init__(optimizer, initial_lr, max_epochs, warmup_epochs)
        # torch's writes into an optimizer of its own, so that the warm-up multiplies what it decides
        self._decided = torch.optim.SGD([torch.zeros(1)], lr=initial_lr)
        try:
            self._rule = ReduceLROnPlateau(self._decided, factor=factor, patience=patience, threshold=threshold, min_lr=min_lr)
        except ValueError as error:
            raise ConfigurationError(f"plateau schedule: {error}") from error

    def decayed(self, epoch: float) -> float:
        """See :class:`Schedule`."""
        return float(self._decided.param_groups[0]["lr"])

    def observe(self, loss: float) -> None:
        """See :class:`Schedule`; an epoch without a validation loss is passed over."""
        if math.isfinite(loss):
            self._rule.step(loss)

    def state_dict(self) -> dict[str, Any]:
        """See :class:`Schedule`."""
        return {"rate": self.decayed(0), "best": float(self._rule.best), "bad_epochs": int(self._rule.num_bad_epochs)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :class:`Schedule`."""
        self._decided.param_groups[0]["lr"] = state["rate"]
        self._rule.best, self._rule.num_bad_epochs = state["best"], state["bad_epochs"]
