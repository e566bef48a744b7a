"""Memory of one training step, in closed form: no network is built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

BYTES = 4  # float32: without mixed precision, so a GPU with it needs less
GB = 1024**3
FIXED_GB = 0.2  # libraries and workspace of the convolutions
ON_THE_WAY = 0.25  # of what is kept: gradients and temporary results while the finest level is passed backwards
WEIGHT_COPIES = 4  # weight, gradient, two moments of Adam
MIND_SLAB = 2**19  # voxels that self-similarity looks at at a time (nnreg.losses.mind)
MIND_NUMBERS = 22  # of each map and voxel of a slab, while its derivative is taken: 250 to 290 were measured for the twelve maps of a volume


@dataclass(frozen=True)
class Level:
    """One level of the pyramid: its grid, features and residual blocks."""

    shape: tuple[int, ...]
    features: int
    blocks: int

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return prod(self.shape)


def first_stage(strides: Sequence[Sequence[int]], field_resolution: int) -> int:
    """The first stage at the resolution of the field; finer ones are not built. Each stage's stride is relative to the one before."""
    cumulative = [1] * len(strides[0])
    for stage, stride in enumerate(strides):
        cumulative = [before * step for before, step in zip(cumulative, stride, strict=True)]
        if max(cumulative) >= field_resolution:
            return stage
    return len(strides) - 1


def field_count(strides: Sequence[Sequence[int]], field_resolution: int) -> int:
    """How many fields the network returns: one per level, and the full resolution where the finest level is coarser."""
    first = first_stage(strides, field_resolution)
    return len(strides) - first + (1 if first > 0 else 0)


def levels(grid: Sequence[int], strides: Sequence[Sequence[int]], features: Sequence[int], blocks: Sequence[int], field_resolution: int) -> list[Level]:
    """The levels that are built, finest first; a level of stride s has ``ceil((size - 1) / s) + 1`` voxels along an axis of `size`."""
    first = first_stage(strides, field_resolution)
    shape = tuple(int(size) for size in grid)
    result = []
    entry = [prod(stride[axis] for stride in strides[: first + 1]) for axis in range(len(grid))]
    for stage in range(first, len(strides)):
        step = entry if stage == first else strides[stage]
        shape = tuple(ceil((size - 1) / by) + 1 if by > 1 else size for size, by in zip(shape, step, strict=True))
        result.append(Level(shape, features[stage], blocks[stage]))
    return result


def training_memory_gb(
    grid: Sequence[int],
    *,
    channels: int,
    strides: Sequence[Sequence[int]],
    kernel_sizes: Sequence[Sequence[int]],
    features: Sequence[int],
    blocks: Sequence[int],
    field_resolution: int,
    correlation_radius: int,
    integration_steps: int = 0,
    inverse_consistent: bool = False,
    batch_size: int = 1,
    labels: int = 0,
    similarities: Sequence[str] = (),
) -> float:
    """Peak of one training step of the dual pyramid in float32, in GB (2^30 bytes).

    What the backward pass needs of every level, a share of it for gradients on their way, weights with their gradients and Adam's two
    moments, and what the libraries take. ``documentation/planning.md`` derives the terms.

    Parameters
    ----------
    grid, channels
        Size and channels of each image.
    strides, kernel_sizes, features, blocks
        Per stage.
    field_resolution, correlation_radius, integration_steps, inverse_consistent
        Of the network.
    batch_size
        Pairs in a step.
    labels
        Label maps that an overlap loss warps in a step.
    similarities
        Names of the losses on the warped image.
    """
    pyramid = levels(grid, strides, features, blocks, field_resolution)
    correlation = (2 * correlation_radius + 1) ** len(grid)
    kept = kept_by_network(pyramid, grid, channels, correlation, integration_steps, inverse_consistent)
    kept += _kept_by_losses(pyramid, grid, channels, field_resolution, labels)
    kernels = [prod(kernel) for kernel in kernel_sizes[len(strides) - len(pyramid) :]]
    weights = _parameters(pyramid, kernels, channels, correlation, len(grid))
    passing = needed_in_passing(similarities, prod(grid), len(grid))
    return (batch_size * kept * (1 + ON_THE_WAY) + WEIGHT_COPIES * weights + passing) * BYTES / GB + FIXED_GB


def kept_by_network(
    pyramid: Sequence[Level], grid: Sequence[int], channels: int, correlation: int, integration_steps: int = 0, inverse_consistent: bool = False
) -> float:
    """Numbers that the layers keep for the backward pass, one pair."""
    ndim = len(grid)
    total, inputs, finer = 0, channels, prod(grid)
    for level in pyramid:
        # each convolution keeps its result and the result of norm and activation; a residual block has two, the entry one
        encoder = 2 * level.features * (2 + 4 * level.blocks)
        # warped and padded moving features, the gathered input, two convolutions, sampling grids and the field before and after
        decoder = 2 * level.features + (2 * level.features + correlation + ndim) + 4 * level.features + 4 * ndim
        # each squaring keeps the field and where it is sampled
        decoder += 2 * ndim * integration_steps
        if inverse_consistent:
            # both directions, and two more compositions: of the maps to the space halfway, and of these with each other
            decoder = 2 * decoder + 6 * ndim
        total += level.voxels * (encoder + decoder) + 2 * inputs * finer
        inputs, finer = level.features, level.voxels
    return total


def _kept_by_losses(pyramid: Sequence[Level], grid: Sequence[int], channels: int, field_resolution: int, labels: int) -> float:
    """Numbers that warps, similarity and regularisation keep, one pair: at full resolution and at every level below it."""
    return kept_by_losses([prod(grid), *(level.voxels for level in pyramid[0 if field_resolution > 1 else 1 :])], channels, len(grid), labels)


def kept_by_losses(voxels: Sequence[int], channels: int, ndim: int, labels: int = 0) -> float:
    """As above, of a network whose fields have so many voxels, those of the full resolution first."""
    # both images, the warped one and local sums of it; field, sampling grid and the field's gradient in every direction
    # labels at full resolution: both one-hot maps and the warped one, as floats
    return sum(voxels) * (channels * 6 + ndim * (2 + ndim)) + voxels[0] * 3 * labels


def needed_in_passing(similarities: Sequence[str], voxels: int, ndim: int) -> float:
    """Numbers that similarities need for a moment, on top of what is kept: only self-similarity's maps are many."""
    maps = 2 * ndim * (ndim - 1)  # pairs of the nearest neighbours that are not opposite each other
    return float("mind" in similarities) * min(voxels, MIND_SLAB) * maps * MIND_NUMBERS


def _parameters(pyramid: Sequence[Level], kernels: Sequence[int], channels: int, correlation: int, ndim: int) -> int:
    """Number of convolution weights."""
    total, inputs = 0, channels
    for level, kernel in zip(pyramid, kernels, strict=True):
        width = level.features
        total += kernel * width * (inputs + 2 * level.blocks * width + (2 * width + correlation + ndim) + width + ndim)
        inputs = width
    return total
