"""What every registration network shares: the registry, the call, and the switch for deep supervision."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

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


NETWORKS: Registry[Callable[..., nn.Module]] = Registry("network")
"""Classes (or functions that return one) of registration networks, and of backbones, which get the heads of the task."""
