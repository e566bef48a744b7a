"""Polynomial decay of the learning rate."""

from __future__ import annotations

from torch.optim import Optimizer

from nnreg.errors import ConfigurationError


class PolynomialLRScheduler:
    """``lr = initial_lr * (1 - epoch / max_epochs) ** exponent``, set once per epoch (nnU-Net's rule).

    Past the last epoch the rate stays at zero, where the formula would turn complex.

    Parameters
    ----------
    optimizer
    initial_lr
    max_epochs
    exponent
    warmup_epochs
        Epochs over which the rate rises linearly to where the polynomial then is; 0 for none.
    """

    def __init__(self, optimizer: Optimizer, initial_lr: float, max_epochs: int, exponent: float = 0.9, warmup_epochs: int = 0) -> None:
        if max_epochs < 1:
            raise ConfigurationError(f"poly schedule: max_epochs is {max_epochs}, expected 1 or more.")
        self.optimizer, self.initial_lr, self.max_epochs, self.exponent, self.warmup_epochs = optimizer, initial_lr, max_epochs, exponent, warmup_epochs

    def rate(self, epoch: float) -> float:
        """Learning rate of an epoch (a fraction is allowed)."""
        rate = self.initial_lr * max(0.0, 1 - epoch / self.max_epochs) ** self.exponent
        return rate * min(1.0, (epoch + 1) / (self.warmup_epochs + 1)) if self.warmup_epochs else rate

    def step(self, epoch: float) -> float:
        """Set the rate of `epoch` and return it."""
        rate = self.rate(epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate
