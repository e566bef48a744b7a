"""An imported run, and how it becomes a workspace that can be trained."""

from __future__ import annotations

import dataclasses
import shlex
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnreg.dataset.spec import FILE_NAME, DatasetSpec
from nnreg.dataset.splits import FILE_NAME as SPLITS
from nnreg.errors import ConfigurationError, DatasetError
from nnreg.files import read_json, writable_folder, write_json, write_text
from nnreg.planning.plans import Plans
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
    """

    name: str
    spec: DatasetSpec
    write: Callable[[Path], None]
    split: tuple[Sequence[str], Sequence[str]] | None = None
    plan: Callable[[Plans], Plans] = lambda plans: plans


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
    """

    recipe: TrainerConfig
    dataset: ImportedDataset | None = None
    device: str = "auto"
    workers: int | None = None
    weights: Path | None = None
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Prepared:
    """Where an imported run lies: arguments of ``nnreg_train``."""

    dataset: str
    configuration: str
    recipe: Path

    def command(self, run: ImportedRun) -> str:
        """The ``nnreg_train`` line of the first fold."""
        options = [("-tr", self.recipe), ("-pretrained_weights", run.weights), ("-device", None if run.device == "auto" else run.device)]
        said = [f"{name} {shlex.quote(str(value))}" for name, value in [*options, ("--num_workers", run.workers)] if value is not None]
        return " ".join(["nnreg_train", self.dataset[7:10], self.configuration, "0", *said])


def write_recipe(recipe: TrainerConfig, path: Path) -> Path:
    """Write a recipe as the YAML file that ``-tr`` takes."""
    import yaml

    content = {name: value for name, value in dataclasses.asdict(recipe).items() if value not in (None, {}, "")}
    write_text(path, yaml.safe_dump(_lists(content), sort_keys=False))
    return path


def import_run(run: ImportedRun, source: Path, workspace: Workspace, *, number: int | None = None, processes: int | None = None, say: Say) -> Prepared:
    """As :func:`plan_run`, and the arrays."""
    from nnreg.preprocessing.datasets import preprocess_dataset

    prepared = plan_run(run, source, workspace, number=number, processes=processes, say=say)
    preprocess_dataset(workspace, prepared.dataset, plans_name=PLANS, configurations=[prepared.configuration], processes=processes)
    say(f"{workspace.preprocessed / prepared.dataset}: arrays of {prepared.configuration}")
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

    if run.dataset is None:
        raise ConfigurationError(f"{source}: names no dataset. Say which to train: nnreg_train DATASET CONFIGURATION FOLD --from_config {source}")
    name = _folder_name(workspace, run.dataset.name, number)
    _raw(run.dataset, workspace.raw / name, source)
    say(f"{workspace.raw / name}: {run.dataset.spec.numTraining} cases")
    folder = workspace.preprocessed / name
    if not (folder / f"{PLANS}.json").is_file():
        fingerprint_dataset(workspace, name, processes=processes)
        run.dataset.plan(plan_dataset(workspace, name, plans_name=PLANS)).write(folder / f"{PLANS}.json")
    plans = Plans.read(folder / f"{PLANS}.json")
    recipe = write_recipe(run.recipe, folder / f"{run.dataset.name.lower()}.yaml")
    say(f"{folder}: plans and {recipe.name}")
    return Prepared(name, plans.to_train, recipe)


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


def _raw(dataset: ImportedDataset, folder: Path, source: Path) -> None:
    """The raw dataset, whole or not at all."""
    record: dict[str, Any] = {"source": str(source.resolve()), "dataset": dataset.spec.to_dict(), "split": dataset.split}
    if folder.is_dir():
        if not (folder / RECORD).is_file() or read_json(folder / RECORD, DatasetError)["dataset"] != dataset.spec.to_dict():
            raise DatasetError(f"{folder}: holds another dataset than {source} asks for. Give the import a number of its own with -d, or remove the folder.")
        return
    writable_folder(folder.parent)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        dataset.write(part)
        dataset.spec.write(part / FILE_NAME)
        if dataset.split is not None:
            write_json(part / SPLITS, [{"train": list(dataset.split[0]), "val": list(dataset.split[1])}])
        write_json(part / RECORD, record)
        part.chmod(0o755)  # mkdtemp makes folders for their owner only
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, (list, tuple)) else value
