"""Run a training from names: what ``nnreg_train`` calls."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from nnreg.dataset import RawDataset
from nnreg.dataset.splits import FILE_NAME as SPLITS
from nnreg.dataset.splits import load_or_make_splits
from nnreg.engine.device import engine_part
from nnreg.errors import ConfigurationError, NnRegError, TrainingError
from nnreg.files import writable_folder
from nnreg.lock import held
from nnreg.training.configs.lookup import DEFAULT_TRAINER, resolve_trainer
from nnreg.training.distributed import ALONE, Ranks, left_in_order
from nnreg.training.execution.arrays import preprocess_missing
from nnreg.training.execution.shared import join
from nnreg.training.run_folders import DEFAULT_PLANS, check_source, prepared, require_arrays
from nnreg.training.trainer.checkpoint import BEST, FINAL, load_checkpoint, resumable
from nnreg.training.trainer.parts import Listeners
from nnreg.training.trainer.state import start_from
from nnreg.training.trainer.trainer import nnRegTrainer
from nnreg.workspace import Workspace


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
    output: Path | None = None,
    preprocess: bool = False,
    ranks: Ranks = ALONE,
) -> nnRegTrainer:
    """A trainer for one fold, every name checked, nothing written yet; of several processes, as one of them has it.

    `trainer` is what ``-tr`` says: modules of the current folder are looked through too. With `preprocess` arrays that are missing are made, which writes.
    `output` is the folder that the model folder goes into, in place of the dataset's in the workspace; the model folder is then called as
    ``checkpoints.model_name`` says, if the recipe has it.

    Raises
    ------
    NnRegError
        Unknown dataset, plans, configuration, fold, trainer, setting or device; plans made for another dataset; arrays missing.
    """
    resolved = resolve_trainer(trainer, beside=Path())
    loaded, spec, folders = prepared(workspace, dataset, configuration, fold, plans, trainer)
    if output is not None:
        name = {**resolved.config.training, **(overrides or {})}.get("checkpoints.model_name")
        if name and getattr(loaded.configuration(configuration), "previous_stage", None) is not None:
            raise TrainingError(f"-o {output}: {configuration} looks for the stage before it among the results of the dataset. Leave -o out.")
        folders = dataclasses.replace(folders, model=output.absolute() / (name or folders.model.name))
    check_source(folders.model, resolved.name, resolved.source)
    chosen = ranks.device(device)
    built = resolved.trainer(
        plans=loaded,
        configuration=configuration,
        spec=spec,
        fold=fold,
        folders=folders,
        name=resolved.name,
        recipe=resolved.config,
        overrides=overrides,
        device=chosen,
        workers=default_workers(chosen, ranks.local_size) if workers is None else workers,
        listeners=listeners if ranks.leads else None,
    )
    # by the name, which is no longer known of what was found for auto
    built.source, built.ranks, built.engine_device = resolved.source, ranks, engine_part(device)
    if preprocess:
        preprocess_missing(workspace, built)
    require_arrays(folders, loaded, configuration)
    return built


def default_workers(device: torch.device, processes: int = 1) -> int:
    """Processes that load data: none on a CPU, whose cores the network needs itself; else all cores but one, at most 8, shared by `processes` that train."""
    return 0 if device.type == "cpu" else max(1, min(8, ((os.cpu_count() or 2) - 1) // processes))


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
    validate_only
        Validate ``checkpoint_final.pth`` without training.
    validate_best
        The validation, after a training or without one, is of ``checkpoint_best.pth``.
    pretrained_weights
        File whose network weights are the start: a checkpoint, or a plain state dict; in dense prediction without the last layers where
        they are for other labels.
    save_probabilities
        Whether the validation keeps the probabilities of label maps, for ensembles.
    **build
        As in :func:`build_trainer`. Of several `ranks` the first alone writes, validates, and returns a summary.
    """
    _take_splits(workspace, dataset, build.get("listeners"))
    start = None if pretrained_weights is None else load_checkpoint(Path(pretrained_weights), weights_only=True)
    alone = os.environ.get("WORLD_SIZE", "1") == "1"  # of several processes none may fill the folder that the others read
    trainer = build_trainer(workspace, dataset, configuration, fold, preprocess=alone and not validate_only, **build)
    trainer.save_probabilities, trainer.validates_best = save_probabilities, validate_best
    _check_best(trainer, validate_best, validate_only)
    folder = trainer.output_folder
    if trainer.ranks.size > 1:
        if validate_only or validate_best:
            raise ConfigurationError("--val and --val_best are the work of one process. Leave out -num_gpus or torchrun.")
        join(trainer)
    if validate_only:
        trainer.load_checkpoint(folder / (BEST if validate_best else FINAL), weights_only=True)
        writable_folder(folder)
        with held(folder, "trained or validated", TrainingError):
            return _told(trainer, trainer.perform_actual_validation())
    goes_on = resumable(folder, trainer.plan.checkpoints.numbered(None)) if continue_training else []
    if not goes_on and not continue_training and (folder / FINAL).is_file() and start is None and _finished(trainer):
        best = " --val_best" if validate_best else ""
        raise TrainingError(
            f"{folder}: is trained to its end. Continue it with more epochs (-c --epochs N), validate it (--val{best}), or remove the folder to train anew."
        )
    if goes_on:
        latest = _gone_on(trainer, goes_on)
        trainer.notes += [] if start is None else [f"{latest} goes on; {pretrained_weights} is not read again"]
    elif start is not None:
        start_from(trainer, start, Path(str(pretrained_weights)))
    if not goes_on:
        trainer.begin_after_stage_before()
    if trainer.ranks.leads:
        writable_folder(folder)  # not before: weights that do not fit leave no empty folder
    alone_here = held(folder, "trained or validated", TrainingError) if trainer.ranks.leads else contextlib.nullcontext()
    with left_in_order(trainer.ranks), alone_here:
        return _told(trainer, trainer.run_training())


def _gone_on(trainer: nnRegTrainer, checkpoints: Sequence[Path]) -> Path:
    """Load the first checkpoint that is whole, and say which ones are not.

    Raises
    ------
    TrainingError
        If none is: that of the first. If one does not fit the network, others will not either.
    """
    failures: list[TrainingError] = []
    for path in checkpoints:
        try:
            load_checkpoint(path)
        except TrainingError as error:
            failures.append(error)
            continue
        trainer.load_checkpoint(path)
        notes = [f"{str(failure).splitlines()[0]} Went on from {path.name}, epoch {trainer.current_epoch}, instead" for failure in failures]
        trainer.notes += notes
        if trainer.listeners.line is not None and trainer.ranks.leads and notes:
            trainer.listeners.line("\n".join(notes))
        return path
    raise failures[0]


def _told(trainer: nnRegTrainer, summary: dict[str, Any]) -> dict[str, Any]:
    """Say where the results are and what comes next."""
    if trainer.listeners.line is not None and trainer.ranks.leads:
        named = [(DEFAULT_TRAINER, trainer.name, "-tr"), (DEFAULT_PLANS, trainer.plans.plans_name, "-p")]
        more = "".join(f" {option} {name}" for usual, name, option in named if name != usual)
        number = trainer.plans.dataset_name[7:10]
        trainer.listeners.line(f"results: {trainer.output_folder}")
        trainer.listeners.line(f"next: nnreg_predict -d {number} -c {trainer.configuration_name}{more} -i IMAGES -o OUT")
    if trainer.ranks.leads:
        trainer.listeners.finished(trainer.output_folder)
    return summary


def _take_splits(workspace: Workspace, dataset: int | str, listeners: Listeners | None) -> None:
    """The user's own splits_final.json in the dataset folder counts, even where it was written after planning."""
    raw, kept = workspace.raw_folder(dataset), workspace.preprocessed_folder(dataset) / SPLITS
    if (raw / SPLITS).is_file() and kept.is_file():
        load_or_make_splits(kept, RawDataset.open(raw), on_note=None if listeners is None else listeners.line)


def _check_best(trainer: nnRegTrainer, validate_best: bool, validate_only: bool) -> None:
    """Without validation during training there is no best checkpoint: told before the training, not after."""
    if validate_best and not validate_only and not trainer.plan.validate_every:
        raise TrainingError("--val_best: validate_every is 0, so no epoch is found to be the best. Leave --val_best out, or validate during training.")


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
