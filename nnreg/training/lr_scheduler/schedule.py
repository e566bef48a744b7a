"""What every learning rate schedule shares: the linear warm-up, setting the rate, and a state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from nnreg.errors import ConfigurationError


class Schedule(ABC):
    """A learning rate as a function of the epoch, of which a fraction is allowed, so that a rate may change with every step.

    Parameters
    ----------
    optimizer
    initial_lr
    max_epochs
    warmup_epochs
        Epochs over which the rate rises linearly to where the schedule then is; 0 for none.
    """

    def __init__(self, optimizer: Optimizer, initial_lr: float, max_epochs: int, warmup_epochs: int = 0) -> None:
        if max_epochs < 1 or warmup_epochs < 0:
            raise ConfigurationError(f"schedule of {max_epochs} epochs with {warmup_epochs} of warm-up: expected 1 or more, and 0 or more.")
        self.optimizer, self.initial_lr, self.max_epochs, self.warmup_epochs = optimizer, initial_lr, max_epochs, warmup_epochs

    @abstractmethod
    def decayed(self, epoch: float) -> float:
        """Learning rate of an epoch without warm-up."""

    def rate(self, epoch: float) -> float:
        """Learning rate of an epoch."""
        return self.decayed(epoch) * min(1.0, (epoch + 1) / (self.warmup_epochs + 1))

    def step(self, epoch: float) -> float:
        """Set the rate of `epoch` and return it."""
        rate = self.rate(epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def observe(self, loss: float) -> None:  # noqa: B027 - most schedules are functions of the epoch alone
        """Hear the validation loss of an epoch that is over; only a plateau listens."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs beside the epoch: plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - and have no state
        """The inverse of :meth:`state_dict`."""
