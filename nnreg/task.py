"""What differs between tasks: one table that every other module asks, and the protocol of the training side."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol

from nnreg.errors import ConfigurationError, did_you_mean
from nnreg.registry import Installed, entry_points_of, package_of

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint
    from pathlib import Path

    from torch import Tensor, nn
    from torch.utils.data import Dataset

    Batch = Mapping[str, Tensor]

ENTRY_POINTS: Final = "nnreg.tasks"
REGISTRATION: Final = "registration"
DENSE_PREDICTION: Final = "dense_prediction"

DEFAULT_TASK: Final = REGISTRATION
"""Of a dataset whose ``dataset.json`` names no task and has no key that tells one."""
DEFAULT_TASK_MEANS: Final = f"so its images are registered, every subject to every other. To predict its labels: --task {DENSE_PREDICTION}"
"""What it comes to, for the person who did not say."""
DEFAULT_PLANNER: Final = "default"


@dataclass(frozen=True, kw_only=True)
class TaskEntry:
    """All that is known of a task outside its own modules.

    Texts of the form ``module:attribute`` (a module alone for `pipeline`) are imported when asked for, so that the table costs nothing.
    An installed package adds a task by an entry point in the group ``nnreg.tasks`` that loads a ``TaskEntry``; its name is the task's.

    Attributes
    ----------
    title
        For people, as the heading of its options.
    plans : module:class
        A subclass of :class:`nnreg.planning.plans.Plans`.
    plan_checks : module:function
        Plans to sentences about what only plans of this task can have wrong, each beginning with the key.
    pipeline : module
        Holds ``fingerprint_dataset``, ``plan_dataset``, ``preprocess_dataset`` and ``plan_and_preprocess``.
    planners : module:attribute
        A mapping from what -pl may name to the arguments that ``plan_dataset`` takes for it.
    training : module:class
        A :class:`Task`.
    predictor : module:function
        Called with a :class:`nnreg.inference.predictor.TrainedModel`, folder of images, output folder and options; returns the content of ``prediction.json``.
    evaluator : module:function
        Called with folder of predictions, raw dataset and options; returns the summary.
    fingerprint : module:class
        With a class method ``read``.
    fingerprint_file : module:attribute
        Its name in the dataset's preprocessed folder.
    print_fingerprint, print_plans : module:function
        Called with the fingerprint, the plans: print the short table.
    print_arrays : module:function
        Called with name and folder of a configuration's arrays.
    predict_command : module:function
        The work of nnreg_predict: options and configuration (None: of the model folder) to a sentence that says what was done.
    evaluate_command : module:function
        The work of nnreg_evaluate: options, folder of predictions and raw dataset to summary and printed table.
    add_predict_options : module:function
        Called with the group of nnreg_predict's options that are this task's; None: it has none.
    predict_files : module:function
        Called with the options and configuration of nnreg_predict: what it would read and write, for ``--dry_run``; None: only the folders are told.
    predict_dataset : module:function
        The same for a dataset whose plans may recommend no training: called with plans, raw dataset, trained model or None, images, output and the
        device of what needs no model; returns what was predicted. None: every training ends in a model, and the `predictor` predicts.
    own_options
        Arguments that only functions of this `pipeline` take, to the options that name them.
    dataset_keys
        Keys of ``dataset.json`` that mean something to this task alone, and so tell it where none is named.
    speed_measure : module
        Run as a process by planning with a time budget: measures how fast this machine trains; None: the task plans for no budget.
    batch_names
        What other programs call an entry of a batch, to its name here: ``batch["data"]`` of nnU-Net.
    registers_pairs
        Whether the unit of work is a pair of images that the registration engine can align.
    """

    title: str
    plans: str
    plan_checks: str
    pipeline: str
    planners: str
    training: str
    predictor: str
    evaluator: str
    fingerprint: str
    fingerprint_file: str
    print_fingerprint: str
    print_plans: str
    print_arrays: str
    predict_command: str
    evaluate_command: str
    add_predict_options: str | None = None
    predict_files: str | None = None
    predict_dataset: str | None = None
    own_options: Mapping[str, str] = field(default_factory=dict)
    dataset_keys: tuple[str, ...] = ()
    speed_measure: str | None = None
    batch_names: Mapping[str, str] = field(default_factory=dict)
    registers_pairs: bool = False


_BUILT_IN: Final[Mapping[str, TaskEntry]] = MappingProxyType(
    {
        REGISTRATION: TaskEntry(
            title="registration",
            plans="nnreg.planning.registration.plans:RegistrationPlans",
            plan_checks="nnreg.planning.registration.validation:registration_problems",
            pipeline="nnreg.preprocessing.registration.pipeline",
            planners="nnreg.planning.registration.planner:PLANNERS",
            training="nnreg.tasks.registration.task:RegistrationTask",
            predictor="nnreg.groups.training_guides:predict_folder",
            evaluator="nnreg.evaluation.registration.folder:evaluate_folder",
            fingerprint="nnreg.planning.registration.fingerprint:Fingerprint",
            fingerprint_file="nnreg.planning.registration.fingerprint:FILE_NAME",
            print_fingerprint="nnreg.cli.registration.tables:print_fingerprint",
            print_plans="nnreg.cli.registration.tables:print_plans",
            print_arrays="nnreg.cli.registration.tables:print_arrays",
            predict_command="nnreg.cli.registration.prediction:register_images",
            evaluate_command="nnreg.cli.registration.evaluation:evaluate_pairs",
            add_predict_options="nnreg.cli.registration.prediction:add_options",
            predict_files="nnreg.cli.registration.prediction:files",
            predict_dataset="nnreg.groups.training_guides:predict_dataset",
            own_options={"pair_budget": "--pair_budget", "device": "-device", "time_budget": "--time_budget"},
            dataset_keys=("pairing", "pairs", "atlas", "modalities"),
            speed_measure="nnreg.training.execution.speed",
            registers_pairs=True,
        ),
        DENSE_PREDICTION: TaskEntry(
            title="dense prediction",
            plans="nnreg.planning.dense_prediction.plans:DensePlans",
            plan_checks="nnreg.planning.dense_prediction.validation:dense_problems",
            pipeline="nnreg.preprocessing.dense_prediction.pipeline",
            planners="nnreg.planning.dense_prediction.presets:PLANNERS",
            training="nnreg.tasks.dense_prediction.task:DensePredictionTask",
            predictor="nnreg.inference.dense_prediction.predict:predict_folder",
            evaluator="nnreg.evaluation.dense_prediction.folder:evaluate_dense_folder",
            fingerprint="nnreg.planning.dense_prediction.fingerprint:DenseFingerprint",
            fingerprint_file="nnreg.planning.dense_prediction.fingerprint:FILE_NAME",
            print_fingerprint="nnreg.cli.dense_prediction.tables:print_fingerprint",
            print_plans="nnreg.cli.dense_prediction.tables:print_plans",
            print_arrays="nnreg.cli.dense_prediction.tables:print_arrays",
            predict_command="nnreg.cli.dense_prediction.prediction:predict_label_maps",
            evaluate_command="nnreg.cli.dense_prediction.evaluation:evaluate_label_maps",
            add_predict_options="nnreg.cli.dense_prediction.prediction:add_options",
            predict_files="nnreg.cli.dense_prediction.prediction:files",
            dataset_keys=("targets", "regions_class_order", "ignore_label"),
            batch_names={"data": "image", "target": "labels"},
        ),
    }
)


class _TaskTable(Mapping[str, TaskEntry]):
    """The built-in tasks, then those of installed packages; a package is imported when its task is looked up."""

    def __getitem__(self, name: str) -> TaskEntry:
        outside = _outside(tuple(sys.path)).get(name, ())
        if len(outside) + (name in _BUILT_IN) > 1:
            raise ConfigurationError(_twice(name, outside))
        if name in _BUILT_IN:
            return _BUILT_IN[name]
        if not outside:
            raise ConfigurationError(f"task {name!r} is unknown; {did_you_mean(name, self)}")
        entry = Installed("task", outside[0]).load()
        if not isinstance(entry, TaskEntry):
            raise ConfigurationError(
                f"task {name!r} of the package {package_of(outside[0])}: entry point {outside[0].value} is a {type(entry).__name__}, expected a TaskEntry. "
                "Mend or remove the package."
            )
        return entry

    def __contains__(self, name: object) -> bool:
        return name in _BUILT_IN or name in _outside(tuple(sys.path))

    def __iter__(self) -> Iterator[str]:
        yield from _BUILT_IN
        yield from (name for name in _outside(tuple(sys.path)) if name not in _BUILT_IN)

    def __len__(self) -> int:
        return len(list(iter(self)))


TASKS: Final[Mapping[str, TaskEntry]] = _TaskTable()
"""Name to entry, ours first. A missing name, one claimed twice, and a package that cannot be imported are a ConfigurationError."""


@lru_cache(maxsize=4)
def _outside(path: tuple[str, ...]) -> Mapping[str, tuple[EntryPoint, ...]]:
    """Entry points by name. They depend on `path` alone, ``sys.path``, and looking for them reads every installed package's folder."""
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for entry in sorted(entry_points_of(ENTRY_POINTS), key=lambda entry: (entry.name, package_of(entry))):
        found[entry.name] = (*found.get(entry.name, ()), entry)
    return found


def _twice(name: str, outside: Sequence[EntryPoint]) -> str:
    claims = ", ".join(f"{entry.value} of {package_of(entry)}" for entry in outside)
    if name in _BUILT_IN:
        return f"task {name!r} of nnReg itself is registered in the entry points {ENTRY_POINTS} too: {claims}. Rename or remove it."
    return f"task {name!r} is registered {len(outside)} times in the entry points {ENTRY_POINTS}: {claims}. Remove all of these packages but one."


def usable_tasks(on_problem: Callable[[str], None] = lambda problem: None) -> Iterator[tuple[str, TaskEntry]]:
    """Name and entry of every task that can be loaded: a damaged package must not stop the work of other tasks.

    Parameters
    ----------
    on_problem
        Hears in a sentence why a task is left out.
    """
    for name in TASKS:
        try:
            entry = TASKS[name]
        except ConfigurationError as error:
            on_problem(str(error))
            continue
        yield name, entry


def imported(reference: str) -> Any:
    """What a text of the form ``module`` or ``module:attribute`` names.

    Raises
    ------
    ConfigurationError
        If it cannot be imported.
    """
    module, _, attribute = reference.partition(":")
    try:
        found = importlib.import_module(module)
        return getattr(found, attribute) if attribute else found
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"{reference}: cannot be imported ({error}). Mend or remove the package that holds it.") from error


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
    """An instance of the training side of the task `name`.

    Raises
    ------
    ConfigurationError
        If no such task is known.
    """
    task: Task = imported(TASKS[name].training)()
    return task
