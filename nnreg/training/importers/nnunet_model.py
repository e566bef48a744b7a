"""A model that nnU-Net v2 trained becomes a model folder of nnReg: plans, dataset.json and weights, ready for ``nnreg_predict``."""

from __future__ import annotations

import dataclasses
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnreg.dataset.spec import FILE_NAME, OLD_NAMES, DatasetSpec
from nnreg.errors import ConfigurationError
from nnreg.files import read_json
from nnreg.planning.dense import settings
from nnreg.planning.dense.plans import DenseConfiguration, DensePlans
from nnreg.planning.dense.resampling import Resampling
from nnreg.planning.plans import Architecture, LossTerm, Normalization, Training
from nnreg.task import task_named
from nnreg.training.configs.trainer_config import TrainerConfig
from nnreg.training.trainer.checkpoint import FINAL, load_weights, save_checkpoint
from nnreg.typed import to_mapping
from nnreg.workspace import Workspace

TASK = "dense_prediction"
NETWORKS = {"PlainConvUNet": "plain_unet", "ResidualEncoderUNet": "resenc_unet"}
SCHEMES = {
    "ZScoreNormalization": "zscore",
    "CTNormalization": "ct",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "rescale_to_0_1",
    "RGBTo01Normalization": "rgb_to_0_1",
}
RESAMPLING = "resample_data_or_seg_to_shape"
# what plain values nnU-Net's checkpoints hold beside tensors; nothing else is made from a file
SAFE = [
    np.dtype,
    np.ndarray,
    np._core.multiarray.scalar if hasattr(np, "_core") else np.core.multiarray.scalar,  # type: ignore[attr-defined]
    *(type(np.dtype(name)) for name in ("float32", "float64", "int64", "int32", "bool")),
]
STANDARD: Mapping[str, Any] = {"conv_bias": True, "dropout_op": None, "norm_op_kwargs": {"eps": 1e-5, "affine": True}, "nonlin": "torch.nn.LeakyReLU"}


@dataclass(frozen=True)
class NnunetModel:
    """A model folder of nnU-Net, or what of it one checkpoint holds.

    Attributes
    ----------
    plans, dataset : parsed JSON
    configuration : name
    checkpoints : fold to file
    """

    plans: dict[str, Any]
    dataset: dict[str, Any]
    configuration: str
    checkpoints: dict[str, Path]


def is_nnunet_model(source: Path) -> bool:
    """Whether `source` is a checkpoint file, or a folder with nnU-Net's plans, dataset.json and folds."""
    if source.is_file():
        return source.suffix == ".pth"
    plans = source / "plans.json"
    return plans.is_file() and (source / FILE_NAME).is_file() and "experiment_planner_used" in read_json(plans, ConfigurationError)


def import_nnunet_model(source: Path, workspace: Workspace, *, number: int | None = None, checkpoint: str = FINAL) -> tuple[Path, list[str]]:
    """Convert a model of nnU-Net v2.

    Parameters
    ----------
    source
        ``TRAINER__PLANS__CONFIGURATION`` with ``fold_K/checkpoint_final.pth``, or one checkpoint file.
    workspace
        The model goes into its results.
    number
        Of the dataset, if it is to be another than nnU-Net's.
    checkpoint
        Which file of every fold.

    Returns
    -------
    folder : Path
        The model folder.
    notes : list of str
        What is otherwise than in nnU-Net.

    Raises
    ------
    ConfigurationError
        If something is missing or damaged, or the model uses what nnReg does not have.
    """
    model = _read(source, checkpoint)
    contents = {fold: read_checkpoint(path) for fold, path in model.checkpoints.items()}
    first = next(iter(contents.values()))
    mirrored = tuple(int(axis) for axis in first.get("inference_allowed_mirroring_axes") or ())
    spec = _spec(model.dataset, str(source))
    name = str(model.plans["dataset_name"])
    if number is not None:
        name = re.sub(r"^Dataset\d{3}_", f"Dataset{number:03d}_", name)
    plans = plans_from(model.plans, spec, name, mirrored, str(source))
    trainer = str(first.get("trainer_name", "nnUNetTrainer"))
    folder = workspace.results / name / f"{trainer}__{plans.plans_name}__{model.configuration}"
    configuration = plans.configuration(model.configuration)
    network = task_named(TASK).network(plans=plans, spec=spec, configuration=configuration, recipe=TrainerConfig())
    for fold, content in contents.items():
        weights = weights_from(content["network_weights"], len(configuration.architecture.strides) - 1)
        load_weights(network, weights, model.checkpoints[fold])
        init = {"plans": plans.to_dict(), "configuration_name": model.configuration, "configuration": to_mapping(configuration), "fold": fold, "overrides": {}}
        save_checkpoint(
            folder / f"fold_{fold}" / FINAL,
            {
                "network_weights": weights,
                "trainer_name": trainer,
                "current_epoch": int(content.get("current_epoch", 0)),
                "init": init | {"custom_network": False},
            },
        )
    plans.write(folder / "plans.json")
    spec.write(folder / FILE_NAME)
    return folder, _notes(model)


def _notes(model: NnunetModel) -> list[str]:
    reader = model.plans.get("image_reader_writer", "")
    if reader == "NibabelIOWithReorient":
        return [f"{reader}: the model was trained on images turned to RAS; nnReg takes images as they are stored. Turn yours to RAS before predicting."]
    return []


def _read(source: Path, checkpoint: str) -> NnunetModel:
    if source.is_file():
        content = read_checkpoint(source)
        init = content.get("init_args", {})
        if not {"plans", "configuration", "dataset_json"} <= init.keys():
            raise ConfigurationError(f"{source}: is no checkpoint of nnU-Net v2: init_args with plans, configuration and dataset_json were expected.")
        fold = source.parent.name.removeprefix("fold_") if source.parent.name.startswith("fold_") else str(init.get("fold", 0))
        return NnunetModel(init["plans"], init["dataset_json"], str(init["configuration"]), {fold: source})
    parts = source.name.split("__")
    found = {path.parent.name[5:]: path for path in sorted(source.glob(f"fold_*/{checkpoint}"))}
    if len(parts) != 3 or not found:
        raise ConfigurationError(f"{source}: expected a folder TRAINER__PLANS__CONFIGURATION with fold_K/{checkpoint}. Name the folder, or one checkpoint.")
    return NnunetModel(read_json(source / "plans.json", ConfigurationError), read_json(source / FILE_NAME, ConfigurationError), parts[2], found)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of nnU-Net: tensors, plain values and numpy's numbers, nothing else.

    Raises
    ------
    ConfigurationError
        If it is damaged or holds anything else.
    """
    try:
        with torch.serialization.safe_globals(SAFE):
            content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise ConfigurationError(f"{path}: is damaged, or holds more than weights and numbers ({str(error).strip().splitlines()[0]}).") from error
    if not isinstance(content, dict) or "network_weights" not in content:
        raise ConfigurationError(f"{path}: is no checkpoint of nnU-Net v2: network_weights was expected.")
    return content


def _spec(content: Mapping[str, Any], where: str) -> DatasetSpec:
    """dataset.json without keys that nnU-Net does not know either."""
    known = {field.name for field in dataclasses.fields(DatasetSpec)} | set(OLD_NAMES)
    kept = {key: value for key, value in content.items() if key in known}
    return DatasetSpec.from_dict({"numTraining": 0, **kept, "task": TASK, "dataset": {}}, where=f"{where}, {FILE_NAME}")


# -- plans ------------------------------------------------------------------------------------------------------------


def plans_from(content: Mapping[str, Any], spec: DatasetSpec, dataset: str, mirrored: Sequence[int], where: str) -> DensePlans:
    """nnU-Net's plans as nnReg's.

    Raises
    ------
    ConfigurationError
        If they name a network, normalisation or resampling that nnReg does not have.
    """
    try:
        configurations = {name: _configuration(name, content, spec, mirrored, where) for name in content["configurations"]}
        return DensePlans(
            dataset_name=dataset,
            plans_name=content["plans_name"],
            task=TASK,
            planner=content["experiment_planner_used"],
            channel_names=tuple(spec.channel_names[str(index)] for index in range(len(spec.channel_names))),
            transpose_forward=tuple(content["transpose_forward"]),
            configurations=configurations,
            recommended=next((name for name in ("3d_fullres", *configurations) if name in configurations), "2d"),
            because={"imported": "from nnU-Net's plans"},
        )
    except KeyError as error:
        raise ConfigurationError(f"{where}: nnU-Net's plans have no {error}. Plans of nnU-Net v2 (2.2 or later) were expected.") from error


def _resolved(name: str, configurations: Mapping[str, Any]) -> dict[str, Any]:
    own = dict(configurations[name])
    parent = own.pop("inherits_from", None)
    return own if parent is None else {**_resolved(parent, configurations), **own}


def _configuration(name: str, content: Mapping[str, Any], spec: DatasetSpec, mirrored: Sequence[int], where: str) -> DenseConfiguration:
    plan = _resolved(name, content["configurations"])
    patch = tuple(int(size) for size in plan["patch_size"])
    architecture = _architecture(plan["architecture"], f"{where}, configuration {name}")
    return DenseConfiguration(
        data_identifier=str(plan["data_identifier"]),
        spacing=tuple(float(value) for value in plan["spacing"]),
        patch_size=patch,
        median_image_size_in_voxels=tuple(float(value) for value in plan["median_image_size_in_voxels"]),
        normalization=_normalization(plan, content["foreground_intensity_properties_per_channel"], f"{where}, configuration {name}"),
        batch_dice=bool(plan["batch_dice"]),
        resampling=_resampling(plan, f"{where}, configuration {name}"),
        architecture=architecture,
        training=_training(plan, spec, patch, len(architecture.strides), [axis for axis in mirrored if axis < len(patch)]),
        memory_gb=0.0,
        previous_stage=plan.get("previous_stage"),
        next_stage=plan.get("next_stage"),
        because={"imported": "from nnU-Net's plans"},
    )


def _architecture(plan: Mapping[str, Any], where: str) -> Architecture:
    known = plan["network_class_name"].rpartition(".")[2]
    arguments = plan["arch_kwargs"]
    if known not in NETWORKS:
        raise ConfigurationError(f"{where}: the network is {plan['network_class_name']}, nnReg imports {' and '.join(NETWORKS)}.")
    for key, value in STANDARD.items():
        if arguments.get(key, value) != value:
            raise ConfigurationError(f"{where}: the network's {key} is {arguments[key]}, nnReg imports networks with {value}.")
    return Architecture(
        name=NETWORKS[known],
        strides=_tuples(arguments["strides"], arguments["kernel_sizes"]),
        kernel_sizes=_tuples(arguments["kernel_sizes"], arguments["kernel_sizes"]),
        features_per_stage=tuple(arguments["features_per_stage"]),
        blocks_per_stage=tuple(arguments["n_blocks_per_stage"] if "n_blocks_per_stage" in arguments else arguments["n_conv_per_stage"]),
        # nnU-Net's decoder begins at the coarsest stage
        kwargs={"decoder_blocks_per_stage": list(reversed(arguments["n_conv_per_stage_decoder"]))},
    )


def _tuples(values: Sequence[Any], kernels: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """One number per axis, where the plans have one for all."""
    return tuple((int(value),) * len(kernels[0]) if isinstance(value, int) else tuple(int(part) for part in value) for value in values)


def _normalization(plan: Mapping[str, Any], intensities: Mapping[str, Mapping[str, float]], where: str) -> tuple[Normalization, ...]:
    result = []
    for channel, (scheme, masked) in enumerate(zip(plan["normalization_schemes"], plan["use_mask_for_norm"], strict=True)):
        if scheme not in SCHEMES:
            raise ConfigurationError(f"{where}: the normalisation of channel {channel} is {scheme}, nnReg imports {', '.join(SCHEMES)}.")
        kwargs: dict[str, Any] = {"use_mask": bool(masked)} if SCHEMES[scheme] == "zscore" else {}
        if SCHEMES[scheme] == "ct":
            found = intensities[str(channel)]
            kwargs = {"low": found["percentile_00_5"], "high": found["percentile_99_5"], "mean": found["mean"], "std": found["std"]}
        result.append(Normalization(SCHEMES[scheme], kwargs))
    return tuple(result)


def _resampling(plan: Mapping[str, Any], where: str) -> Resampling:
    kinds = ("data", "seg", "probabilities")
    for kind in kinds:
        if plan[f"resampling_fn_{kind}"] != RESAMPLING:
            raise ConfigurationError(f"{where}: resampling_fn_{kind} is {plan[f'resampling_fn_{kind}']}, nnReg imports {RESAMPLING}.")
    data, labels, probabilities = (plan[f"resampling_fn_{kind}_kwargs"] for kind in kinds)
    return Resampling(data["order"], labels["order"], probabilities["order"], data["order_z"], data["force_separate_z"])


def _training(plan: Mapping[str, Any], spec: DatasetSpec, patch: tuple[int, ...], stages: int, mirrored: list[int]) -> Training:
    """nnU-Net's own, so that the model can be trained on."""
    augmentation = settings.augmentation(patch).value
    overlapping = any(isinstance(value, tuple) and len(value) > 1 for value in spec.labels.values())
    dice = LossTerm("negative_dice", kwargs={"batch_dice": bool(plan["batch_dice"])})
    entropy = LossTerm("binary_cross_entropy", kwargs={"sum_channels_of_masked": True}) if overlapping else LossTerm("cross_entropy")
    return Training(
        similarity=(),
        regularisation=(),
        supervision=(dice, entropy),
        deep_supervision_weights=settings.deep_supervision_weights(stages).value,
        batch_size=int(plan["batch_size"]),
        augmentation={**augmentation, "pose": {**augmentation.get("pose", {}), "mirror_axes": mirrored}},
        **settings.training().value,
    )


# -- weights ----------------------------------------------------------------------------------------------------------


def weights_from(weights: Mapping[str, Tensor], decoded: int) -> dict[str, Tensor]:
    """nnU-Net's state dict with nnReg's names.

    Parameters
    ----------
    weights
        Of a U-Net of dynamic-network-architectures, perhaps compiled or wrapped for several GPUs.
    decoded
        Stages of the decoder; nnU-Net counts them from the coarsest, nnReg from the finest.
    """
    names = {"stages": "backbone.joins", "transpconvs": "backbone.ups", "seg_layers": "heads"}
    result = {}
    for key, value in weights.items():
        plain = re.sub(r"^(module\.|_orig_mod\.)+", "", key)
        if plain.startswith("encoder."):
            result[f"backbone.{plain}"] = value
            continue
        # the decoder holds the encoder a second time
        match = re.fullmatch(r"decoder\.(stages|transpconvs|seg_layers)\.(\d+)\.(.+)", plain)
        if match is not None:
            result[f"{names[match[1]]}.{decoded - 1 - int(match[2])}.{match[3]}"] = value
    return result
