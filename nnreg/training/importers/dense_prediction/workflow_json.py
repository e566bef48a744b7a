"""JSON workflow of nodes (loader, network, loss, optimiser, trainer), whose values are text; also one node, or the inside of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnreg.errors import ConfigurationError, did_you_mean
from nnreg.training.configs.trainer_config import TrainerConfig
from nnreg.training.importers.dense_prediction.folders import labelled_folder
from nnreg.training.importers.run import ImportedRun

LOADER = ("data_dir", "batch_size", "image_size", "augmentation", "augmentation_strength", "spacing", "num_workers")
NETWORKS = {
    "UNet2D": ("plain_unet", ("in_channels", "out_channels", "base_channels")),
    "UNet3D": ("plain_unet", ("in_channels", "out_channels", "base_channels")),
    "SwinUNETR": ("swin_unetr", ("img_size", "in_channels", "out_channels", "embed_dim")),
}
LOSSES = {
    "dice": ("smooth",),
    "cross_entropy": ("class_weights",),
    "focal": ("alpha", "gamma"),
    "combined": ("dice_weight", "ce_weight", "focal_weight", "boundary_weight", "smooth", "class_weights", "alpha", "gamma"),
}
OPTIMIZERS = {"Adam": ("betas", "eps"), "AdamW": ("betas", "eps"), "SGD": ("momentum", "nesterov")}
SCHEDULES = {"step": ("step_size", "gamma"), "cosine": ("T_max", "eta_min"), "plateau": ("patience", "factor"), "poly": ("exponent",), "constant": ()}
TRAINER: dict[str, str] = {
    "epochs": "epochs",
    "batch_size": "batch_size",
    "learning_rate": "learning_rate",
    "weight_decay": "weight_decay",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "gradient_clip": "gradient_clip",
    "gradient_clip_type": "gradient_clip_type",
    "warmup_epochs": "warmup_epochs",
    "save_frequency": "checkpoints.every",
    "save_best_only": "checkpoints.best_only",
    "monitor": "monitor",
    "min_delta": "early_stopping.min_delta",
}
HANDLED = ("device", "mixed_precision", "warmup_type", "checkpoint_dir", "lr_schedule", "early_stopping", "patience", "augmentation", "augmentation_strength")
ALL_KEYS = {*TRAINER, *HANDLED, "loss_type", "optimizer_type", *(key for keys in (*SCHEDULES.values(), *LOSSES.values(), *OPTIMIZERS.values()) for key in keys)}
PATIENCE = 10  # of early stopping where none is said
STRENGTHS = {"weak": 0.5, "medium": 1.0, "strong": 1.5}


def nodes_of(content: Any) -> list[dict[str, Any]] | None:
    """The nodes of parsed JSON: a workflow's, or the one it is; None if it is neither."""
    if isinstance(content, Mapping) and isinstance(content.get("nodes"), Sequence):
        return [dict(node) for node in content["nodes"]]
    return [dict(content)] if isinstance(content, Mapping) and "type" in content and "config" in content else None


def read(nodes: list[dict[str, Any]], source: Path) -> ImportedRun:
    """The run that the nodes describe.

    Raises
    ------
    ConfigurationError
        Unknown kind of node, key, loss, optimiser or schedule, each with the nearest valid one.
    """
    recipe, dataset, device, notes = TrainerConfig(), None, "auto", []
    readers = {"LossFunction": _loss, "Optimizer": _optimizer, "Trainer": _trainer}
    kinds = [*readers, *NETWORKS, "MedicalSegmentationLoader"]
    out_channels = 2
    for node in nodes:
        kind, config = str(node.get("type")), dict(node.get("config", {}))
        where = f"{source}: {node.get('name', kind)}"
        if kind not in kinds:
            raise ConfigurationError(f"{where}: node type {kind!r} is unknown; {did_you_mean(kind, kinds)}")
        if kind == "MedicalSegmentationLoader":
            recipe = recipe.merged(_loader(config, where))
        elif kind in NETWORKS:
            recipe = recipe.merged(_network(kind, config, where))
            out_channels = int(config.get("out_channels", 2))
        else:
            recipe = recipe.merged(readers[kind](config, where))
        device = str(config.get("device", device)) if kind == "Trainer" else device
        if "checkpoint_dir" in config:
            notes.append(f"checkpoint_dir {config['checkpoint_dir']}: checkpoints lie in nnReg_results")
    loader = next((node for node in nodes if node.get("type") == "MedicalSegmentationLoader"), None)
    if loader is not None:
        folder = Path(str(loader["config"].get("data_dir", "")))
        folder = folder if folder.is_absolute() else source.parent / folder
        dataset = labelled_folder(folder, name=source.stem, classes=out_channels) if folder.is_dir() else None
        if dataset is None:
            notes.append(f"data_dir {folder}: does not exist; name a dataset, or put images/ and labels/ there")
    return ImportedRun(recipe, dataset, device, notes=tuple(notes))


def _known(config: Mapping[str, Any], valid: Sequence[str], where: str) -> None:
    for key in config:
        if key not in valid:
            raise ConfigurationError(f"{where}: unknown key {key!r}; {did_you_mean(key, valid)}")


def _loader(config: dict[str, Any], where: str) -> TrainerConfig:
    _known(config, LOADER, where)
    training: dict[str, Any] = {"batch_size": config["batch_size"]} if "batch_size" in config else {}
    return TrainerConfig(training=training | _augmentation(config, where))


def _augmentation(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Off, or as planned; ``strong`` makes every rotation and scaling half as large again."""
    if config.get("augmentation") is False:
        return {"augmentation": {}}
    strength = config.get("augmentation_strength")
    if strength is None:
        return {}
    if strength not in STRENGTHS:
        raise ConfigurationError(f"{where}: augmentation_strength {strength!r} is unknown; {did_you_mean(str(strength), STRENGTHS)}")
    factor = STRENGTHS[strength]
    return {"augmentation.spatial.rotation_degrees": 10.0 * factor, "augmentation.spatial.log_scale": 0.1 * factor}


def _network(kind: str, config: dict[str, Any], where: str) -> TrainerConfig:
    name, valid = NETWORKS[kind]
    _known(config, valid, where)
    options = {"feature_size": config["embed_dim"]} if "embed_dim" in config else {}
    training = {"architecture.base_features": config["base_channels"]} if "base_channels" in config else {}
    # channels in and out are the dataset's; the size is the plan's
    return TrainerConfig(name, options, training=training, description=f"{kind}, imported")


def _loss(config: dict[str, Any], where: str) -> TrainerConfig:
    kwargs = dict(config)
    name = str(kwargs.pop("loss_type", "combined"))
    if name not in LOSSES:
        raise ConfigurationError(f"{where}: loss_type {name!r} is unknown; {did_you_mean(name, LOSSES)}")
    _known(kwargs, LOSSES[name], where)
    if name == "combined":
        inner = {"dice_kwargs": ("smooth",), "ce_kwargs": ("class_weights",), "focal_kwargs": ("alpha", "gamma")}
        for part, keys in inner.items():
            given = {key: kwargs.pop(key) for key in keys if key in kwargs}
            kwargs |= {part: given} if given else {}
    return TrainerConfig(loss=name, loss_kwargs=kwargs)


def _optimizer(config: dict[str, Any], where: str) -> TrainerConfig:
    kwargs = dict(config)
    name = str(kwargs.pop("optimizer_type", "Adam"))
    if name not in OPTIMIZERS:
        raise ConfigurationError(f"{where}: optimizer_type {name!r} is unknown; {did_you_mean(name, OPTIMIZERS)}")
    _known(kwargs, ("learning_rate", "weight_decay", *OPTIMIZERS[name]), where)
    training: dict[str, Any] = {key: kwargs.pop(key) for key in ("learning_rate", "weight_decay") if key in kwargs}
    return TrainerConfig(training={"optimizer": name.lower(), "optimizer_kwargs": kwargs, **training})


def _trainer(config: dict[str, Any], where: str) -> TrainerConfig:
    """The trainer's node; keys of a loss or an optimiser are taken here too, as guides print them outside of any node."""
    rest = dict(config)
    training: dict[str, Any] = {TRAINER[key]: rest.pop(key) for key in TRAINER if key in rest}
    training |= _augmentation(rest, where)
    stops = bool(rest.pop("early_stopping", False))
    if stops:
        training["early_stopping.patience"] = rest.pop("patience", PATIENCE)
    if "mixed_precision" in rest:
        training["mixed_precision"] = "auto" if rest.pop("mixed_precision") else "off"
    if rest.pop("warmup_type", "linear") != "linear":
        raise ConfigurationError(f"{where}: warmup_type {config['warmup_type']!r} is unknown; valid: linear")
    recipe = TrainerConfig()
    for key, reader, keys in (("loss_type", _loss, LOSSES), ("optimizer_type", _optimizer, OPTIMIZERS)):
        if key in rest:
            own = {key, *keys.get(str(rest[key]), ())}
            recipe = recipe.merged(reader({name: rest.pop(name) for name in list(rest) if name in own}, where))
    if "lr_schedule" in rest:
        name = str(rest.pop("lr_schedule"))
        if name not in SCHEDULES:
            raise ConfigurationError(f"{where}: lr_schedule {name!r} is unknown; {did_you_mean(name, SCHEDULES)}")
        training |= {"lr_schedule": name, "lr_schedule_kwargs": {key: rest.pop(key) for key in SCHEDULES[name] if key in rest}}
    for key in ("device", "checkpoint_dir", "augmentation", "augmentation_strength"):
        rest.pop(key, None)
    if rest:
        key = next(iter(rest))
        raise ConfigurationError(f"{where}: unknown key {key!r}; {did_you_mean(key, [*TRAINER, *HANDLED])}")
    return recipe.merged(TrainerConfig(training=training))
