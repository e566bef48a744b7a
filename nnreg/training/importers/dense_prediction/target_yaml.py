"""YAML of trainings with several targets: ``tr_setup``, ``tr_config``, ``model_config``, ``dataset_config``, ``auxiliary_tasks``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnreg.errors import ConfigurationError, did_you_mean
from nnreg.training.configs.trainer_config import TrainerConfig
from nnreg.training.importers.dense_prediction.folders import labelled_folder
from nnreg.training.importers.run import ImportedRun
from nnreg.typed import from_mapping

AUXILIARY = ("distance_transform", "surface_normals", "structure_tensor", "inplane_direction")
DISTANCES = ("signed", "inside", "outside")
ACTIVATIONS = ("sigmoid", "softmax", "none")
SCHEDULERS = {"cosine": "cosine", "cosineannealinglr": "cosine", "poly": "poly", "constant": "constant", "step": "step", "plateau": "plateau"}
FORMATS = ("zarr", "tif", "napari", "image")


@dataclass(frozen=True)
class _LossEntry:
    name: str
    weight: float = 1.0
    kwargs: dict[str, Any] = field(default_factory=dict)
    start_epoch: int = 0


@dataclass(frozen=True)
class _Target:
    out_channels: int | None = None
    channels: int | None = None
    activation: str | None = None
    losses: tuple[_LossEntry, ...] = ()
    weight: float = 1.0


@dataclass(frozen=True)
class _Auxiliary:
    type: str
    source_target: str
    losses: tuple[_LossEntry, ...]
    loss_weight: float = 1.0
    out_channels: int | None = None
    distance_type: str = "signed"
    compute_from: str = "sdt"
    grad_sigma: float = 1.0
    tensor_sigma: float = 1.5
    ds_interpolation: str = "linear"


@dataclass(frozen=True)
class _Setup:
    model_name: str = "Model"
    autoconfigure: bool = True
    tr_val_split: float = 0.9
    ckpt_out_base: str | None = None
    tensorboard_log_dir: str | None = None
    checkpoint_path: str | None = None
    load_weights_only: bool = False


@dataclass(frozen=True)
class _Config:
    optimizer: str = "AdamW"
    initial_lr: float = 1e-3
    weight_decay: float = 0.0
    batch_size: int = 2
    patch_size: tuple[int, ...] | None = None
    max_epoch: int = 1000
    max_steps_per_epoch: int = 250
    max_val_steps_per_epoch: int = 50
    gradient_accumulation: int = 1
    gradient_clip: float = 12.0
    scheduler: str = "cosine"
    num_dataloader_workers: int = 4
    early_stopping_patience: int = 0
    val_every_n: int = 1
    amp: bool = True
    seed: int = 12345


@dataclass(frozen=True)
class _Model:
    in_channels: int | None = None
    features_per_stage: tuple[int, ...] | None = None
    base_features: int | None = None
    deep_supervision: bool = True


@dataclass(frozen=True)
class _Dataset:
    data_path: str | None = None
    targets: dict[str, _Target] = field(default_factory=dict)
    in_channels: int | None = None
    min_labeled_ratio: float | None = None
    min_bbox_percent: float | None = None
    normalization_scheme: str | None = None
    use_cache: bool = True
    loss_on_label_only: bool = False


@dataclass(frozen=True)
class _File:
    tr_setup: _Setup = field(default_factory=_Setup)
    tr_config: _Config = field(default_factory=_Config)
    model_config: _Model = field(default_factory=_Model)
    dataset_config: _Dataset = field(default_factory=_Dataset)
    inference_config: dict[str, Any] = field(default_factory=dict)
    auxiliary_tasks: dict[str, _Auxiliary] = field(default_factory=dict)


BLOCKS = tuple(each.name for each in dataclasses.fields(_File))


def read(
    content: dict[str, Any],
    source: Path,
    *,
    data_path: str | None = None,
    format: str | None = None,
    batch_size: int | None = None,
    patch_size: str | None = None,
    loss: str | None = None,
    train_split: float | None = None,
    loss_on_label_only: bool | None = None,
) -> ImportedRun:
    """The run of a parsed file. What the command line says stands over what the file says.

    Parameters
    ----------
    content, source
        Of the file; `source` is the data folder itself where there is no file.
    data_path
        Folder with ``images/``, ``labels/``, ``masks/``.
    format
        Of the images; the endings tell it, so it is only checked.
    batch_size, patch_size, loss, train_split, loss_on_label_only
        As the original command has them: ``"192,192,192"``, ``"SoftDiceLoss,BCEWithLogitsLoss"``.
    """
    file = from_mapping(_File, content, where=str(source), error=ConfigurationError)
    if format is not None and format not in FORMATS:
        raise ConfigurationError(f"--format {format!r} is unknown; {did_you_mean(format, FORMATS)}")
    losses = tuple(_LossEntry(name.strip()) for name in loss.split(",")) if loss else ()
    targets = {name: dataclasses.replace(target, losses=losses or target.losses) for name, target in file.dataset_config.targets.items()}
    _check(targets, file.auxiliary_tasks, str(source))
    config = file.tr_config if batch_size is None else dataclasses.replace(file.tr_config, batch_size=batch_size)
    share = file.tr_setup.tr_val_split if train_split is None else train_split
    if not 0 < share <= 1:
        raise ConfigurationError(f"{source}: the training share is {share}, expected a number above 0 and at most 1, such as 0.9.")
    notes = (
        [] if patch_size is None and config.patch_size is None else [f"patch_size {patch_size or list(config.patch_size or ())}: the plan's own patch is used"]
    )
    folder = _data_folder(file, source, data_path)
    if folder is None:
        return ImportedRun(_recipe(config, file), None, notes=(*notes, "no data_path: name a dataset, or give -i"))
    only = file.dataset_config.loss_on_label_only if loss_on_label_only is None else loss_on_label_only
    dataset = labelled_folder(
        folder,
        name=file.tr_setup.model_name if content else folder.name,
        classes=2,
        targets={name: _plain(target) | ({"loss_on_label_only": True} if only else {}) for name, target in targets.items()},
        auxiliary_tasks={name: _plain(task) for name, task in file.auxiliary_tasks.items()},
        validation_share=1 - share,
    )
    return ImportedRun(_recipe(config, file), dataset, notes=tuple(notes))


def _data_folder(file: _File, source: Path, given: str | None) -> Path | None:
    named = given or file.dataset_config.data_path
    if named is None:
        return source.parent if (source.parent / "images").is_dir() else None
    return Path(named) if Path(named).is_absolute() or given else source.parent / named


def _check(targets: dict[str, _Target], auxiliary: dict[str, _Auxiliary], where: str) -> None:
    for name, target in targets.items():
        if target.activation is not None and target.activation not in ACTIVATIONS:
            raise ConfigurationError(f"{where}: targets.{name}.activation {target.activation!r} is unknown; {did_you_mean(target.activation, ACTIVATIONS)}")
    choices: Sequence[tuple[str, Sequence[str]]] = (("type", AUXILIARY), ("distance_type", DISTANCES), ("compute_from", ("sdt", "binary")))
    for name, task in auxiliary.items():
        for key, valid in choices:
            value = getattr(task, key)
            if value not in valid:
                raise ConfigurationError(f"{where}: auxiliary_tasks.{name}.{key} {value!r} is unknown; {did_you_mean(value, valid)}")
        if targets and task.source_target not in targets:
            found = did_you_mean(task.source_target, targets)
            raise ConfigurationError(f"{where}: auxiliary_tasks.{name}.source_target {task.source_target!r} is no target; {found}")


def _recipe(config: _Config, file: _File) -> TrainerConfig:
    schedule = SCHEDULERS.get(config.scheduler.lower())
    if schedule is None:
        raise ConfigurationError(f"tr_config.scheduler {config.scheduler!r} is unknown; {did_you_mean(config.scheduler, SCHEDULERS)}")
    training: dict[str, Any] = {
        "optimizer": config.optimizer.lower(),
        "learning_rate": config.initial_lr,
        "weight_decay": config.weight_decay,
        "batch_size": config.batch_size,
        "epochs": config.max_epoch,
        "iterations_per_epoch": config.max_steps_per_epoch,
        "validation_iterations": config.max_val_steps_per_epoch,
        "gradient_accumulation_steps": config.gradient_accumulation,
        "gradient_clip": config.gradient_clip,
        "lr_schedule": schedule,
        "validate_every": config.val_every_n,
        "early_stopping.patience": config.early_stopping_patience,
        "mixed_precision": "auto" if config.amp else "off",
        "seed": config.seed,
        "checkpoints.every": 1,
        "checkpoints.keep_last": 10,
        "tracking.picture": True,
    }
    shares = {"min_labeled_ratio": file.dataset_config.min_labeled_ratio, "min_bbox_percent": file.dataset_config.min_bbox_percent}
    training |= {name: share for name, share in shares.items() if share is not None}
    if file.model_config.features_per_stage is not None:
        training["architecture.features_per_stage"] = list(file.model_config.features_per_stage)
    elif file.model_config.base_features is not None:
        training["architecture.base_features"] = file.model_config.base_features
    return TrainerConfig(training=training, description=f"{file.tr_setup.model_name}, imported")


def _plain(instance: Any) -> dict[str, Any]:
    """A target or auxiliary task as dataset.json holds it: what says something."""
    content = {name: value for name, value in dataclasses.asdict(instance).items() if value is not None}
    if "channels" in content:
        content["out_channels"] = content.pop("channels")
    if isinstance(content.get("losses"), (list, tuple)):
        content["losses"] = [{key: value for key, value in entry.items() if key != "start_epoch" or value} for entry in content["losses"]]
    return content
