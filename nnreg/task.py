"""The protocol behind which everything that differs between tasks lives, and the lazy registry that finds a task by its name."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol

from nnreg.errors import ConfigurationError, did_you_mean

if TYPE_CHECKING:
    pass

# name -> "module:class"; imported when asked for, so that this module stays on the lowest floor
TASKS = {"registration": "nnreg.tasks.registration:RegistrationTask"}


class Task(Protocol):
    """What planner, trainer, predictor and evaluator are handed. None of them asks which task it is."""

    name: str


def task_named(name: str) -> Any:
    """An instance of the task `name`.

    Raises
    ------
    ConfigurationError
        If no such task is known.
    """
    if name not in TASKS:
        raise ConfigurationError(f"task {name!r} is unknown; {did_you_mean(name, TASKS)}")
    module, _, attribute = TASKS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)()
