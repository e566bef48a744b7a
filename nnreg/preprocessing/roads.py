"""Which functions prepare a dataset for which task: everything before training goes through here, and nothing asks for the task again."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnreg.errors import ConfigurationError, DatasetError, did_you_mean
from nnreg.files import read_json, writable_folder
from nnreg.planning.dense_prediction.presets import PRESETS
from nnreg.planning.plans import Plans
from nnreg.workspace import Workspace

DEFAULT_PLANNER = "default"


@dataclass(frozen=True)
class Road:
    """How datasets of one task are prepared.

    Attributes
    ----------
    module
        Holds ``fingerprint_dataset``, ``plan_dataset``, ``preprocess_dataset`` and ``plan_and_preprocess``; imported when asked for.
    planners
        What -pl may name, to the arguments that ``plan_dataset`` takes for it.
    own
        Arguments that only this road's functions take, to the options that name them.
    """

    module: str
    planners: Mapping[str, Mapping[str, Any]]
    own: Mapping[str, str] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.module), name)


ROADS = {
    "registration": Road(
        "nnreg.preprocessing.registration.pipeline",
        {DEFAULT_PLANNER: {}, "registration": {}},
        {"pair_budget": "--pair_budget", "device": "-device", "time_budget": "--time_budget"},
    ),
    "dense_prediction": Road("nnreg.preprocessing.dense_prediction.pipeline", {name: {"planner": name} for name in PRESETS}),
}


def task_of(workspace: Workspace, dataset: int | str, asked: str | None = None) -> str:
    """The task asked for, else the one that ``dataset.json`` names, else registration.

    Raises
    ------
    ConfigurationError
        If there is no such task.
    """
    from nnreg.dataset.spec import FILE_NAME, DatasetSpec

    task = asked or DatasetSpec.read(workspace.raw_folder(dataset) / FILE_NAME).task
    if task not in ROADS:
        raise ConfigurationError(f"--task {task!r} is unknown; {did_you_mean(task, ROADS)}")
    return task


def assumed_task(workspace: Workspace, dataset: int | str, asked: str | None = None) -> str | None:
    """In a sentence, what is assumed of a dataset whose task was neither asked for nor told by its ``dataset.json``; None if it was."""
    from nnreg.dataset.spec import FILE_NAME, told_task

    path = workspace.raw_folder(dataset) / FILE_NAME
    content = read_json(path, DatasetError)
    if asked is not None or not isinstance(content, dict) or told_task(content) is not None:
        return None
    return f"{path}: names no task, so its images are registered, every subject to every other. To predict its labels: --task dense_prediction"


def fingerprint_dataset(workspace: Workspace, dataset: int | str, *, task: str | None = None, **options: Any) -> Any:
    """Measure a raw dataset for its task (or the one asked for); see ``fingerprint_dataset`` of the road's module."""
    name = task_of(workspace, dataset, task)
    return ROADS[name].fingerprint_dataset(workspace, dataset, **_allowed(name, options))


def plan_dataset(workspace: Workspace, dataset: int | str, *, task: str | None = None, planner: str = DEFAULT_PLANNER, **options: Any) -> Plans:
    """Plan a measured dataset for its task (or the one asked for); see ``plan_dataset`` of the road's module.

    Raises
    ------
    ConfigurationError
        If the task has no such planner.
    """
    name = task_of(workspace, dataset, task)
    plans: Plans = ROADS[name].plan_dataset(workspace, dataset, **_planner(name, planner), **_allowed(name, options))
    return plans


def plan_and_preprocess(workspace: Workspace, dataset: int | str, *, task: str | None = None, planner: str = DEFAULT_PLANNER, **options: Any) -> Plans:
    """Measure, plan and preprocess a dataset for its task (or the one asked for); see ``plan_and_preprocess`` of the road's module.

    Examples
    --------
    >>> plans = plan_and_preprocess(Workspace.resolve("brains"), 1)  # doctest: +SKIP
    >>> plans.recommended  # doctest: +SKIP
    '3d_fullres'
    """
    name = task_of(workspace, dataset, task)
    plans: Plans = ROADS[name].plan_and_preprocess(workspace, dataset, **_planner(name, planner), **_allowed(name, options))
    return plans


def preprocess_dataset(
    workspace: Workspace, dataset: int | str, *, plans_name: str = "nnRegPlans", configurations: Sequence[str] = (), **options: Any
) -> dict[str, Path]:
    """Preprocess a planned dataset for the task of its plans; see ``preprocess_dataset`` of the road's module.

    Returns
    -------
    dict
        Configuration to the folder of its arrays.
    """
    from nnreg.preprocessing.plan_files import read_plans

    name = workspace.dataset_name(dataset)
    task = read_plans(writable_folder(workspace.preprocessed / name), plans_name, name).task
    folders: dict[str, Path] = ROADS[task].preprocess_dataset(workspace, dataset, plans_name=plans_name, configurations=configurations, **options)
    return folders


def _allowed(task: str, options: dict[str, Any]) -> dict[str, Any]:
    for other, road in ROADS.items():
        for name in road.own.keys() & options.keys():
            if other != task:
                raise ConfigurationError(f"{road.own[name]}: belongs to the task {other}, not to {task}. Leave it out.")
    return options


def _planner(task: str, name: str) -> Mapping[str, Any]:
    if name in ROADS[task].planners:
        return ROADS[task].planners[name]
    others = [other for other, road in ROADS.items() if name in road.planners]
    if others:
        raise ConfigurationError(f"-pl {name}: is a planner of the task {others[0]}, not of {task}. Add --task {others[0]}, or name another planner.")
    raise ConfigurationError(f"-pl {name!r} is unknown; {did_you_mean(name, ROADS[task].planners)}")
