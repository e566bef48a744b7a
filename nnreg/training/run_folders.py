"""Where a training reads and writes, and what it needs to find there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnreg.dataset import RawDataset
from nnreg.dataset.spec import DatasetSpec
from nnreg.dataset.splits import available_folds, fold_cases
from nnreg.errors import TrainingError, did_you_mean
from nnreg.files import read_json, read_object
from nnreg.planning.plans import Configuration, Plans
from nnreg.training.configs.names import DEFAULT_TRAINER, former_results_name, results_name
from nnreg.workspace import Workspace

DEFAULT_PLANS = "nnRegPlans"
DEBUG_FILE = "debug.json"
SOURCE = "trainer_source"
"""Key of a fold's debug.json: where a trainer of the user's own comes from. Null where nobody asked for it by name; folds of before lack it."""


@dataclass(frozen=True)
class RunFolders:
    """Where a training reads and writes.

    Attributes
    ----------
    raw : the raw dataset, for the full validation on native images
    preprocessed : plans, splits and arrays
    model : ``TRAINER__PLANS__CONFIGURATION``
    """

    raw: Path
    preprocessed: Path
    model: Path

    def fold(self, fold: int | str) -> Path:
        """``fold_K`` of the model folder."""
        return self.model / f"fold_{fold}"


def model_folder(workspace: Workspace, dataset: int | str, trainer: str, plans: str, configuration: str) -> Path:
    """Where a model is, or is to be: `trainer` is what ``-tr`` says.

    A folder of before modules stood before their classes is used where there is no other, so that its training can go on and be predicted with.
    """
    folder = workspace.model_folder(dataset, results_name(trainer), plans, configuration)
    former = workspace.model_folder(dataset, former_results_name(trainer), plans, configuration)
    if former == folder or folder.exists():
        return folder
    return former if any(SOURCE not in content for content in _debug_files(former)) else folder


def _debug_files(model: Path) -> list[dict[str, Any]]:
    return [read_object(path, TrainingError) for path in model.glob(f"fold_*/{DEBUG_FILE}")]


def check_source(model: Path, trainer: str, source: str) -> None:
    """Refuse to train in the folder of another trainer of the same name.

    Raises
    ------
    TrainingError
        If a fold there was trained by one that comes from elsewhere.
    """
    others = sorted(other for content in _debug_files(model) if (other := content.get(SOURCE)) is not None and other != source)
    if others:
        raise TrainingError(
            f"{model}: was trained by {trainer} of {others[0] or 'nnReg'}, -tr {trainer} now is that of {source or 'nnReg'}. Rename it, or remove the folder."
        )


def prepared(workspace: Workspace, dataset: int | str, configuration: str, fold: int | str, plans: str, trainer: str) -> tuple[Plans, DatasetSpec, RunFolders]:
    """Plans, dataset.json and folders of a dataset that is ready to be trained by what ``-tr`` calls `trainer`; arrays may be missing yet.

    Raises
    ------
    NnRegError
        Unknown dataset, plans, configuration or fold; plans made for another dataset; images missing.
    """
    name = workspace.dataset_name(dataset)
    preprocessed = workspace.preprocessed / name
    plans_path = preprocessed / f"{plans}.json"
    if not plans_path.is_file():
        found = sorted(path.stem for path in preprocessed.glob("*Plans*.json"))
        advice = did_you_mean(plans, found) if found else f"run nnreg_plan_and_preprocess -d {name[7:10]} first"
        raise TrainingError(f"{plans_path}: does not exist; {advice}")
    loaded = Plans.read(plans_path)
    if loaded.dataset_name != name:
        raise TrainingError(f"{plans_path}: was made for {loaded.dataset_name}, not for {name}. Plan this dataset: nnreg_plan_and_preprocess -d {name[7:10]}")
    loaded.configuration(configuration)
    splits = read_json(preprocessed / "splits_final.json", TrainingError)
    folds = available_folds(splits)
    if str(fold) not in [*map(str, folds), "all"]:
        raise TrainingError(f"fold {fold}: {preprocessed / 'splits_final.json'} has folds {', '.join(map(str, folds))}, and 'all' is always there.")
    _check_raw(workspace.raw / name, fold_cases(splits, fold if fold == "all" else int(fold))[1])
    model = model_folder(workspace, name, trainer, loaded.plans_name, configuration)
    folders = RunFolders(raw=workspace.raw / name, preprocessed=preprocessed, model=model)
    return loaded, DatasetSpec.read(preprocessed / "dataset.json"), folders


def require_arrays(folders: RunFolders, plans: Plans, configuration: str) -> None:
    """Refuse to train on arrays that are not there.

    Raises
    ------
    TrainingError
        With the command that makes them.
    """
    arrays = folders.preprocessed / plans.configuration(configuration).data_identifier
    if not arrays.is_dir():
        named = "" if plans.plans_name == DEFAULT_PLANS else f" -plans_name {plans.plans_name}"
        raise TrainingError(f"{arrays}: has no preprocessed arrays. Run nnreg_preprocess -d {plans.dataset_name[7:10]} -c {configuration}{named}")


def stage_before(folders: RunFolders, configuration: Configuration, fold: int | str) -> Path:
    """In a cascade, the checkpoint of the stage before, trained in the same way on the same fold.

    Raises
    ------
    TrainingError
        If the stage was not trained to its end, with the command that does it.
    """
    from nnreg.training.trainer.checkpoint import FINAL

    stage = configuration.previous_stage  # type: ignore[attr-defined]  # of tasks that have cascades
    trainer, plans, own = folders.model.name.split("__")
    path = folders.model.with_name(f"{trainer}__{plans}__{stage}") / f"fold_{fold}" / FINAL
    if not path.is_file():
        more = "".join(f" {option} {name}" for usual, name, option in ((DEFAULT_TRAINER, trainer, "-tr"), (DEFAULT_PLANS, plans, "-p")) if name != usual)
        number = folders.preprocessed.name[7:10]
        raise TrainingError(f"{path}: does not exist, but {own} goes on from it. Train it first: nnreg_train {number} {stage} {fold}{more}")
    return path


def _check_raw(folder: Path, cases: Sequence[str]) -> None:
    """The validation at the end is on native images: better told now than after a day."""
    raw = RawDataset.open(folder)
    for case in cases:
        for path in raw.image_paths(case):
            if not path.exists():
                raise TrainingError(f"{path}: does not exist, but the validation of this fold registers it. Put it back, or plan the dataset without it.")
