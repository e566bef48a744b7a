"""UIU-Net (Wu et al. 2023): a U-Net whose every stage is a small U-Net, and skips that attend to what comes from below."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from nnreg.architecture.backbone import Backbone, total_strides
from nnreg.architecture.base import NETWORKS
from nnreg.architecture.blocks import initialise
from nnreg.architecture.custom.parts import ConvNormReLU, conv, pooled, resized
from nnreg.errors import ConfigurationError

SMALLEST_HEIGHT = 3
DILATIONS = (1, 2, 4, 8)
REDUCTION = 4  # of the channels within the attention


class ResidualU(nn.Module):
    """A U-Net of one width inside a stage, added to the stage's first convolution.

    Parameters
    ----------
    ndim, inputs, inner, outputs
        Axes; features before, inside and after.
    kernel
        Of all convolutions.
    strides
        Of the poolings inside, outermost first; below the last one follows a dilated convolution.
    """

    def __init__(self, ndim: int, inputs: int, inner: int, outputs: int, kernel: Sequence[int], strides: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.strides = [tuple(stride) for stride in strides]
        self.entry = ConvNormReLU(ndim, inputs, outputs, kernel)
        widths = [outputs, *[inner] * (len(strides) + 1)]
        self.down = nn.ModuleList(ConvNormReLU(ndim, before, after, kernel) for before, after in pairwise(widths))
        self.bottom = ConvNormReLU(ndim, inner, inner, kernel, dilation=2)
        self.up = nn.ModuleList(ConvNormReLU(ndim, 2 * inner, outputs if level == 0 else inner, kernel) for level in range(len(self.down)))

    def forward(self, features: Tensor) -> Tensor:
        """(B, inputs, *spatial) to (B, outputs, *spatial)."""
        entered = self.entry(features)
        features, skips = entered, []
        for level, convolution in enumerate(self.down):
            features = convolution(pooled(features, self.strides[level - 1], "max") if level else features)
            skips.append(features)
        features = self.bottom(features)
        for level in reversed(range(len(self.up))):
            features = self.up[level](torch.cat([resized(features, skips[level].shape[2:]), skips[level]], dim=1))
        return features + entered


class DilatedResidualU(nn.Module):
    """As :class:`ResidualU` for maps too small to be pooled: dilated convolutions see as far."""

    def __init__(self, ndim: int, inputs: int, inner: int, outputs: int, kernel: Sequence[int]) -> None:
        super().__init__()
        self.entry = ConvNormReLU(ndim, inputs, outputs, kernel)
        widths = [outputs, *[inner] * len(DILATIONS)]
        self.down = nn.ModuleList(ConvNormReLU(ndim, before, after, kernel, dilation=by) for before, after, by in zip(widths, widths[1:], DILATIONS))
        self.up = nn.ModuleList(
            ConvNormReLU(ndim, 2 * inner, outputs if level == 0 else inner, kernel, dilation=DILATIONS[level]) for level in range(len(DILATIONS) - 1)
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, inputs, *spatial) to (B, outputs, *spatial)."""
        entered = self.entry(features)
        features, skips = entered, []
        for convolution in self.down:
            features = convolution(features)
            skips.append(features)
        for level in reversed(range(len(self.up))):
            features = self.up[level](torch.cat([features, skips[level]], dim=1))
        return features + entered


class CrossAttention(nn.Module):
    """The skip and what comes from below weigh each other: by channels one way, by voxels the other."""

    def __init__(self, ndim: int, below: int, features: int) -> None:
        super().__init__()
        reduced = max(2, features // REDUCTION)  # one alone could not be normalised
        self.enter = ConvNormReLU(ndim, below, features, 1)
        # over the channels: a map of one voxel has no statistics of its own
        self.channels = nn.Sequential(
            conv(ndim, features, reduced, 1), nn.GroupNorm(1, reduced), nn.ReLU(), conv(ndim, reduced, features, 1), nn.GroupNorm(1, features), nn.Sigmoid()
        )
        self.reduce = ConvNormReLU(ndim, features, reduced, 1)
        self.voxels = conv(ndim, 2, 1, 3, bias=False)
        self.after = ConvNormReLU(ndim, features, features)

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """Two weighed maps one after the other, (B, 2 * features, *spatial of the skip)."""
        below = self.enter(resized(below, skip.shape[2:]))
        weighed = skip * self.channels(below.mean(dim=tuple(range(2, below.ndim)), keepdim=True))
        reduced = self.reduce(weighed)
        where = torch.sigmoid(self.voxels(torch.cat([reduced.mean(dim=1, keepdim=True), reduced.amax(dim=1, keepdim=True)], dim=1)))
        return torch.cat([self.after(2 * weighed), self.after(2 * below * where)], dim=1)


@NETWORKS.register("uiunet")
class DynamicUIUNet(Backbone):
    """UIU-Net with the plan's strides outside and inside.

    A stage's inner U is as high as its map allows: with a coarsest map of 4 voxels, that of stage s can be halved once more than there are
    stages below. The last two stages and those left too low are dilated instead. Attention joins every skip but the finest, as in the paper.
    The finest features are gathered from all decoder stages and the bottom.

    Parameters
    ----------
    inputs, ndim, strides, kernel_sizes, features_per_stage, blocks_per_stage
        See ``build_network``; blocks are not used, a stage is one inner U.
    height
        Of the first stage's inner U; one less per stage. The paper's is 7, the minimal variant's 5.
    inner_features
        Width of every stage's inner U; a quarter of the stage's features (4 at least) if left out.
    side_features
        What every stage contributes to the finest features.
    width
        Factor on the features of every stage.
    """

    default_field_resolution = 2

    def __init__(
        self,
        *,
        inputs: int,
        ndim: int,
        strides: Sequence[Sequence[int]],
        kernel_sizes: Sequence[Sequence[int]],
        features_per_stage: Sequence[int],
        blocks_per_stage: Sequence[int],
        height: int = 7,
        inner_features: Sequence[int] | None = None,
        side_features: int = 4,
        width: float = 1.0,
    ) -> None:
        stages, relative = len(strides), total_strides(strides)
        features = [max(2, round(width * planned)) for planned in features_per_stage]
        inner = list(inner_features or [max(4, planned // 4) for planned in features])
        if height < SMALLEST_HEIGHT or len(inner) != stages or side_features < 1:
            raise ConfigurationError(
                f"uiunet needs height >= {SMALLEST_HEIGHT}, side_features >= 1 and inner_features for {stages} stages, "
                f"found {height}, {side_features} and {len(inner)}."
            )
        decoded = [features[0], *features[: stages - 2]]  # a decoder stage leaves the width of the skip it meets next
        super().__init__(
            inputs=inputs, ndim=ndim, widths=[decoded[0] + stages * side_features - side_features, *decoded[1:]], strides=relative[:-1], divisor=relative[-1]
        )
        self.stride_steps = [tuple(stride) for stride in strides]

        def stage(level: int, before: int, inside: int, after: int) -> nn.Module:
            high = min(max(height - level, SMALLEST_HEIGHT if height < 7 else 4), stages - level + 2)
            if level >= stages - 2:
                return DilatedResidualU(ndim, before, inside, after, kernel_sizes[level])
            inside_strides = [*strides[level + 1 :], *[strides[-1]] * high][: high - 2]
            return ResidualU(ndim, before, inside, after, kernel_sizes[level], inside_strides)

        self.encoder = nn.ModuleList(stage(level, before, inner[level], after) for level, (before, after) in enumerate(zip([inputs, *features], features)))
        self.decoder = nn.ModuleList(
            stage(level, 2 * features[level], max(2, inner[level] // (1 if level else 2)), decoded[level]) for level in range(stages - 1)
        )
        below = [*decoded[1:], features[-1]]
        self.attention = nn.ModuleList(CrossAttention(ndim, below[level], features[level]) for level in range(1, stages - 1))
        self.enter = nn.Identity() if below[0] == features[0] else conv(ndim, below[0], features[0], 1)
        self.sides = nn.ModuleList(conv(ndim, side, side_features) for side in below)
        initialise(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features of every decoder stage, finest first."""
        skips: list[Tensor] = []
        features = images
        for stage, stride in zip(self.encoder, self.stride_steps):
            features = stage(pooled(features, stride, "max"))
            skips.append(features)
        found: list[Tensor] = []
        sides = []
        for level in reversed(range(len(self.decoder))):
            sides.append(resized(self.sides[level](features), skips[0].shape[2:]))
            if level:
                joined = self.attention[level - 1](features, skips[level])
            else:
                joined = torch.cat([self.enter(resized(features, skips[0].shape[2:])), skips[0]], dim=1)
            features = self.decoder[level](joined)
            found.insert(0, features)
        found[0] = torch.cat([found[0], *sides], dim=1)
        return found


DynamicUIUNet3D = DynamicUIUNet  # the name that earlier configurations use
