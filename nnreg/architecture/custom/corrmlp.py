"""CorrMLP (Meng et al. 2024): coarse-to-fine registration by correlation and gated MLPs over windows of several sizes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from nnreg.architecture.base import NETWORKS, RegistrationNetwork
from nnreg.architecture.blocks import FlowHead, convolution, initialise
from nnreg.architecture.correlation import local_correlation
from nnreg.architecture.custom.parts import conv, maybe_checkpointed, resized
from nnreg.architecture.custom.window_mlp import MultiWindowMLP, channels_last
from nnreg.architecture.pyramid import crop_to, field_stages, finer_field, pad_for
from nnreg.errors import ConfigurationError, did_you_mean
from nnreg.geometry import warp

EXPANDINGS = ("transposed", "resize")
SLOPE = 0.2


class _Encode(nn.Module):
    """Twice: convolution, leaky ReLU, instance normalisation without weights."""

    def __init__(self, ndim: int, inputs: int, outputs: int, stride: Sequence[int]) -> None:
        super().__init__()
        self.stride = tuple(stride)
        size = tuple(max(3, 2 * step - 1) for step in stride)
        padding = tuple(width // 2 for width in size)
        self.first = convolution(ndim)(inputs, outputs, size, stride=self.stride, padding=padding)  # type: ignore[arg-type]
        self.second = conv(ndim, outputs, outputs)

    def forward(self, features: Tensor) -> Tensor:
        """(B, inputs, *spatial) to (B, outputs, *coarser)."""
        for layer in (self.first, self.second):
            padded = pad_for(features, self.stride) if layer is self.first else features
            features = nnf.instance_norm(nnf.leaky_relu(layer(padded), SLOPE))
        return features


class _CorrelatedMLP(nn.Module):
    """Two feature maps and their local correlation through a convolution and a multi-window MLP."""

    def __init__(self, ndim: int, inputs: int, outputs: int, radius: int, windows: Sequence[Sequence[int]], use_checkpoint: bool) -> None:
        super().__init__()
        self.radius, self.use_checkpoint = radius, use_checkpoint
        self.entry = conv(ndim, 2 * inputs + (2 * radius + 1) ** ndim, outputs)
        self.mlp = MultiWindowMLP(ndim, outputs, windows)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """(B, inputs, *spatial) twice to (B, outputs, *spatial)."""
        return maybe_checkpointed(self.use_checkpoint, self._forward, one, other)

    def _forward(self, one: Tensor, other: Tensor) -> Tensor:
        entered = self.entry(torch.cat([one, local_correlation(one, other, self.radius), other], dim=1))
        return entered + self.mlp(entered)


class _Expand(nn.Module):
    """Features of a coarser level at the next one's size, half as many."""

    def __init__(self, ndim: int, inputs: int, outputs: int, stride: Sequence[int], kind: str) -> None:
        super().__init__()
        self.up: nn.Module
        self.norm: nn.LayerNorm | None = None
        if kind == "transposed":
            transposed = nn.ConvTranspose2d if ndim == 2 else nn.ConvTranspose3d
            self.up = transposed(inputs, outputs, tuple(stride), stride=tuple(stride))  # type: ignore[arg-type]
            self.norm = nn.LayerNorm(outputs)
        else:
            self.up = conv(ndim, inputs, outputs)

    def forward(self, features: Tensor, shape: Sequence[int]) -> Tensor:
        """(B, inputs, *coarse) to (B, outputs, *shape)."""
        if self.norm is None:
            return nnf.leaky_relu(nnf.instance_norm(self.up(resized(features, shape))), SLOPE)
        return channels_last(self.norm, crop_to(self.up(features), shape))


@NETWORKS.register("corrmlp")
class CorrMLP(RegistrationNetwork):
    """A convolutional encoder on each image, weights shared; a decoder of correlation-aware MLPs that refines the flow from coarse to fine.

    At each level the flow so far is brought up, the moving features are warped by it, one MLP block sees both images' features, a second
    one that and the coarser level's features, and a head finds what is added to the flow. Levels are averaged about every voxel that stays,
    so that voxel i of a level lies at voxel ``stride * i`` of the finer one.

    Parameters
    ----------
    channels, ndim, strides, kernel_sizes, features_per_stage, blocks_per_stage, deep_supervision
        See ``build_network``; features and blocks are not used.
    levels
        At most so many resolutions, fewer if the plan has fewer.
    enc_channels, dec_channels
        Features of encoder and decoder at the finest level, doubled at every coarser one.
    corr_radius
        Of the correlation, voxels of a level.
    windows
        Sizes of the MLPs' windows; 1 along axes that the plan does not convolve.
    expanding
        How features are brought up: ``transposed`` convolution (the 3D original) or ``resize`` and convolution (its 2D port).
    use_checkpoint
        Compute blocks again in the backward pass instead of keeping what they computed: about a third slower, a fraction of the memory.
    field_resolution
        Stride of the finest level; 1 is the original, at many times the cost.
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
        levels: int = 4,
        enc_channels: int = 8,
        dec_channels: int = 16,
        corr_radius: int = 1,
        windows: Sequence[int] = (3, 5, 7),
        expanding: str = "transposed",
        use_checkpoint: bool = True,
        field_resolution: int = 2,
    ) -> None:
        super().__init__(channels=channels, ndim=ndim, deep_supervision=deep_supervision)
        if expanding not in EXPANDINGS:
            raise ConfigurationError(f"corrmlp: expanding {expanding!r} is unknown; {did_you_mean(expanding, EXPANDINGS)}")
        if min(levels, corr_radius, enc_channels) < 1 or dec_channels < 4 or not windows or min(windows) < 1:
            raise ConfigurationError(
                f"corrmlp needs levels, corr_radius, enc_channels and windows of 1 or more and dec_channels of 4 or more, "
                f"found {levels}, {corr_radius}, {enc_channels}, {list(windows)} and {dec_channels}."
            )
        finest, relative = field_stages(strides, field_resolution)
        count = min(levels, len(relative))
        self.field_strides = relative[:count]
        self.strides = [self.field_stride, *(tuple(stride) for stride in strides[finest + 1 : finest + count])]
        self.use_checkpoint = use_checkpoint
        encoded = [enc_channels * 2**level for level in range(count)]
        decoded = [dec_channels * 2**level for level in range(count)]
        ones = (1,) * ndim
        self.encoder = nn.ModuleList(
            _Encode(ndim, before, after, self.strides[0] if level == 0 else ones) for level, (before, after) in enumerate(pairwise([channels, *encoded]))
        )
        spans = [[tuple(size if along > 1 else 1 for along in kernel) for size in windows] for kernel in kernel_sizes[finest:]]
        self.across_images = nn.ModuleList(
            _CorrelatedMLP(ndim, before, after, corr_radius, span, use_checkpoint) for before, after, span in zip(encoded, decoded, spans)
        )
        self.across_levels = nn.ModuleList(_CorrelatedMLP(ndim, after, after, corr_radius, span, use_checkpoint) for after, span in zip(decoded[:-1], spans))
        self.expand = nn.ModuleList(_Expand(ndim, below, after, stride, expanding) for (after, below), stride in zip(pairwise(decoded), self.strides[1:]))
        self.heads = nn.ModuleList(FlowHead(ndim, after, (3,) * ndim) for after in decoded)
        initialise(self)

    @property
    def field_count(self) -> int:
        """One per level, and the full resolution where the finest level is coarser."""
        return len(self.heads) + (max(self.strides[0]) > 1)

    def fields(self, fixed: Tensor, moving: Tensor) -> list[Tensor]:
        """Fields, finest first; the coarser ones only with deep supervision."""
        shape = tuple(fixed.shape[2:])
        pyramid = []
        features = torch.cat([fixed, moving])  # one batch: shared weights, and one call instead of two
        for level, stage in enumerate(self.encoder):
            features = maybe_checkpointed(self.use_checkpoint, stage, _averaged(features, self.strides[level]) if level else features)
            pyramid.append(features)
        one, other = pyramid[-1].chunk(2)
        features = self.across_images[-1](one, other)
        found = [self.heads[-1](features)]
        for level in reversed(range(len(pyramid) - 1)):
            one, other = pyramid[level].chunk(2)
            field = finer_field(found[0], self.strides[level + 1], one.shape[2:])
            matched = self.across_images[level](one, warp(other, field).to(one.dtype))
            features = self.across_levels[level](matched, self.expand[level](features, one.shape[2:]))
            found.insert(0, field + self.heads[level](features))
        return self._at_all_resolutions(found, shape)


def _averaged(features: Tensor, stride: Sequence[int]) -> Tensor:
    """Means about every voxel that stays, of as many voxels to either side as the stride skips."""
    pool = nnf.avg_pool2d if features.ndim == 4 else nnf.avg_pool3d
    padded = nnf.pad(pad_for(features, stride), [step - 1 for step in reversed(stride) for _ in range(2)], mode="replicate")
    result: Tensor = pool(padded, [2 * step - 1 for step in stride], list(stride))
    return result
