"""nnU-Net's plans as nnReg's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nnreg.dataset.spec import DatasetSpec
from nnreg.documents import understood
from nnreg.errors import ConfigurationError
from nnreg.planning.dense_prediction import settings
from nnreg.planning.dense_prediction.plans import DenseConfiguration, DensePlans, DenseTraining
from nnreg.planning.dense_prediction.resampling import Resampling
from nnreg.planning.plans import Architecture, LossTerm, Normalization
from nnreg.task import DENSE_PREDICTION

NETWORKS = {"PlainConvUNet": "plain_unet", "ResidualEncoderUNet": "resenc_unet"}
SCHEMES = {
    "ZScoreNormalization": "zscore",
    "CTNormalization": "ct",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "rescale_to_0_1",
    "RGBTo01Normalization": "rgb_to_0_1",
}
RESAMPLING = "resample_data_or_seg_to_shape"
STANDARD: Mapping[str, Any] = {"conv_bias": True, "dropout_op": None, "norm_op_kwargs": {"eps": 1e-5, "affine": True}, "nonlin": "torch.nn.LeakyReLU"}
TURNS = "NibabelIOWithReorient"  # the reader that turns every image to RAS


def plans_from(content: Mapping[str, Any], spec: DatasetSpec, dataset: str, mirrored: Sequence[int], where: str) -> DensePlans:
    """nnU-Net's plans as nnReg's.

    Raises
    ------
    ConfigurationError
        If they name a network, normalisation or resampling that nnReg does not have.
    """
    with understood(f"{where}, plans.json", ConfigurationError, "Plans of nnU-Net v2 (2.2 or later) were expected."):
        configurations = {name: _configuration(name, content, spec, mirrored, where) for name in content["configurations"]}
        return DensePlans(
            dataset_name=dataset,
            plans_name=content["plans_name"],
            task=DENSE_PREDICTION,
            planner=content["experiment_planner_used"],
            channel_names=tuple(spec.channel_names[str(index)] for index in range(len(spec.channel_names))),
            transpose_forward=tuple(content["transpose_forward"]),
            configurations=configurations,
            recommended=next((name for name in ("3d_fullres", *configurations) if name in configurations), "2d"),
            orientation="RAS" if content.get("image_reader_writer") == TURNS else "",
            because={"imported": "from nnU-Net's plans"},
        )


def _resolved(name: str, configurations: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A configuration with what it inherits.

    Raises
    ------
    ConfigurationError
        If it inherits from itself, by whatever way.
    """
    found: dict[str, Any] = {}
    passed: list[str] = []
    parent: Any = name
    while parent is not None:
        if parent in passed:
            raise ConfigurationError(f"{where}: configuration {name} inherits from itself ({' from '.join([*passed, parent])}). Mend inherits_from.")
        passed.append(parent)
        found = {**configurations[parent], **found}
        parent = configurations[parent].get("inherits_from")
    return {key: value for key, value in found.items() if key != "inherits_from"}


def _configuration(name: str, content: Mapping[str, Any], spec: DatasetSpec, mirrored: Sequence[int], where: str) -> DenseConfiguration:
    plan = _resolved(name, content["configurations"], where)
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


def _training(plan: Mapping[str, Any], spec: DatasetSpec, patch: tuple[int, ...], stages: int, mirrored: list[int]) -> DenseTraining:
    """nnU-Net's own, so that the model can be trained on."""
    augmentation = settings.augmentation(patch).value
    overlapping = any(isinstance(value, tuple) and len(value) > 1 for value in spec.labels.values())
    dice = LossTerm("negative_dice", kwargs={"batch_dice": bool(plan["batch_dice"])})
    entropy = LossTerm("binary_cross_entropy", kwargs={"sum_channels_of_masked": True}) if overlapping else LossTerm("cross_entropy")
    return DenseTraining(
        supervision=(dice, entropy),
        deep_supervision_weights=settings.deep_supervision_weights(stages).value,
        batch_size=int(plan["batch_size"]),
        augmentation={**augmentation, "pose": {**augmentation.get("pose", {}), "mirror_axes": mirrored}},
        **settings.training().value,
    )
