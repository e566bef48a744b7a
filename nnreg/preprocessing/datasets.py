"""Everything before training, by dataset: each function finds out the task and calls the one of that task's pipeline."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnreg.errors import ConfigurationError, DatasetError, PreprocessingError, did_you_mean
from nnreg.files import read_json, writable_folder
from nnreg.lock import held
from nnreg.planning.plans import Plans
from nnreg.task import DEFAULT_PLANNER, DEFAULT_TASK_MEANS, TASKS, imported, usable_tasks
from nnreg.workspace import Workspace


def task_of(workspace: Workspace, dataset: int | str, asked: str | None = None) -> str:
    """The task asked for, else the one that ``dataset.json`` names, else the default.

    Raises
    ------
    ConfigurationError
        If there is no such task.
    """
    from nnreg.dataset.spec import FILE_NAME, DatasetSpec

    task = asked or DatasetSpec.read(workspace.raw_folder(dataset) / FILE_NAME).task
    if task not in TASKS:
        raise ConfigurationError(f"--task {task!r} is unknown; {did_you_mean(task, TASKS)}")
    return task


def assumed_task(workspace: Workspace, dataset: int | str, asked: str | None = None) -> str | None:
    """In a sentence, what is assumed of a dataset whose task was neither asked for nor told by its ``dataset.json``; None if it was."""
    from nnreg.dataset.spec import FILE_NAME, told_task

    path = workspace.raw_folder(dataset) / FILE_NAME
    content = read_json(path, DatasetError)
    if asked is not None or not isinstance(content, dict) or told_task(content) is not None:
        return None
    return f"{path}: names no task, {DEFAULT_TASK_MEANS}"


def fingerprint_dataset(workspace: Workspace, dataset: int | str, *, task: str | None = None, **options: Any) -> Any:
    """Measure a raw dataset for its task (or the one asked for); see ``fingerprint_dataset`` of the task's pipeline."""
    name = task_of(workspace, dataset, task)
    return imported(TASKS[name].pipeline).fingerprint_dataset(workspace, dataset, **_allowed(name, options))


def plan_dataset(workspace: Workspace, dataset: int | str, *, task: str | None = None, planner: str = DEFAULT_PLANNER, **options: Any) -> Plans:
    """Plan a measured dataset for its task (or the one asked for); see ``plan_dataset`` of the task's pipeline.

    Raises
    ------
    ConfigurationError
        If the task has no such planner.
    """
    name = task_of(workspace, dataset, task)
    plans: Plans = imported(TASKS[name].pipeline).plan_dataset(workspace, dataset, **_planner(name, planner), **_allowed(name, options))
    return plans


def plan_and_preprocess(workspace: Workspace, dataset: int | str, *, task: str | None = None, planner: str = DEFAULT_PLANNER, **options: Any) -> Plans:
    """Measure, plan and preprocess a dataset for its task (or the one asked for); see ``plan_and_preprocess`` of the task's pipeline.

    Examples
    --------
    >>> plans = plan_and_preprocess(Workspace.resolve("brains"), 1)  # doctest: +SKIP
    >>> plans.recommended  # doctest: +SKIP
    '3d_fullres'
    """
    name = task_of(workspace, dataset, task)
    arguments = {**_planner(name, planner), **_allowed(name, options)}
    with _alone(workspace, workspace.dataset_name(dataset)):
        plans: Plans = imported(TASKS[name].pipeline).plan_and_preprocess(workspace, dataset, **arguments)
    return plans


def preprocess_dataset(
    workspace: Workspace, dataset: int | str, *, plans_name: str = "nnRegPlans", configurations: Sequence[str] = (), **options: Any
) -> dict[str, Path]:
    """Preprocess a planned dataset for the task of its plans; see ``preprocess_dataset`` of the task's pipeline.

    Returns
    -------
    dict
        Configuration to the folder of its arrays.
    """
    from nnreg.preprocessing.plan_files import read_plans

    name = workspace.dataset_name(dataset)
    task = read_plans(writable_folder(workspace.preprocessed / name), plans_name, name).task
    pipeline = imported(TASKS[task].pipeline)
    with _alone(workspace, name):
        folders: dict[str, Path] = pipeline.preprocess_dataset(workspace, dataset, plans_name=plans_name, configurations=configurations, **options)
    return folders


def _alone(workspace: Workspace, name: str) -> contextlib.AbstractContextManager[None]:
    """Of two processes that preprocess one dataset, the second is told of the first."""
    return held(writable_folder(workspace.preprocessed / name), "planned or preprocessed", PreprocessingError)


def _allowed(task: str, options: dict[str, Any]) -> dict[str, Any]:
    for other, entry in usable_tasks():
        for name in entry.own_options.keys() & options.keys():
            if other != task and name not in TASKS[task].own_options:
                raise ConfigurationError(f"{entry.own_options[name]}: belongs to the task {other}, not to {task}. Leave it out.")
    return options


def _planner(task: str, name: str) -> Mapping[str, Any]:
    own: Mapping[str, Mapping[str, Any]] = imported(TASKS[task].planners)
    if name in own:
        return own[name]
    others = [other for other, entry in usable_tasks() if name in imported(entry.planners)]
    if others:
        raise ConfigurationError(f"-pl {name}: is a planner of the task {others[0]}, not of {task}. Add --task {others[0]}, or name another planner.")
    raise ConfigurationError(f"-pl {name!r} is unknown; {did_you_mean(name, own)}")
