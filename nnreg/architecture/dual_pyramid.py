"""The default network: one encoder for both images, and a decoder that refines the field from coarse to fine."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from nnreg.architecture.base import NETWORKS, RegistrationNetwork
from nnreg.architecture.blocks import Convolution, FlowHead, Stage, initialise
from nnreg.architecture.correlation import local_correlation
from nnreg.architecture.pyramid import coarser_shape, corner_aligned, finer_field
from nnreg.errors import ConfigurationError
from nnreg.geometry import compose, warp


class _Level(nn.Module):
    """Residual flow of one level from both images' features, their local correlation and the field so far."""

    def __init__(self, ndim: int, features: int, width: int, kernel: Sequence[int], radius: int) -> None:
        super().__init__()
        self.radius = radius
        inputs = 2 * features + (2 * radius + 1) ** ndim + ndim
        self.convolutions = nn.Sequential(Convolution(ndim, inputs, width, kernel), Convolution(ndim, width, width, kernel))
        self.head = FlowHead(ndim, width, kernel)

    def forward(self, fixed: Tensor, warped: Tensor, field: Tensor) -> Tensor:
        correlation = local_correlation(fixed, warped, self.radius)
        return self.head(self.convolutions(torch.cat([fixed, warped, correlation, field], dim=1)))


@NETWORKS.register("dual_pyramid")
class DualPyramid(RegistrationNetwork):
    """Weight-shared residual encoder, coarse-to-fine decoder with warping and local correlation."""

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
        field_resolution: int = 2,
        correlation_radius: int = 1,
        inverse_consistent: bool = False,
    ) -> None:
        super().__init__(channels=channels, ndim=ndim, deep_supervision=deep_supervision)
        cumulative = [tuple(strides[0])]
        for stride in strides[1:]:
            cumulative.append(tuple(before * step for before, step in zip(cumulative[-1], stride)))
        finest = next((stage for stage, stride in enumerate(cumulative) if max(stride) >= field_resolution), None)
        if finest is None:
            raise ConfigurationError(f"field_resolution {field_resolution} is coarser than the last stage, whose stride is {max(cumulative[-1])}.")
        self.entry_stride = cumulative[finest]
        self.strides = [tuple(stride) for stride in strides[finest + 1 :]]
        self.cumulative = cumulative[finest:]
        features = list(features_per_stage[finest:])
        kernels = [tuple(kernel) for kernel in kernel_sizes[finest:]]
        steps = [self.entry_stride, *self.strides]
        self.stages = nn.ModuleList(
            Stage(ndim, before, after, kernel, stride, blocks)
            for (before, after), kernel, stride, blocks in zip(pairwise([channels, *features]), kernels, steps, blocks_per_stage[finest:])
        )
        self.levels = nn.ModuleList(_Level(ndim, width, width, kernel, correlation_radius) for width, kernel in zip(features, kernels))
        initialise(self)

    @property
    def field_count(self) -> int:
        """One per level, and the full resolution where the finest level is coarser."""
        return len(self.levels) + (max(self.entry_stride) > 1)

    def fields(self, fixed: Tensor, moving: Tensor) -> list[Tensor]:
        """Fields, finest first."""
        batch, shape = fixed.shape[0], tuple(fixed.shape[2:])
        pyramid = []
        features = torch.cat([fixed, moving])
        for stage in self.stages:
            features = stage(features)
            pyramid.append(features)
        found: list[Tensor] = []
        field: Tensor | None = None
        for index in reversed(range(len(pyramid))):
            features = pyramid[index]
            on_fixed, on_moving = features[:batch], features[batch:]
            if field is None:
                start = features.new_zeros(batch, self.ndim, *features.shape[2:], dtype=torch.float32)
                field = self.levels[index](on_fixed, on_moving, start)
            else:
                field = finer_field(field, self.strides[index], features.shape[2:])
                field = compose(field, self.levels[index](on_fixed, warp(on_moving, field), field))
            found.append(field)
        found.reverse()
        full = finer_field(found[0], self.entry_stride, shape)
        levels = [corner_aligned(level, stride, shape) for level, stride in zip(found, self.cumulative)]
        return [full, *levels] if max(self.entry_stride) > 1 else levels


__all__ = ["DualPyramid", "coarser_shape"]
