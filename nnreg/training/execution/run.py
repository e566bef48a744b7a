"""Run a training from names: what ``nnreg_train`` calls."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from nnreg.dataset import RawDataset
from nnreg.dataset.spec import DatasetSpec
from nnreg.dataset.splits import available_folds, fold_cases
from nnreg.errors import NnRegError, TrainingError, did_you_mean
from nnreg.files import read_json, writable_folder
from nnreg.planning.plans import Plans
from nnreg.training.configs.lookup import DEFAULT_TRAINER, resolve_trainer
from nnreg.training.runtime_utils.runtime import device_named
from nnreg.training.trainer.checkpoint import BEST, FINAL, resumable
from nnreg.training.trainer.parts import Listeners, RunFolders
from nnreg.training.trainer.trainer import nnRegTrainer
from nnreg.workspace import Workspace

DEFAULT_PLANS = "nnRegPlans"


def build_trainer(
    workspace: Workspace,
    dataset: int | str,
    configuration: str,
    fold: int | str,
    *,
    trainer: str = DEFAULT_TRAINER,
    plans: str = DEFAULT_PLANS,
    overrides: Mapping[str, Any] | None = None,
    device: str = "auto",
    workers: int | None = None,
    listeners: Listeners | None = None,
) -> nnRegTrainer:
    """A trainer for one fold, every name checked, nothing written yet.

    Raises
    ------
    NnRegError
        Unknown dataset, plans, configuration, fold, trainer, setting or device; plans made for another dataset.
    """
    resolved = resolve_trainer(trainer)
    loaded, spec, folders = prepared(workspace, dataset, configuration, fold, plans, resolved.name)
    chosen = device_named(device)
    return resolved.trainer(
        plans=loaded,
        configuration=configuration,
        spec=spec,
        fold=fold,
        folders=folders,
        name=resolved.name,
        recipe=resolved.config,
        overrides=overrides,
        device=chosen,
        workers=default_workers(chosen) if workers is None else workers,
        listeners=listeners,
    )


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


def default_workers(device: torch.device) -> int:
    """Processes that load data: none on a CPU, whose cores the network needs itself; else all cores but one, at most 8."""
    return 0 if device.type == "cpu" else max(1, min(8, (os.cpu_count() or 2) - 1))


def train(
    workspace: Workspace,
    dataset: int | str,
    configuration: str,
    fold: int | str,
    *,
    continue_training: bool = False,
    validate_only: bool = False,
    validate_best: bool = False,
    pretrained_weights: Path | str | None = None,
    save_probabilities: bool = False,
    **build: Any,
) -> dict[str, Any]:
    """Train one fold (or continue, or only validate it) and return its validation summary.

    Parameters
    ----------
    continue_training
        Go on from ``checkpoint_latest.pth`` (where none is kept the final one, else the best); from the start if there is none yet.
    validate_only, validate_best
        Validate ``checkpoint_final.pth`` (or ``checkpoint_best.pth``) without training.
    pretrained_weights
        Checkpoint whose network weights are the start.
    save_probabilities
        Whether the validation keeps the probabilities of label maps, for ensembles.
    **build
        As in :func:`build_trainer`.
    """
    trainer = build_trainer(workspace, dataset, configuration, fold, **build)
    trainer.save_probabilities = save_probabilities
    folder = trainer.output_folder
    writable_folder(folder)
    if validate_only or validate_best:
        trainer.load_checkpoint(folder / (BEST if validate_best else FINAL), weights_only=True)
        return trainer.perform_actual_validation()
    latest = resumable(folder)
    if continue_training and latest is not None:
        trainer.load_checkpoint(latest)
    elif not continue_training and (folder / FINAL).is_file() and pretrained_weights is None and _finished(trainer):
        raise TrainingError(
            f"{folder}: is trained to its end. Continue it with more epochs (-c --epochs N), validate it (--val), or remove the folder to train anew."
        )
    elif pretrained_weights is not None:
        trainer.load_checkpoint(Path(pretrained_weights), weights_only=True)
    return trainer.run_training()


def _finished(trainer: nnRegTrainer) -> bool:
    return (trainer.output_folder / "validation_summary.json").is_file()


def parse_folds(text: str) -> list[int | str]:
    """Folds that a command names: ``0``, ``0-4``, ``cv`` (0-4), ``all``.

    Examples
    --------
    >>> parse_folds("0-2"), parse_folds("all"), parse_folds("3")
    ([0, 1, 2], ['all'], [3])
    """
    if text == "all":
        return ["all"]
    first, dash, last = ("0", "-", "4") if text == "cv" else text.partition("-")
    if not first.isdigit() or (dash and not last.isdigit()):
        raise NnRegError(f"fold {text!r}: expected a number, a range such as 0-4, or all.")
    return list(range(int(first), int(last if dash else first) + 1))


__all__ = ["DEFAULT_PLANS", "build_trainer", "default_workers", "parse_folds", "train"]
