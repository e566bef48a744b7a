"""From nnU-Net's fingerprint to nnU-Net's plans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nnreg.errors import PlansError
from nnreg.planning.decision import Decision, check_outside_rules, decided_by_user, text
from nnreg.planning.dense_prediction import geometry, settings
from nnreg.planning.dense_prediction.feature_maps import ELEMENTS
from nnreg.planning.dense_prediction.fingerprint import DenseFingerprint
from nnreg.planning.dense_prediction.geometry import PatchPlan
from nnreg.planning.dense_prediction.plans import DenseConfiguration, DensePlans, DenseTraining
from nnreg.planning.dense_prediction.presets import DEFAULT, PRESETS, Preset
from nnreg.planning.plans import Architecture
from nnreg.planning.topology import Topology, topology
from nnreg.task import DENSE_PREDICTION

SHARED_ARRAYS = ("2d", "3d_fullres")  # all presets preprocess these alike


def plan_dense(
    fingerprint: DenseFingerprint,
    *,
    planner: str = DEFAULT.name,
    plans_name: str | None = None,
    gpu_memory_target: float | None = None,
    overwrite_target_spacing: Sequence[float] | None = None,
    patch_size: Sequence[int] | None = None,
) -> DensePlans:
    """Derive the plans of a dataset as nnU-Net does.

    Parameters
    ----------
    fingerprint
        What was measured.
    planner
        nnU-Net's class name, or ``default``, ``resenc``, ``resenc_m``, ``resenc_l``, ``resenc_xl``.
    plans_name
        The planner's own if absent.
    gpu_memory_target : GB
        The planner's own if absent.
    overwrite_target_spacing : mm, array axis order as stored
    patch_size : voxels, array axis order as stored
        In place of the largest that fits the memory, rounded up to what the pooling divides. Two numbers are of slices, and recommend ``2d``.

    Raises
    ------
    PlansError
        If the target spacing, patch or memory asked for makes no sense.
    ConfigurationError
        If there is no such planner, or a rule of an installed package is of no use.
    """
    check_outside_rules()
    preset = PRESETS[planner]
    memory_gb = preset.memory_gb if gpu_memory_target is None else gpu_memory_target
    if memory_gb <= 0:
        raise PlansError(f"-gpu_memory_target {memory_gb:g}: expected a positive number of GB.")
    spacing = _spacing(fingerprint, overwrite_target_spacing)
    order = geometry.transposition(spacing.value)
    median = geometry.median_shape(fingerprint, spacing.value, order.value)
    asked = _asked_patch(patch_size, order.value, flat=median.value[0] == 1)
    builder = _Builder(fingerprint, preset, plans_name or preset.plans_name, memory_gb, overwrite_target_spacing is None, asked)
    configurations = builder.all(Decision(tuple(spacing.value[axis] for axis in order.value), spacing.because), median)
    recommended = "3d_fullres" if "3d_fullres" in configurations and len(asked or ()) != 2 else "2d"
    return DensePlans(
        dataset_name=fingerprint.dataset_name,
        plans_name=builder.plans_name,
        task=DENSE_PREDICTION,
        planner=preset.name,
        channel_names=fingerprint.channel_names,
        transpose_forward=order.value,
        configurations=configurations,
        recommended=recommended,
        targets=fingerprint.maps,
        because={
            "spacing": spacing.because,
            "transpose_forward": order.because,
            "recommended": "the finest 3D configuration, or 2d where images are single slices or the patch that was asked for is one",
            **settings.reasons_of_maps(fingerprint),
        },
    )


def _spacing(fingerprint: DenseFingerprint, asked: Sequence[float] | None) -> Decision[tuple[float, ...]]:
    if asked is None:
        return geometry.target_spacing(fingerprint)
    if len(asked) == 2 and all(image.shape_after_crop[0] == 1 for image in fingerprint.images.values()):
        # across a single slice, spacing means nothing but must stay the coarsest
        asked = (float(np.median(fingerprint.spacings()[:, 0])), *asked)
    if len(asked) != 3 or min(asked) <= 0:
        raise PlansError(f"-overwrite_target_spacing {' '.join(map(str, asked))}: expected a positive number per array axis (z y x).")
    return decided_by_user(tuple(float(value) for value in asked), "-overwrite_target_spacing")


def _asked_patch(asked: Sequence[int] | None, order: Sequence[int], *, flat: bool) -> tuple[int, ...] | None:
    """The patch that was asked for, with the planned order of axes; a volume of one slice is a slice."""
    if asked is None:
        return None
    sizes = tuple(asked[1:]) if flat and len(asked) == 3 and asked[0] == 1 else tuple(asked)
    if len(sizes) not in ((2,) if flat else (2, 3)) or min(sizes) < 1:
        expected = "2 positive numbers (y x), for the images are slices" if flat else "3 positive numbers (z y x), or 2 for training on slices"
        raise PlansError(f"patch_size {','.join(map(str, asked))}: expected {expected}.")
    return tuple(sizes[axis] for axis in order) if len(sizes) == 3 else sizes


@dataclass(frozen=True)
class _Builder:
    """Builds the configurations of one dataset."""

    fingerprint: DenseFingerprint
    preset: Preset
    plans_name: str
    memory_gb: float
    shares_arrays: bool
    asked_patch: tuple[int, ...] | None

    def all(self, spacing: Decision[tuple[float, ...]], median: Decision[tuple[float, ...]]) -> dict[str, DenseConfiguration]:
        """Every configuration the dataset needs, in nnU-Net's order."""
        voxels = float(np.prod(median.value, dtype=np.float64))
        flat = Decision(spacing.value[1:], f"{spacing.because}; in the plane"), Decision(median.value[1:], median.because)
        result = {"2d": self._build("2d", *flat, self._patch(*(part.value for part in flat)), voxels)}
        if median.value[0] == 1:
            return result
        planned = self._patch(spacing.value, median.value)
        companion = geometry.companion(spacing.value, median.value, planned.value, self._patch)
        full = self._build("3d_fullres", spacing, median, planned, voxels, has_companion=companion.value is not None, lowres=companion.because)
        if companion.value is not None and not self.fingerprint.has_labels:
            full.because["3d_lowres"] = "continuous values: there are no labels that a second stage could refine"
            return result | {"3d_fullres": full}
        if companion.value is None:
            return result | {"3d_fullres": full}
        coarse = companion.value
        parts = Decision(coarse.spacing, companion.because), Decision(tuple(map(float, coarse.median)), "the full resolution's, coarsened")
        lowres = self._build("3d_lowres", *parts, coarse.patch, coarse.voxels, has_companion=True)
        return result | {
            "3d_lowres": replace_stage(lowres, next_stage="3d_cascade_fullres"),
            "3d_fullres": full,
            "3d_cascade_fullres": replace_stage(full, previous_stage="3d_lowres"),
        }

    def _patch(self, spacing: Sequence[float], median: Sequence[float]) -> Decision[PatchPlan]:
        if len(self.asked_patch or ()) == len(spacing):
            shape = topology(spacing, self.asked_patch or ())
            return decided_by_user(PatchPlan(shape, self._elements(len(spacing))(shape)), "patch_size, rounded up to what the pooling divides")
        limit = settings.patch_limit(self.preset, len(spacing), self.memory_gb)
        return geometry.patch(spacing, median, self._elements(len(spacing)), limit)

    def _elements(self, ndim: int) -> Callable[[Topology], int]:
        def count(shape: Topology) -> int:
            stages = len(shape.strides)
            encoder, decoder = settings.blocks(self.preset, stages).value
            return ELEMENTS[self.preset.network](shape.patch, shape.strides, settings.features(stages, ndim).value, encoder, decoder, self.fingerprint.heads)

        return count

    def _build(
        self,
        name: str,
        spacing: Decision[tuple[float, ...]],
        median: Decision[tuple[float, ...]],
        planned: Decision[PatchPlan],
        voxels: float,
        *,
        has_companion: bool = False,
        lowres: str = "",
    ) -> DenseConfiguration:
        because = {"spacing": spacing.because, "median_image_size_in_voxels": median.because, "patch_size": planned.because}
        if lowres:
            because["3d_lowres"] = lowres

        def keep(key: str, decision: Decision[Any]) -> Any:
            because[key] = decision.because
            return decision.value

        shape = planned.value.topology
        batch = keep(
            "training.batch_size",
            settings.batch_size(self.preset, shape.patch, planned.value.elements, self.memory_gb, voxels * self.fingerprint.training_cases),
        )
        over_batch = keep("batch_dice", settings.batch_dice(name, has_companion))
        channels = range(len(self.fingerprint.channel_names))
        schemes = tuple(keep(f"normalization[{channel}]", settings.normalization(self.fingerprint, channel)) for channel in channels)
        architecture = self._architecture(shape, keep)
        training = DenseTraining(
            supervision=keep("training.supervision", settings.loss(self.fingerprint, over_batch)),
            deep_supervision_weights=keep("training.deep_supervision_weights", settings.deep_supervision_weights(len(shape.strides))),
            batch_size=batch,
            augmentation=keep("training.augmentation", settings.augmentation(shape.patch)),
            monitor=keep("training.monitor", settings.monitor(self.fingerprint)),
            **keep("training.optimizer", settings.training()),
        )
        owner = DEFAULT.plans_name if name in SHARED_ARRAYS and self.shares_arrays and self.plans_name == self.preset.plans_name else self.plans_name
        return DenseConfiguration(
            data_identifier=f"{owner}_{name}",
            spacing=spacing.value,
            patch_size=shape.patch,
            median_image_size_in_voxels=median.value,
            normalization=schemes,
            batch_dice=over_batch,
            resampling=keep("resampling", settings.resampling()),
            architecture=architecture,
            training=training,
            memory_gb=keep("memory_gb", self._memory(planned.value, batch)),
            because=because,
        )

    def _architecture(self, shape: Topology, keep: Callable[[str, Decision[Any]], Any]) -> Architecture:
        stages = len(shape.strides)
        encoder, decoder = keep("architecture.blocks_per_stage", settings.blocks(self.preset, stages))
        reason = f"{stages} stages: axes of similar spacing are halved together ({text(shape.pools)} times) until fewer than 8 voxels are left"
        return Architecture(
            name=self.preset.network,
            strides=keep("architecture.strides", Decision(shape.strides, reason)),
            kernel_sizes=shape.kernel_sizes,
            features_per_stage=keep("architecture.features_per_stage", settings.features(stages, len(shape.patch))),
            blocks_per_stage=encoder,
            kwargs={"decoder_blocks_per_stage": list(decoder)},
        )

    def _memory(self, planned: PatchPlan, batch: int) -> Decision[float]:
        ndim = len(planned.patch)
        share = planned.elements * batch / settings.reference_batch(ndim) / settings.reference_elements(self.preset, ndim, self.memory_gb)
        return Decision(round(self.memory_gb * share, 3), "elements of feature maps times batch, on nnU-Net's scale")


def replace_stage(configuration: DenseConfiguration, *, previous_stage: str | None = None, next_stage: str | None = None) -> DenseConfiguration:
    """A copy with its place in a cascade."""
    return replace(configuration, previous_stage=previous_stage, next_stage=next_stage)
