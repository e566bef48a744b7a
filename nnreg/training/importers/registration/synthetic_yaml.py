"""YAML of a registration of synthetic pairs: datasets made on the fly, one model, one loss, one optimiser."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from nnreg.dataset.pairs import Pair
from nnreg.dataset.spec import DatasetSpec
from nnreg.errors import ConfigurationError, NnRegError, did_you_mean
from nnreg.planning.plans import Normalization, Plans
from nnreg.training.configs.trainer_config import TrainerConfig
from nnreg.training.importers.registration.trial import check_recipe, stages
from nnreg.training.importers.run import ImportedDataset, ImportedRun
from nnreg.training.importers.values import camel_case
from nnreg.typed import from_mapping

ON_DISK = {"train": 2, "val": 4}  # pairs that are written: for the fingerprint and the validation on native grids; all others are made on the fly
CONSOLE = ("train_loss", "val_loss", "val_ncc", "val_epe", "val_grad_l2")
MODELS = {"globalnet": "globalnet", "localnet": "localnet", "unetreg": "unetreg_original"}  # the manual's, which end in 3d (or 2d), and ours
OPTIONS: dict[str, dict[str, Any]] = {  # arguments of the manual's models, with the template's values
    "globalnet": {"num_channel_initial": 16, "depth": 3, "max_disp": None},
    "localnet": {"num_channel_initial": 16, "depth": 3, "extract_levels": None},
    "unetreg": {"channels": [16, 32, 64, 128, 256], "strides": None, "num_res_units": 2},
}
WARP = {"warp_mode": "bilinear", "warp_padding_mode": "border"}  # nnReg has one warp
WINDOW = ("kernel_size", "patch_size", "smooth_nr", "smooth_dr")
LOSSES = {"lncc": WINDOW, "lncc_dvf": ("image_weight", "dvf_weight", *WINDOW), "ncc": (), "mse": ()}


@dataclass(frozen=True)
class _Tracking:
    enabled: bool = False
    project: str = "usregistrator"
    run_name: str | None = None
    offline: bool = False


@dataclass(frozen=True)
class _Pairs:
    name: str = "synthetic_ellipsoids"
    image_size: tuple[int, ...] | None = None
    num_samples: int = 4000
    noise_std: float = 0.03
    smooth: bool = True
    seed: int = 123
    max_disp: float = 0.2
    cp_spacing: float = 8.0
    deform: bool = False

    def settings(self, split: str) -> dict[str, Any]:
        """Arguments of the generator, with its name."""
        common = {"num_samples": self.num_samples, "noise_std": self.noise_std, "smooth": self.smooth, "seed": self.seed, "split": split}
        if self.name != "deepreg_synthetic" and not self.deform:
            return {"name": self.name, **common}
        # normalised units span a grid from -1 to 1
        size = min(self.image_size or (0,))
        moved = {"max_displacement": self.max_disp * (size - 1) / 2, "control_spacing": self.cp_spacing}
        return {"name": "deepreg_synthetic", **common, **moved}


@dataclass(frozen=True)
class _Optimizer:
    name: str = "Adam"
    lr: float = 1e-4
    weight_decay: float = 1e-5


@dataclass(frozen=True)
class _Training:
    epochs: int = 50
    batch_size: int = 2
    num_workers: int = 4
    amp: bool = True
    val_every: int = 1
    seed: int = 42


@dataclass(frozen=True)
class _File:
    project: str = "monai-3d-registration"
    image_size: tuple[int, ...] = (64, 64, 64)
    wandb: _Tracking = field(default_factory=_Tracking)
    train_dataset: _Pairs = field(default_factory=_Pairs)
    val_dataset: _Pairs = field(default_factory=lambda: _Pairs(num_samples=200, seed=999))
    model: dict[str, Any] = field(default_factory=lambda: {"name": "globalnet3d", "num_channel_initial": 16, "depth": 3})
    loss: dict[str, Any] = field(default_factory=lambda: {"name": "lncc", "kernel_size": 9, "smooth_nr": 1e-4, "smooth_dr": 1e-2})
    optimizer: _Optimizer = field(default_factory=_Optimizer)
    training: _Training = field(default_factory=_Training)


SECTIONS = tuple(each.name for each in dataclasses.fields(_File))


def read(content: dict[str, Any], source: Path) -> ImportedRun:
    """The run of a parsed file; what the file leaves out is the template's."""
    where = str(source)
    if isinstance(content.get("val_dataset"), dict):  # its defaults are not the training's
        content = {**content, "val_dataset": {"num_samples": 200, "seed": 999, **content["val_dataset"]}}
    file = from_mapping(_File, content, where=where, error=ConfigurationError)
    pairs = {}
    for split, asked in (("train", file.train_dataset), ("val", file.val_dataset)):
        size = asked.image_size or file.image_size
        if size != file.image_size and "image_size" in content:
            raise ConfigurationError(f"{where}: {split}_dataset.image_size is {list(size)}, image_size is {list(file.image_size)}. Give both the same.")
        pairs[split] = dataclasses.replace(asked, image_size=size)
    if pairs["train"].image_size != pairs["val"].image_size:
        raise ConfigurationError(f"{where}: train_dataset and val_dataset differ in image_size. Give both the same.")
    settings = {split: asked.settings(split) for split, asked in pairs.items()}
    size = _checked_size(pairs, settings, where)
    recipe = _recipe(file, settings, len(size), where)
    check_recipe(recipe, size, where)
    return ImportedRun(recipe, _dataset(source, pairs), workers=content.get("training", {}).get("num_workers"))


def _checked_size(pairs: dict[str, _Pairs], settings: dict[str, dict[str, Any]], where: str) -> tuple[int, ...]:
    """The size of the images, once their generators have taken it and all their arguments."""
    from nnreg.dataset.synthetic import GENERATORS

    size = pairs["train"].image_size or ()
    for split, asked in pairs.items():
        if asked.num_samples < 1:
            raise ConfigurationError(f"{where}: {split}_dataset.num_samples is {asked.num_samples}: expected 1 or more.")
        try:
            GENERATORS[asked.name](size, **{key: value for key, value in settings[split].items() if key != "name"})
        except NnRegError as error:
            raise ConfigurationError(f"{where}: {split}_dataset: {error}") from error
    return size


def _recipe(file: _File, synthetic: dict[str, dict[str, Any]], ndim: int, where: str) -> TrainerConfig:
    architecture, options, planned = _model(file.model, ndim, where)
    similarity, supervision = _loss(file.loss, where)
    if supervision and synthetic["train"]["name"] != "deepreg_synthetic":
        raise ConfigurationError(f"{where}: loss.name lncc_dvf needs true fields, train_dataset makes none. Give train_dataset the name deepreg_synthetic.")
    plan = file.training
    training: dict[str, Any] = {
        "synthetic": synthetic,
        "similarity": [similarity],
        "regularisation": [],
        "supervision": supervision,
        "optimizer": file.optimizer.name.lower(),
        "learning_rate": file.optimizer.lr,
        "weight_decay": file.optimizer.weight_decay,
        "lr_schedule": "constant",
        "gradient_clip": 1.0,
        "epochs": plan.epochs,
        "batch_size": plan.batch_size,
        "iterations_per_epoch": max(1, -(-file.train_dataset.num_samples // plan.batch_size)),
        "validation_iterations": file.val_dataset.num_samples,
        "validate_every": plan.val_every,
        "mixed_precision": "auto" if plan.amp else "off",
        "seed": plan.seed,
        "augmentation": {},
        "tracking.console": list(CONSOLE),
        "tracking.wandb": ("offline" if file.wandb.offline else "on") if file.wandb.enabled else "off",
        "tracking.wandb_project": file.wandb.project,
        "tracking.wandb_run": file.wandb.run_name,
        **planned,
    }
    return TrainerConfig(architecture, options, training=training, description=f"{file.project}, imported")


def _model(model: dict[str, Any], ndim: int, where: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Name, the network's own options, and what the plan says of its stages. A network of nnReg's own name keeps the planned ones."""
    from nnreg.architecture import check_options, network_names

    options = dict(model)
    name = str(options.pop("name", "globalnet3d"))
    for key, only in WARP.items():
        if options.pop(key, only) != only:
            raise ConfigurationError(f"{where}: model.{key}: nnReg warps with {only!r} alone. Give that or leave the key out.")
    if name in network_names():
        try:
            check_options(name, options)
        except ConfigurationError as error:
            raise ConfigurationError(f"{where}: model: {error}") from error
        return name, options, {}
    kind, axes = name[:-2], name[-2:]
    if kind not in MODELS or axes not in ("2d", "3d"):
        raise ConfigurationError(f"{where}: model.name {name!r} is unknown; {did_you_mean(name, [*(f'{key}3d' for key in MODELS), *network_names()])}")
    if axes != f"{ndim}d":
        raise ConfigurationError(f"{where}: model.name {name!r} has another number of axes than image_size, {ndim}. Give it the name {kind}{ndim}d.")
    for key in options:
        if key not in OPTIONS[kind]:
            raise ConfigurationError(f"{where}: model.{key} is unknown; {did_you_mean(key, [*OPTIONS[kind], *WARP])}")
    return MODELS[kind], *_stages(kind, {**OPTIONS[kind], **options}, ndim, where)


def _stages(kind: str, options: dict[str, Any], ndim: int, where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of a model of the manual that its network takes, and the stages that follow from the others: as they are, not as they would be planned."""
    if kind == "unetreg":
        channels = _whole_numbers(options["channels"], f"{where}: model.channels", at_least=2)
        strides = _whole_numbers(options["strides"] or [2] * (len(channels) - 1), f"{where}: model.strides")
        if len(strides) != len(channels) - 1:
            raise ConfigurationError(f"{where}: model.strides has {len(strides)} numbers, model.channels {len(channels)}. Give one stride fewer than channels.")
        return {"num_res_units": options["num_res_units"]}, stages([[step] * ndim for step in strides], channels, 1)
    for key in ("num_channel_initial", "depth"):
        _whole_numbers([options[key]], f"{where}: model.{key}")
    widths = [options["num_channel_initial"] * 2**level for level in range(options["depth"] + 1)]
    given = {key: value for key, value in options.items() if value is not None}
    return given, stages([[2] * ndim] * options["depth"], widths, 1)


def _whole_numbers(values: Any, where: str, *, at_least: int = 1) -> list[int]:
    """`values`, once they are so many whole numbers of 1 or more."""
    if not isinstance(values, list) or len(values) < at_least or not all(type(value) is int and value > 0 for value in values):
        raise ConfigurationError(f"{where}: found {values}, expected {'whole numbers' if at_least > 1 else 'a whole number'} of 1 or more.")
    return values


def _loss(loss: dict[str, Any], where: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The similarity, and what true fields are compared by."""
    options = dict(loss)
    name = str(options.pop("name", "lncc"))
    if name not in LOSSES:
        raise ConfigurationError(f"{where}: loss.name {name!r} is unknown; {did_you_mean(name, LOSSES)}")
    for key in options:
        if key not in LOSSES[name]:
            hint = did_you_mean(key, LOSSES[name]) if LOSSES[name] else "it takes no arguments"
            raise ConfigurationError(f"{where}: loss.{key} is unknown for {name}; {hint}")
    weight, supervision = options.pop("image_weight", 1.0), []
    if name == "lncc_dvf":
        supervision = [{"name": "dvf", "weight": options.pop("dvf_weight", 0.1)}]
    if name.startswith("lncc"):
        window = options.pop("patch_size", options.pop("kernel_size", 9))
        options = {"smooth_nr": 1e-4, "smooth_dr": 1e-2, **options, "window": window}
    return {"name": name.removesuffix("_dvf"), "weight": weight, "kwargs": options}, supervision


def _dataset(source: Path, pairs: dict[str, _Pairs]) -> ImportedDataset:
    names = {
        split: [Pair(f"{split}_{i:03d}_fixed", f"{split}_{i:03d}_moving") for i in range(min(ON_DISK[split], asked.num_samples))]
        for split, asked in pairs.items()
    }
    every = [pair for split in names.values() for pair in split]
    cases = {split: [case for pair in made for case in (pair.fixed, pair.moving)] for split, made in names.items()}
    spec = DatasetSpec(
        channel_names={"0": "synthetic"},
        numTraining=2 * len(every),
        file_ending=".nii.gz",
        pairing="pairs",
        pairs=tuple(every),
        groups={case: pair.fixed for pair in every for case in (pair.fixed, pair.moving)},
        description="A few of the pairs; the training makes its own on the fly.",
    )
    size = pairs["train"].image_size or ()
    return ImportedDataset(camel_case(source.stem), spec, partial(_write, pairs, names), (cases["train"], cases["val"]), partial(_plan, tuple(size)))


def _write(pairs: dict[str, _Pairs], names: dict[str, list[Pair]], folder: Path) -> None:
    from nnreg.dataset.synthetic import GENERATORS
    from nnreg.dataset.synthetic_writer import write_true_fields
    from nnreg.geometry import Space
    from nnreg.imageio import write_image

    for split, made in names.items():
        settings = pairs[split].settings(split)
        size = pairs[split].image_size or ()
        samples = GENERATORS[settings.pop("name")](size, **settings)
        for index, pair in enumerate(made):
            sample = samples[index]
            for case, image in ((pair.fixed, sample["fixed"]), (pair.moving, sample["moving"])):
                write_image(folder / "imagesTr" / f"{case}_0000.nii.gz", image.numpy(), Space.plain(size))
            if "field" in sample:
                write_true_fields(folder / "fieldsTr", pair, sample, Space.plain(size))


def _plan(size: tuple[int, ...], plans: Plans) -> Plans:
    """The images as they are made: their own grid and numbers, nothing aligned."""
    chosen = plans.configuration(plans.to_train)
    fixed = dataclasses.replace(chosen, grid=size, spacing=(1.0,) * len(size), normalization=(Normalization("none"),))
    said = "said by the imported file"
    fixed = dataclasses.replace(fixed, because={**chosen.because, "grid": said, "spacing": said, "normalization": said})
    return plans.replace(
        pre_alignment="none",
        alignment_target="group",
        frame_offset=None,
        grid_within_image=False,
        reference_case=None,
        configurations={plans.to_train: fixed},
        recommended=plans.to_train,
    )
