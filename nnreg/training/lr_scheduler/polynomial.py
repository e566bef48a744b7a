"""Polynomial decay of the learning rate."""

from __future__ import annotations

from torch.optim import Optimizer

from nnreg.training.lr_scheduler.schedule import Schedule


class PolynomialLRScheduler(Schedule):
    """``lr = initial_lr * (1 - epoch / max_epochs) ** exponent`` (nnU-Net's rule).

    Past the last epoch the rate stays at zero, where the formula would turn complex.

    Parameters
    ----------
    optimizer, initial_lr, max_epochs, warmup_epochs
        See :class:`Schedule`.
    exponent
    """

    def __init__(self, optimizer: Optimizer, initial_lr: float, max_epochs: int, exponent: float = 0.9, warmup_epochs: int = 0) -> None:
        super().__init__(optimizer, initial_lr, max_epochs, warmup_epochs)
        self.exponent = exponent

    def decayed(self, epoch: float) -> float:
        """See :class:`Schedule`."""
        return self.initial_lr * max(0.0, 1 - epoch / self.max_epochs) ** self.exponent
