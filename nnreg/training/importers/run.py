"""An imported run, and how it becomes a workspace that can be trained."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnreg.dataset.spec import FILE_NAME, DatasetSpec
from nnreg.dataset.splits import FILE_NAME as SPLITS
from nnreg.errors import ConfigurationError, DatasetError, NnRegError
from nnreg.files import folder_to_write, plain, read_object, writable_folder, write_json, write_text
from nnreg.planning.plans import Plans
from nnreg.training.configs.overrides import resolve_configuration
from nnreg.training.configs.trainer_config import TrainerConfig
from nnreg.workspace import Workspace

PLANS = "nnRegPlans"
RECORD = "import.json"

Say = Callable[[str], None]


@dataclass(frozen=True)
class ImportedDataset:
    """A dataset that an import makes.

    Attributes
    ----------
    name : what the folder is called after its number
    spec : dataset.json
    write : writes the images and labels into a folder
    split : training and validation cases, or None for nnReg's own folds
    plan : what the source says of the plan, put into the one that was derived
    planning : options of ``plan_dataset``; the dataset is planned anew where a later import has others
    content : what else tells the dataset from another of the same dataset.json, such as the files it was copied from; plain values
    """

    name: str
    spec: DatasetSpec
    write: Callable[[Path], None]
    split: tuple[Sequence[str], Sequence[str]] | None = None
    plan: Callable[[Plans], Plans] = lambda plans: plans
    planning: Mapping[str, Any] = field(default_factory=dict)
    content: Mapping[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """What makes it the dataset it is, as JSON gives it back."""
        record: dict[str, Any] = plain({"dataset": self.spec.to_dict(), "split": self.split, "content": self.content})
        return record


@dataclass(frozen=True)
class ImportedRun:
    """What a file or folder of another program asks for, in nnReg's terms.

    Attributes
    ----------
    recipe : network, loss and options
    dataset : None where the source names none; the recipe then goes with any dataset
    device, workers : what the source trains on, and with how many processes that load data; None: not said
    weights : file whose weights are the start
    notes : what became of values that nnReg has otherwise
    output : folder that the model folder goes into, None for the workspace's
    settings : the whole run in the source's own form, defaults and flags filled in; kept as ``NAME_config.yaml``, None where the form has no such file
    """

    recipe: TrainerConfig
    dataset: ImportedDataset | None = None
    device: str = "auto"
    workers: int | None = None
    weights: Path | None = None
    notes: tuple[str, ...] = field(default=())
    output: Path | None = None
    settings: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Prepared:
    """Where an imported run lies: arguments of ``nnreg_train``."""

    dataset: str
    configuration: str
    recipe: Path

    def command(self, run: ImportedRun) -> str:
        """The ``nnreg_train`` line of the first fold."""
        device = None if run.device == "auto" else run.device
        options = [("-tr", self.recipe), ("-o", run.output), ("-pretrained_weights", run.weights), ("-device", device), ("--num_workers", run.workers)]
        said = [f"{name} {shlex.quote(str(value))}" for name, value in options if value is not None]
        return " ".join(["nnreg_train", self.dataset[7:10], self.configuration, "0", *said])


def write_recipe(recipe: TrainerConfig, path: Path) -> Path:
    """Write a recipe as the YAML file that ``-tr`` takes."""
    content = {name: value for name, value in dataclasses.asdict(recipe).items() if value not in (None, {}, "")}
    return _write_yaml(content, path)


def _write_yaml(content: Mapping[str, Any], path: Path) -> Path:
    import yaml

    write_text(path, yaml.safe_dump(_lists(dict(content)), sort_keys=False))
    return path


def import_run(run: ImportedRun, source: Path, workspace: Workspace, *, number: int | None = None, processes: int | None = None, say: Say) -> Prepared:
    """As :func:`plan_run`, and the arrays. What a dataset that cannot be preprocessed has left is removed."""
    from nnreg.preprocessing.datasets import preprocess_dataset

    name = _name(run, source, workspace, number)
    with _whole(workspace, name):
        prepared = plan_run(run, source, workspace, number=number, processes=processes, say=say)
        preprocess_dataset(workspace, name, plans_name=PLANS, configurations=[prepared.configuration], processes=processes)
    say(f"{workspace.preprocessed / name}: arrays of {prepared.configuration}")
    return prepared


def plan_run(run: ImportedRun, source: Path, workspace: Workspace, *, number: int | None = None, processes: int | None = None, say: Say) -> Prepared:
    """Write the dataset, plan it as the source says, and write the recipe beside the plans. What is there already is kept.

    Parameters
    ----------
    run, source
        The run and the file or folder it was read from.
    workspace
        Where it goes.
    number
        Of the dataset; None: the one it has from an earlier import of the same name, else the first that is free.
    processes
        Workers.
    say
        Hears a line per step.

    Raises
    ------
    ConfigurationError
        If the source names no dataset.
    DatasetError
        If the number belongs to another dataset, or to an import of other content.
    """
    from nnreg.preprocessing.datasets import fingerprint_dataset, plan_dataset

    name = _name(run, source, workspace, number)
    dataset, folder = _dataset(run, source), workspace.preprocessed / name
    with _whole(workspace, name):
        record = _raw(dataset, workspace.raw / name, source)
        say(f"{workspace.raw / name}: {dataset.spec.numTraining} cases")
        asked = plain({"planning": dataset.planning})["planning"]
        known = (folder / f"{PLANS}.json").is_file()
        if not known or record.get("planning", asked) != asked:
            fingerprint_dataset(workspace, name, processes=processes)
            dataset.plan(plan_dataset(workspace, name, plans_name=PLANS, **dataset.planning)).write(folder / f"{PLANS}.json")
            say(f"{folder / PLANS}.json: planned {'anew, for the import asks for other values than before' if known else 'as the import says'}")
        write_json(workspace.raw / name / RECORD, {**record, "planning": asked})
        plans = Plans.read(folder / f"{PLANS}.json")
        # a recipe that does not go with the plans is told now
        changed = resolve_configuration(plans.configuration(plans.to_train), run.recipe, "the import", {})
        recipe = write_recipe(run.recipe, folder / f"{dataset.name.lower()}.yaml")
        if run.settings is not None:
            _write_yaml(run.settings, folder / changed.training.checkpoints.settings_name)
    say(f"{folder}: plans and {recipe.name}")
    return Prepared(name, plans.to_train, recipe)


def _dataset(run: ImportedRun, source: Path) -> ImportedDataset:
    if run.dataset is None:
        raise ConfigurationError(f"{source}: names no dataset. Say which to train: nnreg_train DATASET CONFIGURATION FOLD --from_config {source}")
    return run.dataset


def _name(run: ImportedRun, source: Path, workspace: Workspace, number: int | None) -> str:
    return _folder_name(workspace, _dataset(run, source).name, number)


@contextlib.contextmanager
def _whole(workspace: Workspace, name: str) -> Iterator[None]:
    """A dataset that is new and turns out to be of no use is removed again: the next attempt must not find half of it."""
    new = [folder for folder in (workspace.raw / name, workspace.preprocessed / name) if not folder.exists()]
    try:
        yield
    except NnRegError:
        for folder in new:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _folder_name(workspace: Workspace, name: str, number: int | None) -> str:
    from nnreg.dataset.synthetic_writer import dataset_folder

    if number is not None:
        return dataset_folder(workspace, number, name).name
    known = workspace.datasets()
    same = [other for other in known if other[11:] == name]
    if same:
        return same[0]
    taken = {int(other[7:10]) for other in known}
    free = next((candidate for candidate in range(1, 1000) if candidate not in taken), None)
    if free is None:
        raise DatasetError(f"{workspace.raw}: every dataset id from 1 to 999 is taken. Remove a dataset.")
    return f"Dataset{free:03d}_{name}"


def _raw(dataset: ImportedDataset, folder: Path, source: Path) -> dict[str, Any]:
    """The raw dataset, whole or not at all; returns its record, which an earlier import may have written."""
    asked = dataset.record()
    if folder.is_dir():
        found: dict[str, Any] = read_object(folder / RECORD, DatasetError) if (folder / RECORD).is_file() else {}
        other = next((key for key, value in asked.items() if found.get(key, {} if key == "content" else None) != value), None)
        if other is not None:
            what = {"dataset": "dataset.json", "split": "split into training and validation", "content": "files"}[other]
            remedy = "Give the import a number of its own (nnreg_import -d N), or remove the folder."
            raise DatasetError(f"{folder}: holds another dataset than {source} asks for (another {what}). {remedy}")
        return found
    record: dict[str, Any] = {"source": str(source.resolve()), **asked}
    writable_folder(folder.parent)
    with folder_to_write(folder) as part:
        dataset.write(part)
        dataset.spec.write(part / FILE_NAME)
        if dataset.split is not None:
            write_json(part / SPLITS, [{"train": list(dataset.split[0]), "val": list(dataset.split[1])}])
        write_json(part / RECORD, record)
        part.rename(folder)
    return record


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, (list, tuple)) else value
