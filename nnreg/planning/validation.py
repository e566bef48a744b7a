"""Plans may be edited by hand: what contradicts itself is refused by key, before hours of work are spent on it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from nnreg.errors import PlansError, did_you_mean
from nnreg.planning.registration.engine_settings import OPTIMISE
from nnreg.planning.training_options import training_problems
from nnreg.task import DEFAULT_TASK, TASKS, imported

if TYPE_CHECKING:
    from nnreg.planning.plans import Architecture, Configuration, Plans, Training

P = TypeVar("P", bound="Plans")
FOLDER_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")  # becomes a folder: must not lead out of the dataset's


def plans_class(content: Any, where: str, wanted: type[P]) -> type[P]:
    """The class of plans that the `task` of parsed JSON asks for.

    Raises
    ------
    PlansError
        If the task is unknown, or its plans are not of the class `wanted`.
    """
    task = str(content.get("task", DEFAULT_TASK)) if isinstance(content, dict) else DEFAULT_TASK
    if task not in TASKS:
        raise PlansError(f"{where}: task {task!r} is unknown; {did_you_mean(task, TASKS)}")
    found: type[P] = imported(TASKS[task].plans)
    if not issubclass(found, wanted):
        raise PlansError(f"{where}: plans of the task {task}, which cannot be used here. Plan the dataset for the task you mean (--task).")
    return found


def check_plans(plans: Plans, where: str) -> None:
    """Raise a PlansError for the first value that cannot be worked with.

    Parameters
    ----------
    plans
        Types are right already.
    where
        File, for the message.
    """
    problem = next(_problems(plans), None)
    if problem is not None:
        raise PlansError(f"{where}: {problem} Mend the plans file or plan the dataset again.")


def _problems(plans: Plans) -> Iterator[str]:
    if not plans.configurations:
        yield "configurations is empty."
    known = [*plans.configurations, *([OPTIMISE] if plans.registers_pairs else [])]
    if plans.recommended not in known:
        yield f"recommended {plans.recommended!r} is no configuration; {did_you_mean(plans.recommended, known)}."
    if not FOLDER_NAME.match(plans.plans_name):
        yield f"plans_name {plans.plans_name!r} cannot be part of a folder's name."
    for name, configuration in plans.configurations.items():
        for problem in _configuration_problems(configuration, plans):
            yield f"configurations.{name}.{problem}"
    yield from imported(TASKS[plans.task].plan_checks)(plans)


def _configuration_problems(configuration: Configuration, plans: Plans) -> Iterator[str]:
    ndim = len(configuration.grid)
    if not FOLDER_NAME.match(configuration.data_identifier):
        yield f"data_identifier {configuration.data_identifier!r} cannot be a folder's name."
    if ndim not in (2, 3) or min(configuration.grid) < 1:
        yield f"grid {list(configuration.grid)}: expected 2 or 3 positive numbers."
    if len(configuration.spacing) != ndim or min(configuration.spacing) <= 0:
        yield f"spacing {list(configuration.spacing)}: expected {ndim} positive numbers, as grid has."
    if len(configuration.normalization) != len(plans.channel_names):
        yield f"normalization has {len(configuration.normalization)} schemes for {len(plans.channel_names)} channels."
    yield from _architecture_problems(configuration.architecture, ndim)
    yield from _training_problems(configuration.training)


def _architecture_problems(architecture: Architecture, ndim: int) -> Iterator[str]:
    stages = len(architecture.strides)
    per_stage: tuple[tuple[str, Sequence[object]], ...] = (
        ("kernel_sizes", architecture.kernel_sizes),
        ("features_per_stage", architecture.features_per_stage),
        ("blocks_per_stage", architecture.blocks_per_stage),
    )
    for key, values in per_stage:
        if len(values) != stages:
            yield f"architecture.{key} has {len(values)} entries, strides has {stages}: one per stage is needed."
    for key, tuples in (("strides", architecture.strides), ("kernel_sizes", architecture.kernel_sizes)):
        for stage, values in enumerate(tuples):
            if len(values) != ndim or min(values) < 1:
                yield f"architecture.{key}[{stage}] is {list(values)}: expected {ndim} positive numbers."
    if stages and any(step != 1 for step in architecture.strides[0]):
        yield f"architecture.strides[0] is {list(architecture.strides[0])}: the first stage keeps the resolution, all 1."
    if any(count < 1 for count in architecture.features_per_stage):
        yield f"architecture.features_per_stage {list(architecture.features_per_stage)}: expected positive numbers."


def _training_problems(training: Training) -> Iterator[str]:
    for problem in training_problems(training):
        yield f"training.{problem}"
