"""The protocol behind which everything that differs between tasks lives, and the lazy registry that finds a task by its name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from nnreg.errors import ConfigurationError, did_you_mean

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn
    from torch.utils.data import Dataset

    Batch = Mapping[str, Tensor]

# name -> "module:class"; imported when asked for, so that this module stays on the lowest floor
TASKS = {
    "registration": "nnreg.tasks.registration.task:RegistrationTask",
    "dense_prediction": "nnreg.tasks.dense_prediction.task:DensePredictionTask",
}


class Objective(Protocol):
    """What a training step minimises."""

    def __call__(self, network: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss (with gradient) and its named, detached terms."""
        ...


class Task(Protocol):
    """What the trainer is handed. It never asks which task it is; plans, dataset.json (`spec`), configuration and recipe are passed in by keyword."""

    name: str
    monitor: str
    """Online metric that decides ``checkpoint_best``; larger is better."""

    def network(self, *, plans: Any, spec: Any, configuration: Any, recipe: Any) -> nn.Module:
        """The network of a configuration."""
        ...

    def memory_gb(self, *, build: Callable[[], nn.Module], plans: Any, spec: Any, configuration: Any) -> float | None:
        """Predicted peak of a training step with the network that `build` makes, nothing allocated; GB (2^30 bytes), None if it cannot be known."""
        ...

    def objective(self, *, plans: Any, spec: Any, configuration: Any, recipe: Any) -> Objective:
        """The training loss."""
        ...

    def units(self, *, spec: Any, cases: Sequence[str]) -> list[Any]:
        """What one sample is made of (pairs, or cases), for the cases of one side of a split."""
        ...

    def sample_count(self, *, training: Any, split: str, units: Sequence[Any]) -> int:
        """Number of different samples that the units of one side of a split give."""
        ...

    def validation_batches(self, *, training: Any, units: int) -> tuple[int, int]:
        """Size and number of the batches of an online validation."""
        ...

    def samples(
        self, *, folder: Path, model: Path, spec: Any, units: Sequence[Any], configuration: Any, length: int, split: str, augment: bool
    ) -> Dataset[dict[str, Tensor]]:
        """`length` samples from the arrays in `folder`, each a function of (seed, split, index) alone; `model` is the folder of what is trained."""
        ...

    def online_metrics(self, *, network: nn.Module, objective: Objective, batch: Batch) -> dict[str, Tensor]:
        """Metrics of one validation batch, without gradient; NaN where one does not apply."""
        ...

    def epoch_metrics(self, *, steps: Sequence[Batch]) -> Sequence[Batch]:
        """What is averaged over an epoch, from the online metrics of its validation batches."""
        ...

    def pictures(self, *, network: nn.Module, objective: Objective, batch: Batch) -> dict[str, Tensor]:
        """Images (*spatial) of the first sample of a validation batch, by name and all of one shape: what the network is given and makes of it."""
        ...

    def validate(
        self, *, predictor: Any, spec: Any, raw: Path, arrays: Path, cases: Sequence[str], output: Path, on_progress: Callable[[int, int, str], None]
    ) -> dict[str, Any]:
        """Predict and evaluate the validation cases on their native grids; returns the summary."""
        ...


def task_named(name: str) -> Task:
    """An instance of the task `name`.

    Raises
    ------
    ConfigurationError
        If no such task is known.
    """
    if name not in TASKS:
        raise ConfigurationError(f"task {name!r} is unknown; {did_you_mean(name, TASKS)}")
    module, _, attribute = TASKS[name].partition(":")
    task: Task = getattr(importlib.import_module(module), attribute)()
    return task
