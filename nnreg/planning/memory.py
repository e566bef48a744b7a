"""Memory of one training step, in closed form: no network is built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

BYTES = 4  # float32: without mixed precision, so a GPU with it needs less
GB = 1024**3
FIXED_GB = 0.25  # libraries and workspace of the convolutions


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
    batch_size: int = 1,
    directions: int = 1,
) -> float:
    """Peak of one training step of the dual pyramid, in GB (2^30 bytes), float32.

    See ``documentation/planning.md`` for the terms.
    """
    ndim = len(grid)
    pyramid = levels(grid, strides, features, blocks, field_resolution)
    correlation = (2 * correlation_radius + 1) ** ndim
    elements = 0.0
    for level in pyramid:
        elements += 2 * level.voxels * level.features * (2 + 5 * level.blocks)
        decoder = 2 * (2 * level.features + correlation + ndim) + 4 * level.features + correlation * level.features
        elements += directions * level.voxels * decoder
    full = prod(grid)
    elements += directions * full * (channels * 12 + ndim * 4) * 1.15
    return batch_size * elements * BYTES / GB + FIXED_GB
