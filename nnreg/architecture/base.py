"""What every registration network shares: the registry, the call, and the switch for deep supervision."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from nnreg.architecture.pyramid import corner_aligned, finer_field
from nnreg.errors import ConfigurationError
from nnreg.registry import Registry


class RegistrationNetwork(nn.Module, ABC):
    """``network(fixed=..., moving=...) -> [field, half, quarter, ...]``.

    Fields are (B, ndim, *spatial) float32, each in the voxels of its own grid (corner voxels aligned with the input's), pull-back,
    finest first. With ``deep_supervision`` off the list has one entry. The switch changes no parameter, so weights load either way.

    Parameters
    ----------
    channels
        Of each image.
    ndim
        2 or 3.
    deep_supervision
        Whether to return the coarser fields too.
    """

    def __init__(self, *, channels: int, ndim: int, deep_supervision: bool) -> None:
        super().__init__()
        if ndim not in (2, 3) or channels < 1:
            raise ConfigurationError(f"a network needs images of 2 or 3 axes and 1 channel or more, found {ndim} axes and {channels} channels.")
        self.channels, self.ndim, self.deep_supervision = channels, ndim, deep_supervision
        # from the input to each level that a field is decoded at, finest first
        self.field_strides: list[tuple[int, ...]] = [(1,) * ndim]

    @property
    def field_stride(self) -> tuple[int, ...]:
        """The first field is linear between every so many voxels."""
        return self.field_strides[0]

    @property
    @abstractmethod
    def field_count(self) -> int:
        """How many fields a call returns with deep supervision on."""

    @abstractmethod
    def fields(self, fixed: Tensor, moving: Tensor) -> list[Tensor]:
        """All fields, finest first; only the first need be there with deep supervision off."""

    def _at_all_resolutions(self, decoded: list[Tensor], shape: tuple[int, ...]) -> list[Tensor]:
        """What `fields` returns, from the fields as they were decoded: the finest at `shape`, then, with deep supervision, each level's own."""
        full = finer_field(decoded[0], self.field_stride, shape)
        if not self.deep_supervision:
            return [full]
        levels = [corner_aligned(field, stride, shape) for field, stride in zip(decoded, self.field_strides, strict=True)]
        return [full, *levels] if max(self.field_stride) > 1 else levels

    def forward(self, *, fixed: Tensor, moving: Tensor) -> list[Tensor]:
        """Fields that warp `moving` (B, C, *spatial) onto `fixed` (same shape)."""
        expected = (self.channels, self.ndim + 2)
        if fixed.shape != moving.shape or (fixed.shape[1], fixed.ndim) != expected:
            raise ConfigurationError(
                f"the network was built for pairs (B, {self.channels}, {self.ndim} axes), found fixed {tuple(fixed.shape)} and moving {tuple(moving.shape)}."
            )
        fields = self.fields(fixed, moving)
        return fields if self.deep_supervision else fields[:1]


NETWORKS: Registry[Callable[..., RegistrationNetwork]] = Registry("network")


def build_network(
    name: str,
    *,
    channels: int,
    ndim: int,
    strides: Sequence[Sequence[int]],
    kernel_sizes: Sequence[Sequence[int]],
    features_per_stage: Sequence[int],
    blocks_per_stage: Sequence[int],
    deep_supervision: bool = True,
    **kwargs: Any,
) -> RegistrationNetwork:
    """The network registered as `name`, built from a plan.

    Parameters
    ----------
    name
        Key of ``NETWORKS``.
    channels, ndim
        Channels of each image, axes of the grid.
    strides, kernel_sizes
        One tuple per stage, one number per axis; stage 0 has stride 1.
    features_per_stage, blocks_per_stage
        One number per stage.
    deep_supervision
        Whether a call returns the coarser fields too; can be changed later.
    **kwargs
        The network's own options.

    Raises
    ------
    ConfigurationError
        If the name or an option is unknown, or the stages contradict each other.
    """
    check_stages(ndim, strides, kernel_sizes, features_per_stage, blocks_per_stage)
    try:
        return NETWORKS[name](
            channels=channels,
            ndim=ndim,
            strides=strides,
            kernel_sizes=kernel_sizes,
            features_per_stage=features_per_stage,
            blocks_per_stage=blocks_per_stage,
            deep_supervision=deep_supervision,
            **kwargs,
        )
    except TypeError as error:
        raise ConfigurationError(f"network {name!r} cannot be built with the options {sorted(kwargs)}: {error}.") from error


def check_stages(
    ndim: int,
    strides: Sequence[Sequence[int]],
    kernel_sizes: Sequence[Sequence[int]],
    features_per_stage: Sequence[int],
    blocks_per_stage: Sequence[int],
) -> None:
    """Raise a ConfigurationError unless every list has one entry per stage and every tuple one number per axis."""
    counts = {
        "strides": len(strides),
        "kernel_sizes": len(kernel_sizes),
        "features_per_stage": len(features_per_stage),
        "blocks_per_stage": len(blocks_per_stage),
    }
    if len(set(counts.values())) != 1 or len(strides) < 2:
        raise ConfigurationError(f"architecture: every list needs one entry per stage and two stages or more, found {counts}.")
    for key, stages in (("strides", strides), ("kernel_sizes", kernel_sizes)):
        wrong = [tuple(stage) for stage in stages if len(stage) != ndim or min(stage) < 1]
        if wrong:
            raise ConfigurationError(f"architecture.{key}: each stage needs {ndim} positive numbers, found {wrong[0]}.")
    if any(size % 2 == 0 for stage in kernel_sizes for size in stage):
        raise ConfigurationError(f"architecture.kernel_sizes must be odd, found {[tuple(stage) for stage in kernel_sizes]}.")
    if max(strides[0]) != 1:
        raise ConfigurationError(f"architecture.strides: stage 0 keeps the resolution, its stride must be 1, found {tuple(strides[0])}.")
