"""Where a training reads and writes, and what it needs to find there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnreg.dataset import RawDataset
from nnreg.dataset.spec import DatasetSpec
from nnreg.dataset.splits import available_folds, fold_cases
from nnreg.errors import TrainingError, did_you_mean
from nnreg.files import read_json
from nnreg.planning.plans import Plans
from nnreg.workspace import Workspace

DEFAULT_PLANS = "nnRegPlans"


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


def prepared(workspace: Workspace, dataset: int | str, configuration: str, fold: int | str, plans: str, trainer: str) -> tuple[Plans, DatasetSpec, RunFolders]:
    """Plans, dataset.json and folders of a dataset that is ready to be trained by the trainer of that name.

    Raises
    ------
    NnRegError
        Unknown dataset, plans, configuration or fold; plans made for another dataset; arrays or images missing.
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
    arrays = preprocessed / loaded.configuration(configuration).data_identifier
    if not arrays.is_dir():
        raise TrainingError(f"{arrays}: has no preprocessed arrays. Run nnreg_preprocess -d {name[7:10]} -c {configuration}")
    _check_raw(workspace.raw / name, fold_cases(splits, fold if fold == "all" else int(fold))[1])
    folders = RunFolders(raw=workspace.raw / name, preprocessed=preprocessed, model=workspace.model_folder(name, trainer, loaded.plans_name, configuration))
    return loaded, DatasetSpec.read(preprocessed / "dataset.json"), folders


def _check_raw(folder: Path, cases: Sequence[str]) -> None:
    """The validation at the end is on native images: better told now than after a day."""
    raw = RawDataset.open(folder)
    for case in cases:
        for path in raw.image_paths(case):
            if not path.exists():
                raise TrainingError(f"{path}: does not exist, but the validation of this fold registers it. Put it back, or plan the dataset without it.")
