"""JSON workflow of nodes (loader, network, loss, optimiser, trainer), whose values are text; also one node, or the inside of one.

Every key either arrives in the recipe or the dataset, or a note says what becomes of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnreg.dataset.label_files import values_in
from nnreg.errors import ConfigurationError, DatasetError, did_you_mean
from nnreg.imageio import is_large, open_image, read_image
from nnreg.planning.plans import Plans
from nnreg.training.configs.trainer_config import TRAINER_CONFIGS, TrainerConfig
from nnreg.training.importers.dense_prediction.folders import labelled_folder
from nnreg.training.importers.run import ImportedDataset, ImportedRun

LOADER_TYPE = "MedicalSegmentationLoader"
LOADER = ("data_dir", "batch_size", "image_size", "augmentation", "augmentation_strength", "spacing", "num_workers")
CHANNELS = ("in_channels", "out_channels")
NETWORKS: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "UNet2D": ("plain_unet", 2, (*CHANNELS, "base_channels")),
    "UNet3D": ("plain_unet", 3, (*CHANNELS, "base_channels")),
    "SwinUNETR": ("swin_unetr", 3, ("img_size", *CHANNELS, "embed_dim")),
}
"""Type of a node to our network, its axes and the node's keys."""
NEAREST = {
    "vnet": "resenc_unet, a residual U-Net",
    "segresnet": "resenc_unet, a residual U-Net",
    "deeplabv3plus": "plain_unet with -tr deeplab_preset",
    "transunet": "primus or swin_unetr with -tr transformer_preset",
    "unetr": "primus or swin_unetr with -tr transformer_preset",
}
LOSSES = {
    "dice": ("smooth",),
    "cross_entropy": ("class_weights",),
    "focal": ("alpha", "gamma"),
    "combined": ("dice_weight", "ce_weight", "focal_weight", "boundary_weight", "smooth", "class_weights", "alpha", "gamma"),
}
COMBINED = {"dice": ("smooth",), "ce": ("class_weights",), "focal": ("alpha", "gamma")}  # whose arguments are whose
OPTIMIZERS = {"Adam": ("betas", "eps"), "AdamW": ("betas", "eps"), "SGD": ("momentum", "nesterov")}
SCHEDULES = {"step": ("step_size", "gamma"), "cosine": ("T_max", "eta_min"), "plateau": ("patience", "factor"), "poly": ("exponent",), "constant": ()}
OTHER_SCHEDULES = {"polynomial": "poly"}
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
}
HANDLED = (
    *("device", "mixed_precision", "warmup_type", "checkpoint_dir", "lr_schedule", "early_stopping", "patience", "min_delta"),
    *("augmentation", "augmentation_strength"),
)
ALL_KEYS = {*TRAINER, *HANDLED, "loss_type", "optimizer_type", *(key for keys in (*SCHEDULES.values(), *LOSSES.values(), *OPTIMIZERS.values()) for key in keys)}
PATIENCE = 10  # of early stopping, and of a plateau, where none is said
STRENGTHS = {"weak": "weak_augmentation", "medium": None, "strong": "strong_augmentation"}
MONITORS = ("val_dice", "val_loss", "val_iou", "val_precision", "val_recall", "val_accuracy", "train_loss")
DEVICES = ("cuda", "cpu", "mps", "auto")


@dataclass(frozen=True)
class _Part:
    """What a node gives: its share of the recipe, and what became of keys that are not in it."""

    recipe: TrainerConfig = field(default_factory=TrainerConfig)
    notes: tuple[str, ...] = ()

    def joined(self, other: _Part, where: str) -> _Part:
        """Both; two nodes that say different things of one option are refused."""
        mine, its = self.recipe.training, other.recipe.training
        for key in mine:
            if key in its and mine[key] != its[key]:
                raise ConfigurationError(f"{where}: {key} is {its[key]!r}, another node says {mine[key]!r}. Keep one of them.")
        try:
            return _Part(self.recipe.merged(other.recipe), self.notes + other.notes)
        except ConfigurationError as error:
            raise ConfigurationError(f"{where}: {error}") from error


def is_workflow(content: Any) -> bool:
    """Whether parsed JSON is a workflow, or a node by itself."""
    return isinstance(content, Mapping) and (isinstance(content.get("nodes"), Sequence) or {"type", "config"} <= set(content))


def read(content: Mapping[str, Any], source: Path) -> ImportedRun:
    """The run that a workflow or a node describes.

    Raises
    ------
    ConfigurationError
        Unknown kind of node, key, loss, optimiser or schedule, each with the nearest valid one; nodes that contradict each other; what a training
        would refuse.
    DatasetError
        A data folder that does not fit the network.
    """
    nodes, notes = _nodes(content, source)
    found = _Part(notes=notes)
    for node in nodes:
        where = f"{source}: {node.get('name', node['type'])}"
        found = found.joined(_READERS[node["type"]](node["config"], where), where)
    by_type: dict[str, dict[str, Any]] = {node["type"]: node["config"] for node in nodes}
    network = next((kind for kind in NETWORKS if kind in by_type), None)
    classes = _classes(found.recipe, by_type.get(network or "", {}))
    recipe = dataclasses.replace(found.recipe, description=str(content.get("workflow", found.recipe.description)))
    try_recipe(recipe, ndim=NETWORKS[network][1] if network else 2, classes=classes, where=str(source))
    loader, trainer = by_type.get(LOADER_TYPE, {}), by_type.get("Trainer", {})
    dataset, more = _dataset(loader, source, network, by_type.get(network or "", {})) if "data_dir" in loader else (None, ())
    workers = loader.get("num_workers")
    return ImportedRun(recipe, dataset, str(trainer.get("device", "auto")), workers=workers, notes=found.notes + more)


def try_recipe(recipe: TrainerConfig, **more: Any) -> None:
    """See :func:`nnreg.training.importers.dense_prediction.trial.try_recipe`, whose networks take seconds to import."""
    from nnreg.training.importers.dense_prediction.trial import try_recipe as tried

    tried(recipe, **more)


def _nodes(content: Mapping[str, Any], source: Path) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Nodes with ``type`` and ``config``, at most one of a kind, and notes on what else the file says."""
    whole = "nodes" in content
    nodes, notes = [], [f"{key}: not used, a workflow is its nodes" for key in content if whole and key not in ("workflow", "nodes")]
    for position, node in enumerate(content["nodes"] if whole else [content]):
        where = f"{source}: node {position + 1}"
        if not isinstance(node, Mapping) or not isinstance(node.get("config", {}), Mapping):
            raise ConfigurationError(f"{where}: expected an object with type, name and config.")
        kind = str(node.get("type"))
        if kind not in _READERS:
            raise ConfigurationError(f"{where}: {_unknown_type(kind)}")
        other = [key for key in node if key not in ("type", "name", "config")]
        if other and "config" not in node:
            raise ConfigurationError(f"{where}: unknown key {other[0]!r}; {did_you_mean(other[0], ('type', 'name', 'config'))}")
        notes += [f"{key} of {node.get('name', kind)}: not used, a node is its type and config" for key in other]
        nodes.append({**node, "type": kind, "config": dict(node.get("config", {}))})
    groups = [[node["type"] for node in nodes if node["type"] in group] for group in (NETWORKS, *([kind] for kind in _READERS if kind not in NETWORKS))]
    twice = next((group for group in groups if len(group) > 1), None)
    if twice:
        raise ConfigurationError(f"{source}: holds {len(twice)} nodes of a kind ({', '.join(twice)}). Keep one of them.")
    return nodes, tuple(notes)


def _unknown_type(kind: str) -> str:
    nearest = NEAREST.get("".join(letter for letter in kind.lower().removesuffix("2d").removesuffix("3d").replace("+", "plus") if letter.isalnum()))
    if nearest is not None:
        return f"nnReg has no network {kind!r}. The nearest is {nearest}."
    return f"node type {kind!r} is unknown; {did_you_mean(kind, _READERS)}"


def _classes(recipe: TrainerConfig, network: Mapping[str, Any]) -> int:
    """Labels with background: those of the network, else as many as there are class weights."""
    weights = recipe.loss_kwargs.get("class_weights") or recipe.loss_kwargs.get("ce_kwargs", {}).get("class_weights") or (1, 1)
    count = network.get("out_channels", len(weights) if isinstance(weights, Sequence) else 2)
    return max(2, count) if isinstance(count, int) else 2


def _dataset(loader: Mapping[str, Any], source: Path, kind: str | None, network: Mapping[str, Any]) -> tuple[ImportedDataset | None, tuple[str, ...]]:
    """The dataset of the loader's folder; none, and a note, where there is no such folder."""
    folder = Path(str(loader["data_dir"]))
    folder = folder if folder.is_absolute() else source.parent / folder
    if not folder.is_dir():
        return None, (f"data_dir {folder}: does not exist; name a dataset, or put images/ and labels/ there",)
    classes = max(2, network.get("out_channels", 2))
    dataset = labelled_folder(folder, name=source.stem, classes=classes)
    ndim = _check_images(folder, network.get("in_channels", 1))
    _check_labels(folder, classes)
    if kind is not None and NETWORKS[kind][1] == 3 and ndim == 2:
        raise ConfigurationError(f"{source}: {kind} is for volumes, {folder / 'images'} holds slices. Use UNet2D.")
    return dataclasses.replace(dataset, plan=_plan_2d) if kind is not None and NETWORKS[kind][1] == 2 else dataset, ()


def _check_images(folder: Path, channels: int) -> int:
    """2 if the first image of the folder is a slice, else 3; refuse another number of channels."""
    first = _files(folder / "images")[0]
    image = open_image(first) if is_large([first]) else read_image(first)
    if image.channels != channels:
        raise DatasetError(f"{first}: has {image.channels} channels, the network's in_channels is {channels}. Set in_channels, or convert the images.")
    return 2 if image.space.ndim == 2 or min(image.space.shape) == 1 else 3


def _check_labels(folder: Path, classes: int) -> None:
    """Refuse label files that hold more values than the network has outputs; those that do not fit into memory are read later."""
    for path in _files(folder / "labels"):
        values = set() if is_large([path]) else values_in(path) - {0}
        if len(values) >= classes:
            raise DatasetError(
                f"{path}: holds the labels {', '.join(map(str, sorted(values)))} beside 0, out_channels {classes} has room for {classes - 1}. "
                "Set out_channels to the number of labels and background, or renumber them."
            )


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if not path.name.startswith(".") and path.suffix != ".json"]


def _plan_2d(plans: Plans) -> Plans:
    return dataclasses.replace(plans, recommended="2d")


def _known(config: Mapping[str, Any], valid: Sequence[str], where: str) -> None:
    for key in config:
        if key not in valid:
            raise ConfigurationError(f"{where}: unknown key {key!r}; {did_you_mean(key, valid)}")


def _truth(config: dict[str, Any], key: str, where: str) -> bool | None:
    """The truth value of a key, taken out; None where it is not there."""
    value = config.pop(key, None)
    if value is not None and not isinstance(value, bool):
        raise ConfigurationError(f"{where}: {key} is {value!r}, expected true or false.")
    return value


def _loader(config: dict[str, Any], where: str) -> _Part:
    _known(config, LOADER, where)
    workers = config.get("num_workers", 0)
    if not isinstance(workers, int) or workers < 0:
        raise ConfigurationError(f"{where}: num_workers is {workers!r}, expected 0 or more.")
    training: dict[str, Any] = {"batch_size": config["batch_size"]} if "batch_size" in config else {}
    changes, notes = _augmentation(dict(config), where)
    return _Part(TrainerConfig(training=training | changes), (*notes, *_sizes(config)))


def _sizes(config: Mapping[str, Any]) -> list[str]:
    """Sizes that images are brought to elsewhere; here nothing is squeezed."""
    patches = "images keep their shape, and the plan's patch is what the network sees of them"
    why = {"image_size": patches, "img_size": patches, "spacing": "the plan's is used; nnreg_plan_experiment -overwrite_target_spacing sets another"}
    return [f"{key} {config[key]}: not used, {reason}" for key, reason in why.items() if key in config]


def _augmentation(config: dict[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
    """Options of the augmentation (taken out of `config`): off, as planned, or a recipe's; and notes."""
    on, strength = _truth(config, "augmentation", where), config.pop("augmentation_strength", None)
    if strength is not None and strength not in STRENGTHS:
        raise ConfigurationError(f"{where}: augmentation_strength {strength!r} is unknown; {did_you_mean(str(strength), STRENGTHS)}")
    if on is False:
        return {"augmentation": {}}, [f"augmentation_strength {strength}: not used, augmentation is off"] if strength else []
    recipe = STRENGTHS.get(strength or "medium")
    return (dict(TRAINER_CONFIGS[recipe].training), []) if recipe else ({}, [])


def _network(kind: str) -> Callable[[dict[str, Any], str], _Part]:
    name, _, valid = NETWORKS[kind]

    def reader(config: dict[str, Any], where: str) -> _Part:
        _known(config, valid, where)
        for key in CHANNELS:
            if key in config and (not isinstance(config[key], int) or config[key] < 1):
                raise ConfigurationError(f"{where}: {key} is {config[key]!r}, expected a whole number of 1 or more.")
        options = {"feature_size": config["embed_dim"]} if "embed_dim" in config else {}
        training = {"architecture.base_features": config["base_channels"]} if "base_channels" in config else {}
        channels = [f"{key} {config[key]}" for key in CHANNELS if key in config]
        notes = [f"{', '.join(channels)}: what the dataset has is used"] if channels else []
        return _Part(TrainerConfig(name, options, training=training, description=f"{kind}, imported"), (*notes, *_sizes(config)))

    return reader


def _loss(config: dict[str, Any], where: str) -> _Part:
    kwargs = dict(config)
    name = str(kwargs.pop("loss_type", "combined"))
    if name not in LOSSES:
        raise ConfigurationError(f"{where}: loss_type {name!r} is unknown; {did_you_mean(name, LOSSES)}")
    _known(kwargs, LOSSES[name], where)
    notes: list[str] = []
    if name == "combined":
        weights = [key.removesuffix("_weight") for key in kwargs if key.endswith("_weight")] or ["dice", "ce"]
        for part, keys in COMBINED.items():
            given = {key: kwargs.pop(key) for key in keys if key in kwargs}
            if part in weights:
                kwargs |= {f"{part}_kwargs": given} if given else {}
            else:
                notes += [f"{key} {value}: not used, there is no {part}_weight" for key, value in given.items()]
    return _Part(TrainerConfig(loss=name, loss_kwargs=kwargs), tuple(notes))


def _optimizer(config: dict[str, Any], where: str) -> _Part:
    kwargs = dict(config)
    name = str(kwargs.pop("optimizer_type", "Adam"))
    if name not in OPTIMIZERS:
        raise ConfigurationError(f"{where}: optimizer_type {name!r} is unknown; {did_you_mean(name, OPTIMIZERS)}")
    _known(kwargs, ("learning_rate", "weight_decay", *OPTIMIZERS[name]), where)
    training: dict[str, Any] = {key: kwargs.pop(key) for key in ("learning_rate", "weight_decay") if key in kwargs}
    return _Part(TrainerConfig(training={"optimizer": name.lower(), "optimizer_kwargs": kwargs, **training}))


def _trainer(config: dict[str, Any], where: str) -> _Part:
    """The trainer's node; keys of a loss or an optimiser are taken here too, as guides print them outside of any node."""
    rest = dict(config)
    training: dict[str, Any] = {TRAINER[key]: rest.pop(key) for key in TRAINER if key in rest}
    part = _Part(notes=tuple(_remarks(config, where)))
    for read_part in (_augmentation, _stopping, _schedule, _precision):
        changes, notes = read_part(rest, where)
        training |= changes
        part = dataclasses.replace(part, notes=(*part.notes, *notes))
    if rest.pop("warmup_type", "linear") != "linear":
        raise ConfigurationError(f"{where}: warmup_type {config['warmup_type']!r} is unknown; valid: linear")
    inner: tuple[tuple[str, Callable[[dict[str, Any], str], _Part], Mapping[str, Sequence[str]]], ...] = (
        ("loss_type", _loss, LOSSES),
        ("optimizer_type", _optimizer, OPTIMIZERS),
    )
    for key, reader, keys in inner:
        if key in rest:
            own = {key, *keys.get(str(rest[key]), ())}
            part = part.joined(reader({name: rest.pop(name) for name in list(rest) if name in own}, where), where)
    for key in ("device", "checkpoint_dir"):
        rest.pop(key, None)
    if rest:
        key = next(iter(rest))
        raise ConfigurationError(f"{where}: unknown key {key!r}; {did_you_mean(key, [*TRAINER, *HANDLED])}")
    return part.joined(_Part(TrainerConfig(training=training)), where)


def _remarks(config: Mapping[str, Any], where: str) -> list[str]:
    """Notes on what means something else here, and the check of names that a training would read late."""
    notes = []
    device, monitor = str(config.get("device", "auto")), config.get("monitor", "val_dice")
    if device.partition(":")[0] not in DEVICES:
        raise ConfigurationError(f"{where}: device {device!r} is unknown; {did_you_mean(device, DEVICES)}")
    if not str(monitor).startswith("val_dice") and monitor not in MONITORS:
        raise ConfigurationError(f"{where}: monitor {monitor!r} is unknown; {did_you_mean(str(monitor), MONITORS)}")
    if device.startswith("cuda"):
        notes.append(f"device {device}: a GPU if there is one, else the CPU; -device says otherwise")
    if "checkpoint_dir" in config:
        notes.append(f"checkpoint_dir {config['checkpoint_dir']}: not used, checkpoints lie in nnReg_results, in the folder of the fold")
    if "epochs" in config:
        notes.append(f"epochs {config['epochs']}: each of the plan's steps, not of one pass over the images; --iterations_per_epoch sets their number")
    if config.get("save_best_only") is True and "save_frequency" in config:
        notes.append(f"save_frequency {config['save_frequency']}: not used with save_best_only, which keeps no numbered checkpoints")
    return notes


def _stopping(config: dict[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
    """Early stopping (its keys are taken out of `config`); `patience` stays for a plateau where nothing stops early."""
    stops, plateau = _truth(config, "early_stopping", where), config.get("lr_schedule") == "plateau"
    if stops:
        notes = [f"patience {config['patience']}: of early stopping, the plateau's is {PATIENCE}"] if plateau and "patience" in config else []
        notes += [] if "patience" in config else [f"early_stopping without patience: {PATIENCE} epochs"]
        delta = {"early_stopping.min_delta": config.pop("min_delta")} if "min_delta" in config else {}
        return {"early_stopping.patience": config.pop("patience", PATIENCE), **delta}, notes
    unused = [key for key in ("min_delta", "patience") if key in config and not (plateau and key == "patience")]
    return {}, [f"{key} {config.pop(key)}: not used, early_stopping is not on" for key in unused]


def _schedule(config: dict[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
    """The schedule and its arguments, taken out of `config`."""
    if "lr_schedule" not in config:
        return {}, []
    name = str(config.pop("lr_schedule"))
    name = OTHER_SCHEDULES.get(name, name)
    if name not in SCHEDULES:
        raise ConfigurationError(f"{where}: lr_schedule {name!r} is unknown; {did_you_mean(name, SCHEDULES)}")
    return {"lr_schedule": name, "lr_schedule_kwargs": {key: config.pop(key) for key in SCHEDULES[name] if key in config}}, []


def _precision(config: dict[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
    mixed = _truth(config, "mixed_precision", where)
    if mixed is None:
        return {}, []
    notes = ["mixed_precision true: bfloat16 on a GPU that has it, else float16; off on a CPU"] if mixed else []
    return {"mixed_precision": "auto" if mixed else "off"}, notes


_READERS: dict[str, Callable[[dict[str, Any], str], _Part]] = {
    "LossFunction": _loss,
    "Optimizer": _optimizer,
    "Trainer": _trainer,
    **{kind: _network(kind) for kind in NETWORKS},
    LOADER_TYPE: _loader,
}
