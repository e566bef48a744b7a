"""Plans: everything that preprocessing, training and inference need to know, derived from the data, each value with its reason."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from nnreg.documents import understood
from nnreg.errors import PlansError, did_you_mean
from nnreg.files import read_json, write_json
from nnreg.planning.configuration import Architecture, Configuration, LossTerm, Normalization, Training
from nnreg.planning.inheritance import resolved
from nnreg.planning.registration.engine_settings import OPTIMISE
from nnreg.planning.validation import FOLDER_NAME, configuration_problems
from nnreg.task import DEFAULT_TASK, TASKS, imported
from nnreg.typed import from_mapping, to_mapping

if TYPE_CHECKING:
    from typing_extensions import Self

P = TypeVar("P", bound="Plans")
SCHEMA_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Plans:
    """The plans file: what the plans of every task have.

    Attributes
    ----------
    recommended
        A configuration, or ``optimise`` where the task registers pairs.
    orientation : letters, image axis x first
        Axis order that images are turned to before anything else; empty: they stay as they are stored.
    because
        Dotted field name to the rule and the measured numbers that led to its value.
    """

    dataset_name: str
    plans_name: str
    task: str
    planner: str
    channel_names: tuple[str, ...]
    configurations: Mapping[str, Configuration]
    recommended: str
    orientation: str = ""
    because: dict[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    retired: ClassVar[Mapping[str, Any]] = {}
    """Training options that plans of this task had until training options were told apart by task, each with the value that had no effect."""

    @property
    def registers_pairs(self) -> bool:
        """Whether the registration engine can do what the plans are for."""
        return TASKS[self.task].registers_pairs

    @property
    def unit(self) -> str:
        """Of lengths in messages; plans that know of images without one hold it."""
        return "mm"

    @property
    def to_train(self) -> str:
        """The configuration to train: the recommended one, or the finest where optimising is recommended."""
        if self.recommended in self.configurations:
            return self.recommended
        return max(self.configurations, key=lambda name: math.prod(self.configurations[name].grid))

    def configuration(self, name: str) -> Configuration:
        """The configuration `name`.

        Raises
        ------
        PlansError
            If the plans have none of that name.
        """
        if name == OPTIMISE:
            raise PlansError(f"{self.plans_name} of {self.dataset_name}: {OPTIMISE!r} has no network and no arrays; nnreg_predict -c {OPTIMISE} needs neither.")
        if name not in self.configurations:
            raise PlansError(f"{self.plans_name} of {self.dataset_name}: no configuration {name!r}; {did_you_mean(name, self.configurations)}")
        return self.configurations[name]

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """Read and validate a plans file.

        Raises
        ------
        PlansError
            Missing or damaged file, unknown or missing key, wrong type, another schema version.
        """
        content = read_json(path, PlansError)
        if isinstance(content, dict) and content.get("schema_version") != SCHEMA_VERSION:
            found = content.get("schema_version")
            raise PlansError(
                f"{path}: schema_version is {found!r}, this nnReg reads {SCHEMA_VERSION}. Plan the dataset again, or use the version that made it."
            )
        return cls.from_dict(content, where=str(path))

    def write(self, path: Path | str) -> None:
        """Write the plans file, whole or not at all."""
        write_json(path, to_mapping(self))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON and checkpoints."""
        return to_mapping(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any], where: str = "plans") -> Self:
        """The inverse of :meth:`to_dict`.

        Raises
        ------
        PlansError
            Unknown or missing key, wrong type, values that contradict each other.
        """
        found = plans_class(content, where, cls)
        with understood(where, PlansError, "Mend the plans file or plan the dataset again."):
            plans = from_mapping(found, without_retired(resolved(content, where), found.retired), where=where, error=PlansError)
            check_plans(plans, where)
        return plans

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


def without_retired(content: Any, retired: Mapping[str, Any]) -> Any:
    """Parsed plans without the training options that only older files have and that have no effect there; any other value of one stays, and is refused."""
    if not isinstance(content, Mapping) or not isinstance(content.get("configurations"), Mapping):
        return content
    return {**content, "configurations": {name: configuration_without(configuration, retired) for name, configuration in content["configurations"].items()}}


def configuration_without(configuration: Any, retired: Mapping[str, Any]) -> Any:
    """One parsed configuration, of plans or of a checkpoint, as :func:`without_retired` has it."""
    if not isinstance(configuration, Mapping) or not isinstance(configuration.get("training"), Mapping):
        return configuration
    kept = {key: value for key, value in configuration["training"].items() if key not in retired or value != retired[key]}
    return {**configuration, "training": kept}


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
        if not FOLDER_NAME.match(name):
            yield f"configurations has {name!r}, which cannot be part of a folder's name."
        for problem in configuration_problems(configuration, len(plans.channel_names)):
            yield f"configurations.{name}.{problem}"
    yield from imported(TASKS[plans.task].plan_checks)(plans)


__all__ = ["OPTIMISE", "SCHEMA_VERSION", "Architecture", "Configuration", "LossTerm", "Normalization", "Plans", "Training", "check_plans"]
