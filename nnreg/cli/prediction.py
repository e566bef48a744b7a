"""Which model nnreg_predict uses, whatever the task."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from nnreg.cli.common import workspace_of

if TYPE_CHECKING:
    from nnreg.dataset.spec import DatasetSpec
    from nnreg.inference.predictor import TrainedModel
    from nnreg.planning.plans import Plans

DEFAULT_TRAINER = "nnRegTrainer"


def add_model_options(parser: argparse.ArgumentParser, folds: str) -> None:
    """Which model, beside -d and -c; `folds` says what is done with its folds."""
    parser.add_argument("-tr", "--trainer", default=DEFAULT_TRAINER, metavar="NAME", help="as in nnreg_train")
    parser.add_argument("-p", "--plans_identifier", default="nnRegPlans", metavar="NAME", help="as in nnreg_train")
    parser.add_argument("-m", "--model_folder", metavar="DIR", help="a folder TRAINER__PLANS__CONFIGURATION, instead of -d, -c, -tr and -p")
    parser.add_argument("-f", "--folds", nargs="+", default=[], metavar="K", help=folds)
    parser.add_argument("-chk", "--checkpoint", default="checkpoint_final.pth", metavar="FILE", help="checkpoint of each fold")


def trained_model(options: argparse.Namespace, configuration: str | None) -> TrainedModel:
    """The model that the options name, and which of its networks predict where."""
    from nnreg.inference.predictor import ModelFolder, TrainedModel

    folder = ModelFolder.open(model_folder(options, configuration))
    own_trainer = None if options.trainer == DEFAULT_TRAINER else str(options.trainer)
    return TrainedModel(folder, options.folds, options.checkpoint, own_trainer, options.device)


def dataset_plans(options: argparse.Namespace) -> tuple[Plans, DatasetSpec]:
    """Plans and dataset.json of the dataset that the options name."""
    from nnreg.dataset.spec import DatasetSpec
    from nnreg.preprocessing import read_plans

    folder = workspace_of(options).preprocessed_folder(options.dataset)
    return read_plans(folder, options.plans_identifier, folder.name), DatasetSpec.read(folder / "dataset.json")


def model_folder(options: argparse.Namespace, configuration: str | None) -> Path:
    """The folder of the model that the options name."""
    from nnreg.errors import PredictionError
    from nnreg.planning.plans import Plans
    from nnreg.training.configs.lookup import resolve_trainer
    from nnreg.training.run_folders import model_folder as folder_of

    if options.model_folder:
        return Path(options.model_folder)
    workspace = workspace_of(options)
    dataset = workspace.dataset_name(options.dataset)
    folder = folder_of(workspace, dataset, options.trainer, options.plans_identifier, str(configuration))
    if not folder.is_dir():
        resolve_trainer(options.trainer, beside=Path())  # a name that means nothing is told as such
    made_for = Plans.read(folder / "plans.json").dataset_name if (folder / "plans.json").is_file() else dataset
    if made_for != dataset:
        raise PredictionError(f"{folder / 'plans.json'}: was made for {made_for}, not for {dataset}. Train on this dataset, or name the folder with -m.")
    return folder
