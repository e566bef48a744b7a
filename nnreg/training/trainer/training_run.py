"""What the trainer's parts may ask of it: they stand below the trainer and do not import it."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from nnreg.planning.plans import Configuration, Plans
from nnreg.training.distributed import Ranks
from nnreg.training.logging import History


class TrainingRun(Protocol):
    """A training that was initialised: :class:`nnreg.training.trainer.trainer.nnRegTrainer` as its parts see it."""

    name: str
    source: str | None
    notes: list[str]
    plans: Plans
    configuration: Configuration
    configuration_name: str
    fold: int | str
    overrides: dict[str, Any]
    device: torch.device
    sample_counts: dict[str, int]
    ranks: Ranks
    num_epochs: int
    current_epoch: int
    history: History
    network: nn.Module
    optimizer: torch.optim.Optimizer
    lr_scheduler: Any
    scaler: torch.amp.GradScaler
    average: AveragedModel | None

    def initialize(self) -> None:
        """Build network, optimizer and objective."""
        ...

    @property
    def has_custom_network(self) -> bool:
        """Whether the network is made by code that plans and checkpoints cannot name."""
        ...
