"""What only plans of dense prediction can have wrong."""

from __future__ import annotations

from collections.abc import Iterator

from nnreg.errors import did_you_mean
from nnreg.planning.dense_prediction.plans import DenseConfiguration, DensePlans


def dense_problems(plans: DensePlans) -> Iterator[str]:
    """Sentences, each beginning with the key."""
    if plans.orientation and sorted("LR" if letter in "LR" else "AP" if letter in "AP" else "IS" for letter in plans.orientation) != ["AP", "IS", "LR"]:
        yield f"orientation {plans.orientation!r}: expected letters such as LPS or RAS, one per axis, or nothing."
    if sorted(plans.transpose_forward) != [0, 1, 2]:
        yield f"transpose_forward {list(plans.transpose_forward)}: expected 0, 1 and 2 in some order."
    for name, configuration in plans.configurations.items():
        for problem in _problems(configuration, plans):
            yield f"configurations.{name}.{problem}"


def _problems(configuration: DenseConfiguration, plans: DensePlans) -> Iterator[str]:
    ndim = len(configuration.patch_size)
    if len(configuration.median_image_size_in_voxels) != ndim:
        yield f"median_image_size_in_voxels has {len(configuration.median_image_size_in_voxels)} numbers, patch_size has {ndim}."
    for key in ("previous_stage", "next_stage"):
        stage = getattr(configuration, key)
        if stage is not None and stage not in plans.configurations:
            yield f"{key} {stage!r} is no configuration; {did_you_mean(stage, plans.configurations)}."
    strides = configuration.architecture.strides
    for axis, size in enumerate(configuration.patch_size):
        divisor = 1
        for stride in strides:
            divisor *= stride[axis]
        if size % divisor:
            yield f"patch_size {list(configuration.patch_size)}: axis {axis} must be a multiple of {divisor}, as architecture.strides halve it."
    decoder = configuration.architecture.kwargs.get("decoder_blocks_per_stage", [1] * (len(strides) - 1))
    if len(decoder) != len(strides) - 1:
        yield f"architecture.kwargs.decoder_blocks_per_stage has {len(decoder)} entries, {len(strides) - 1} are needed: one per stage but the last."
    resampling = configuration.resampling
    for key in ("data_order", "labels_order", "probabilities_order", "between_slices_order"):
        if not 0 <= getattr(resampling, key) <= 5:
            yield f"resampling.{key} is {getattr(resampling, key)}: expected 0 to 5."
