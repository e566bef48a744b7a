"""A residual encoder U-Net on both images at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from nnreg.architecture.base import NETWORKS, RegistrationNetwork
from nnreg.architecture.blocks import Convolution, FlowHead, Stage, initialise
from nnreg.architecture.pyramid import crop_to, field_stages
from nnreg.errors import ConfigurationError
from nnreg.geometry import integrate


class _UpStage(nn.Module):
    """Features of a coarser stage brought up by a transposed convolution and joined with the skip, and a field from them."""

    def __init__(self, ndim: int, below: int, features: int, kernel: Sequence[int], stride: Sequence[int]) -> None:
        super().__init__()
        transposed = nn.ConvTranspose2d if ndim == 2 else nn.ConvTranspose3d
        self.up = transposed(below, features, tuple(stride), stride=tuple(stride))  # type: ignore[arg-type]
        self.join = Convolution(ndim, 2 * features, features, kernel)
        self.head = FlowHead(ndim, features, kernel)

    def forward(self, coarse: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """Features and flow, both of the skip's size."""
        features = self.join(torch.cat([crop_to(self.up(coarse), skip.shape[2:]), skip], dim=1))
        return features, self.head(features)


@NETWORKS.register("unetreg")
class UNetReg(RegistrationNetwork):
    """Residual encoder U-Net on the concatenated images, with a field at every decoder stage (VoxelMorph's idea on nnU-Net's backbone).

    Each field is found at once, not refined from a coarser one: simple, and right where motion is small against the depth of the network.

    Parameters
    ----------
    channels, ndim, strides, kernel_sizes, features_per_stage, blocks_per_stage, deep_supervision
        See ``build_network``.
    integration_steps
        0 takes what the heads return as displacements; more as stationary velocities, integrated by so many squarings.
    field_resolution
        Stride of the finest decoder stage relative to the input; the full field is that one interpolated.
    """

    def __init__(
        self,
        *,
        channels: int,
        ndim: int,
        strides: Sequence[Sequence[int]],
        kernel_sizes: Sequence[Sequence[int]],
        features_per_stage: Sequence[int],
        blocks_per_stage: Sequence[int],
        deep_supervision: bool = True,
        integration_steps: int = 0,
        field_resolution: int = 1,
    ) -> None:
        super().__init__(channels=channels, ndim=ndim, deep_supervision=deep_supervision)
        if integration_steps < 0:
            raise ConfigurationError(f"unetreg needs integration_steps >= 0, found {integration_steps}.")
        self.integration_steps = integration_steps
        finest, relative = field_stages(strides, field_resolution, at_least=2)
        self.field_strides = relative[:-1]  # the deepest stage has no head
        self.strides = [self.field_stride, *(tuple(stride) for stride in strides[finest + 1 :])]
        features, kernels = features_per_stage[finest:], kernel_sizes[finest:]
        self.stages = nn.ModuleList(
            Stage(ndim, before, after, kernel, stride, blocks)
            for (before, after), kernel, stride, blocks in zip(pairwise([2 * channels, *features]), kernels, self.strides, blocks_per_stage[finest:])
        )
        self.ups = nn.ModuleList(
            _UpStage(ndim, below, width, kernel, stride) for (width, below), kernel, stride in zip(pairwise(features), kernels, self.strides[1:])
        )
        initialise(self)

    @property
    def field_count(self) -> int:
        """One per decoder stage, and the full resolution where the finest stage is coarser."""
        return len(self.ups) + (max(self.strides[0]) > 1)

    def fields(self, fixed: Tensor, moving: Tensor) -> list[Tensor]:
        """Fields, finest first; the coarser ones only with deep supervision."""
        shape = tuple(fixed.shape[2:])
        skips = []
        features = torch.cat([fixed, moving], dim=1)
        for stage in self.stages:
            features = stage(features)
            skips.append(features)
        found: list[Tensor] = []
        for index in reversed(range(len(self.ups))):
            features, flow = self.ups[index](features, skips[index])
            if self.deep_supervision or index == 0:
                found.insert(0, integrate(flow, self.integration_steps) if self.integration_steps else flow)
        return self._at_all_resolutions(found, shape)
