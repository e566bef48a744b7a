"""What a YAML of a training with several targets may say: ``tr_setup``, ``tr_config``, ``model_config``, ``dataset_config``, ``auxiliary_tasks``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnreg.dataset.target_spec import LossEntry
from nnreg.errors import ConfigurationError
from nnreg.typed import from_mapping


@dataclass(frozen=True)
class Target:
    """What the network predicts; `channels` and `out_channels` are the same."""

    out_channels: int | None = None
    channels: int | None = None
    activation: str | None = None
    losses: tuple[LossEntry, ...] = ()
    weight: float = 1.0


@dataclass(frozen=True)
class Auxiliary:
    """What is derived from the labels of a target and learnt beside it."""

    type: str
    source_target: str
    losses: tuple[LossEntry, ...]
    loss_weight: float = 1.0
    out_channels: int | None = None
    distance_type: str = "signed"
    compute_from: str = "sdt"
    grad_sigma: float = 1.0
    tensor_sigma: float = 1.5
    ds_interpolation: str = "linear"


@dataclass(frozen=True)
class Setup:
    """``tr_setup``."""

    model_name: str | None = None
    autoconfigure: bool = True
    tr_val_split: float = 0.9
    ckpt_out_base: str | None = None
    tensorboard_log_dir: str | None = None
    checkpoint_path: str | None = None
    load_weights_only: bool = False


@dataclass(frozen=True)
class Config:
    """``tr_config``."""

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
    num_dataloader_workers: int | None = None
    early_stopping_patience: int = 0
    val_every_n: int = 1
    amp: bool = True
    seed: int = 12345


@dataclass(frozen=True)
class Model:
    """``model_config``."""

    in_channels: int | None = None
    features_per_stage: tuple[int, ...] | None = None
    base_features: int | None = None
    deep_supervision: bool = True


@dataclass(frozen=True)
class Data:
    """``dataset_config``."""

    data_path: str | None = None
    targets: dict[str, Target] = field(default_factory=dict)
    in_channels: int | None = None
    min_labeled_ratio: float | None = None
    min_bbox_percent: float | None = None
    normalization_scheme: str | None = None
    use_cache: bool = True
    loss_on_label_only: bool = False


@dataclass(frozen=True)
class TargetFile:
    """The whole file."""

    tr_setup: Setup = field(default_factory=Setup)
    tr_config: Config = field(default_factory=Config)
    model_config: Model = field(default_factory=Model)
    dataset_config: Data = field(default_factory=Data)
    inference_config: dict[str, Any] = field(default_factory=dict)
    auxiliary_tasks: dict[str, Auxiliary] = field(default_factory=dict)


BLOCKS = tuple(each.name for each in dataclasses.fields(TargetFile))

UNUSED: Mapping[str, str] = {
    "tr_setup.checkpoint_path": "not read. To start from a checkpoint of nnReg: nnreg_train ... -pretrained_weights FILE, to go on with a training: -c",
    "tr_setup.load_weights_only": "-pretrained_weights reads the weights alone, -c everything",
    "tr_setup.tensorboard_log_dir": "curves are written to tensorboard/ in the folder of the fold",
    "dataset_config.use_cache": "the images are preprocessed once, trainings read the arrays",
    "inference_config": "is for predictions: give its values to nnreg_predict",
}
"""Keys that are read and have no effect, each with the reason that is printed."""


def parsed(content: Mapping[str, Any], where: str) -> TargetFile:
    """The file from parsed YAML; a target with nothing behind its name has no keys.

    Raises
    ------
    ConfigurationError
        Unknown key, with the nearest valid one, or a value of the wrong type.
    """
    data = content.get("dataset_config")
    if isinstance(data, Mapping) and isinstance(data.get("targets"), Mapping):
        targets = {name: {} if target is None else target for name, target in data["targets"].items()}
        content = {**content, "dataset_config": {**data, "targets": targets}}
    return from_mapping(TargetFile, content, where=where, error=ConfigurationError)


def unused(content: Mapping[str, Any]) -> list[str]:
    """A sentence for each key of the file that has no effect."""
    found = []
    for key, reason in UNUSED.items():
        block, _, inner = key.partition(".")
        value = content.get(block)
        if value is not None and (not inner or (isinstance(value, Mapping) and value.get(inner) is not None)):
            found.append(f"{key}: {reason}")
    return found


def settings(file: TargetFile) -> dict[str, Any]:
    """The file as it can be written: every value, but of keys without effect only what was given."""
    content: dict[str, Any] = said(file)
    for key in UNUSED:
        block, _, inner = key.partition(".")
        if not inner and not content[block]:
            del content[block]
        elif inner and getattr(getattr(file, block), inner) == getattr(getattr(TargetFile(), block), inner):
            content[block].pop(inner, None)
    return content


def said(value: Any) -> Any:
    """Plain values of a dataclass, or of what holds some, without keys that say nothing."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return said({each.name: getattr(value, each.name) for each in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {str(key): said(item) for key, item in value.items() if item is not None}
    if isinstance(value, Path):
        return str(value)
    return [said(item) for item in value] if isinstance(value, (list, tuple)) else value
