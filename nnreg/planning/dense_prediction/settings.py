"""nnU-Net's rules for network, batch, normalisation, resampling and training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnreg.planning.decision import Decision, rule
from nnreg.planning.dense_prediction.fingerprint import DenseFingerprint
from nnreg.planning.dense_prediction.presets import Preset
from nnreg.planning.dense_prediction.resampling import Resampling
from nnreg.planning.plans import LossTerm, Normalization

BASE_FEATURES = 32
MOST_FEATURES_3D, MOST_FEATURES_2D = 320, 512
REFERENCE_BATCH_3D, REFERENCE_BATCH_2D = 2, 12
SMALLEST_BATCH = 2
MASKED_BELOW = 0.75  # median share of the image that cropping leaves
SCHEMES = {"ct": "ct", "nonorm": "none", "zscore": "zscore", "rescale_to_0_1": "rescale_to_0_1", "rgb_to_0_1": "rgb_to_0_1"}
LONG_PLANE = 1.5  # beyond, turning a plane leaves much of it empty
FLAT_PATCH = 3  # beyond, the first axis is too coarse to turn others into it
CONTINUOUS_LOSS = "smooth_l1"
EPOCHS, ITERATIONS, VALIDATION_ITERATIONS = 1000, 250, 50


@rule("dense_features")
def features(stages: int, ndim: int) -> Decision[tuple[int, ...]]:
    """32 at the finest stage, doubled from stage to stage, capped."""
    most = MOST_FEATURES_2D if ndim == 2 else MOST_FEATURES_3D
    value = tuple(min(most, BASE_FEATURES * 2**stage) for stage in range(stages))
    return Decision(value, f"{BASE_FEATURES} doubled from stage to stage, at most {most} in {ndim}D")


@rule("dense_blocks")
def blocks(preset: Preset, stages: int) -> Decision[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Blocks of the encoder and convolutions of the decoder, per stage."""
    table = preset.encoder_blocks
    encoder = tuple(table[min(stage, len(table) - 1)] for stage in range(stages))
    return Decision((encoder, (preset.decoder_blocks,) * (stages - 1)), f"{preset.network} as {preset.name} has it")


def reference_batch(ndim: int) -> int:
    """Batch size that the reference of a preset stands for."""
    return REFERENCE_BATCH_2D if ndim == 2 else REFERENCE_BATCH_3D


def reference_elements(preset: Preset, ndim: int, memory_gb: float) -> float:
    """Elements of one sample's feature maps that fit `memory_gb` at the reference batch."""
    return (preset.elements_2d if ndim == 2 else preset.elements_3d) * (memory_gb / preset.memory_gb)


def patch_limit(preset: Preset, ndim: int, memory_gb: float) -> float:
    """Elements above which a patch shrinks."""
    reference = reference_elements(preset, ndim, memory_gb)
    return reference * reference_batch(ndim) / SMALLEST_BATCH if preset.shrinks_for_smallest_batch else reference


@rule("dense_batch_size")
def batch_size(preset: Preset, patch: Sequence[int], elements: int, memory_gb: float, dataset_voxels: float) -> Decision[int]:
    """What memory the patch leaves goes into the batch, but a batch covers at most a share of the dataset; at least 2."""
    ndim = len(patch)
    fitting = round(reference_elements(preset, ndim, memory_gb) / elements * reference_batch(ndim))
    covering = round(dataset_voxels * preset.share / float(np.prod(patch, dtype=np.float64)))
    value = max(min(fitting, covering), SMALLEST_BATCH)
    return Decision(value, f"{fitting} fit {memory_gb:g} GB, {covering} cover {preset.share:.0%} of the dataset, at least {SMALLEST_BATCH}")


@rule("dense_batch_dice")
def batch_dice(configuration: str, has_companion: bool) -> Decision[bool]:
    """Dice over the batch where a patch shows little of an image: in 2D, and at full resolution beside a coarser companion."""
    if configuration == "2d":
        return Decision(True, "2d: a slice shows few of the labels")
    if configuration == "3d_lowres" or not has_companion:
        return Decision(False, f"{configuration}: a patch shows at least a quarter of the image, or no coarser companion would help")
    return Decision(True, "a patch shows less than a quarter of the image (there is a 3d_lowres)")


@rule("dense_normalization")
def normalization(fingerprint: DenseFingerprint, channel: int) -> Decision[Normalization]:
    """By the channel's name: CT, noNorm, rescale_to_0_1, rgb_to_0_1; anything else z-score, on the nonzero voxels where cropping leaves little."""
    name = fingerprint.channel_names[channel]
    scheme = SCHEMES.get(name.casefold(), "zscore")
    kwargs: dict[str, Any] = {}
    reason = f"channel {name!r}"
    if scheme == "ct":
        found = fingerprint.intensities[channel]
        kwargs = {"low": found.percentile_00_5, "high": found.percentile_99_5, "mean": found.mean, "std": found.std}
        reason += f": one window for all images, 0.5 to 99.5 % of the foreground ({found.percentile_00_5:.4g} to {found.percentile_99_5:.4g})"
    elif scheme == "zscore":
        kwargs = {"use_mask": fingerprint.relative_size < MASKED_BELOW}
        where = "its nonzero voxels" if kwargs["use_mask"] else "the whole image"
        reason += f": z-score over {where}, cropping leaves {fingerprint.relative_size:.0%} of the median image (below 75 %: nonzero voxels only)"
    return Decision(Normalization(scheme, kwargs), reason)


@rule("dense_resampling")
def resampling() -> Decision[Resampling]:
    """Images cubic, labels and probabilities linear; nearest neighbour between slices of an anisotropic image."""
    return Decision(Resampling(), "nnU-Net's: labels and probabilities linear per class, slices one by one where a spacing is more than 3 times another")


@rule("dense_loss")
def loss(fingerprint: DenseFingerprint, over_batch: bool) -> Decision[tuple[LossTerm, ...]]:
    """Soft Dice and cross entropy, equally; binary cross entropy where labels are regions that overlap. Of continuous values, smooth absolute differences."""
    if not fingerprint.has_labels:
        return Decision((LossTerm(CONTINUOUS_LOSS),), "continuous values: absolute differences, squared where they are below a standard deviation")
    kind, why = ("binary_cross_entropy", "labels are regions") if fingerprint.regions else ("cross_entropy", "labels exclude each other")
    entropy = LossTerm(kind, kwargs={"sum_channels_of_masked": True} if fingerprint.regions else {})
    dice = LossTerm("negative_dice", kwargs={"batch_dice": over_batch})
    return Decision((dice, entropy), f"soft Dice and {kind.replace('_', ' ')}, equally: {why}")


@rule("dense_monitor")
def monitor(fingerprint: DenseFingerprint) -> Decision[str | None]:
    """The number that decides which epoch is best: the task's own, Dice; without labels the mean absolute error."""
    return Decision(None, "Dice of the labels") if fingerprint.has_labels else Decision("mae", "there are no labels, so no Dice")


def reasons_of_maps(fingerprint: DenseFingerprint) -> dict[str, str]:
    """Why continuous targets are normalised as they are."""
    return {
        f"targets.{name}": "; ".join(f"mean {found.mean:.4g}, deviation {found.std:.4g} of {len(fingerprint.images)} training cases" for found in channels)
        for name, channels in fingerprint.maps.items()
    }


@rule("dense_augmentation")
def augmentation(patch: Sequence[int]) -> Decision[dict[str, dict[str, Any]]]:
    """Rotation by 30 degrees about every axis, by 180 in a plane; a long plane turns by 15 only, a flat patch slice by slice."""
    axes = list(range(len(patch)))
    if len(patch) == 2:
        long = max(patch) / min(patch) > LONG_PLANE
        angle, in_plane = (15.0, False) if long else (180.0, False)
        reason = f"a plane {'more than' if long else 'at most'} {LONG_PLANE} times as long as wide"
    else:
        in_plane = max(patch) / patch[0] > FLAT_PATCH
        angle = 180.0 if in_plane else 30.0
        reason = f"the first axis is {max(patch) / patch[0]:.2g} times shorter than the longest, {'more' if in_plane else 'not more'} than {FLAT_PATCH}"
    pose = {"rotation": [-angle, angle], "mirror_axes": axes, "in_plane": in_plane}
    return Decision({"pose": pose, "intensity": {}}, f"rotation to {angle:g} degrees{', slice by slice' if in_plane else ''}: {reason}; nnU-Net's intensities")


@rule("dense_deep_supervision_weights")
def deep_supervision_weights(stages: int) -> Decision[tuple[float, ...]]:
    """Halved from level to level, the lowest without weight, summing to 1; one per level of the decoder, finest first."""
    levels = stages - 1
    weights = [0.5**level for level in range(levels)]
    if levels > 1:
        weights[-1] = 0.0
    value = tuple(weight / sum(weights) for weight in weights) or (1.0,)
    return Decision(value, f"{levels} levels, halved from level to level, the lowest without weight")


@rule("dense_training")
def training() -> Decision[dict[str, Any]]:
    """SGD with Nesterov momentum and nnU-Net's length."""
    value = {
        "epochs": EPOCHS,
        "iterations_per_epoch": ITERATIONS,
        "validation_iterations": VALIDATION_ITERATIONS,
        "optimizer": "sgd",
        "learning_rate": 1e-2,
        "weight_decay": 3e-5,
        "gradient_clip": 12.0,
        "optimizer_kwargs": {"momentum": 0.99, "nesterov": True},
        "lr_schedule": "poly",
        "lr_schedule_kwargs": {"exponent": 0.9},
    }
    return Decision(value, "nnU-Net's: 1000 epochs of 250 iterations, SGD 0.01 with Nesterov momentum 0.99, polynomial schedule, gradients clipped at 12")
