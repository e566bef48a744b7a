"""Backbones, and the two heads that make a network of one: fields for registration, logits for dense prediction.

A backbone maps images to features of several resolutions and knows nothing of the task. It only ever sees sizes that its strides divide: the
heads pad what they are given by repeating the last voxels and cut off what that added, so every network takes any size. A coarse voxel of a
backbone stands for the block of voxels that its stride spans, its centre being the block's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from nnreg.architecture.base import RegistrationNetwork
from nnreg.architecture.blocks import Convolution, FlowHead, initialise
from nnreg.architecture.pyramid import crop_to, field_stages, finer_field
from nnreg.errors import ConfigurationError
from nnreg.geometry import integrate

Stride = tuple[int, ...]


class Backbone(nn.Module, ABC):
    """``backbone(images) -> [features, half, quarter, ...]``, finest first; what a contributor derives a network from.

    Parameters
    ----------
    inputs
        Channels of the images: those of both images of a pair together, or those of one image.
    ndim
        2 or 3.
    widths, strides
        Features of every output, and its stride relative to the images, finest first.
    divisor
        What image sizes have to be multiples of; the coarsest stride of the outputs if left out.
    """

    default_field_resolution: ClassVar[int] = 1
    """Stride of the finest field in registration where neither plan nor user names one; 2 for what is too heavy at full resolution."""

    def __init__(self, *, inputs: int, ndim: int, widths: Sequence[int], strides: Sequence[Sequence[int]], divisor: Sequence[int] | None = None) -> None:
        super().__init__()
        if ndim not in (2, 3) or inputs < 1:
            raise ConfigurationError(f"a network needs images of 2 or 3 axes and 1 channel or more, found {ndim} axes and {inputs} channels.")
        self.inputs, self.ndim = inputs, ndim
        self.widths: tuple[int, ...] = tuple(widths)
        self.strides: tuple[Stride, ...] = tuple(tuple(stride) for stride in strides)
        self.divisor: Stride = tuple(divisor or self.strides[-1])

    @abstractmethod
    def forward(self, images: Tensor) -> list[Tensor]:
        """Features (B, widths[i], *spatial / strides[i]) of images (B, inputs, *spatial) whose sizes `divisor` divides."""


def total_strides(strides: Sequence[Sequence[int]]) -> list[Stride]:
    """Stride of every stage relative to the input, from the strides of each relative to the one before."""
    total: Stride = (1,) * len(strides[0])
    result = []
    for stride in strides:
        total = tuple(before * step for before, step in zip(total, stride))
        result.append(total)
    return result


def pad_to_multiple(images: Tensor, divisor: Sequence[int]) -> Tensor:
    """Repeat the last voxels of (B, C, *spatial) until every size is a multiple of `divisor`, and one of them two of it or more.

    A map of a single voxel has no statistics to be normalised by, so the deepest one gets two.
    """
    missing = [-size % unit for size, unit in zip(images.shape[2:], divisor)]
    if all(size <= unit for size, unit in zip(images.shape[2:], divisor)):
        missing[-1] += divisor[-1]
    if not any(missing):
        return images
    return nnf.pad(images, [side for extra in reversed(missing) for side in (0, extra)], mode="replicate")


def sampled_along_axes(field: Tensor, positions: Sequence[Tensor]) -> Tensor:
    """Values of (B, C, *spatial) on the grid whose k-th axis has the given positions (in voxels), linear between voxels and beyond them."""
    for axis, position in enumerate(positions, start=2):
        last = field.shape[axis] - 1
        lower = position.floor().clamp(0, max(last - 1, 0))
        share = (position - lower).reshape([-1 if axis == other else 1 for other in range(field.ndim)])
        index = lower.long()
        field = torch.lerp(field.index_select(axis, index), field.index_select(axis, (index + 1).clamp(max=last)), share)
    return field


class FieldNetwork(RegistrationNetwork):
    """A backbone on both images at once, and a flow head at each of its resolutions (VoxelMorph's idea on any backbone).

    Parameters
    ----------
    backbone
        Class of the backbone, or a function called as it.
    channels, ndim, strides, kernel_sizes, features_per_stage, blocks_per_stage, deep_supervision
        See ``build_network``.
    field_resolution
        Stride at which the backbone starts; the full field is its finest one interpolated. None takes the backbone's default.
    integration_steps
        0 takes what the heads return as displacements; more as stationary velocities, integrated by so many squarings.
    **options
        The backbone's own.
    """

    def __init__(
        self,
        backbone: Callable[..., Backbone],
        *,
        channels: int,
        ndim: int,
        strides: Sequence[Sequence[int]],
        kernel_sizes: Sequence[Sequence[int]],
        features_per_stage: Sequence[int],
        blocks_per_stage: Sequence[int],
        deep_supervision: bool = True,
        field_resolution: int | None = None,
        integration_steps: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(channels=channels, ndim=ndim, deep_supervision=deep_supervision)
        if integration_steps < 0:
            raise ConfigurationError(f"a network needs integration_steps >= 0, found {integration_steps}.")
        self.integration_steps = integration_steps
        if field_resolution is None:
            field_resolution = int(getattr(backbone, "default_field_resolution", 1))
        finest, relative = field_stages(strides, field_resolution, at_least=2)
        start, inputs = relative[0], 2 * channels
        self.entry_stride = start
        self.entry: nn.Module = nn.Identity()
        if max(start) > 1:
            self.entry = Convolution(ndim, inputs, features_per_stage[finest], kernel_sizes[finest], start)
            inputs = features_per_stage[finest]
        self.backbone = backbone(
            inputs=inputs,
            ndim=ndim,
            strides=[(1,) * ndim, *strides[finest + 1 :]],
            kernel_sizes=kernel_sizes[finest:],
            features_per_stage=features_per_stage[finest:],
            blocks_per_stage=blocks_per_stage[finest:],
            **options,
        )
        self.field_strides = [tuple(first * step for first, step in zip(start, stride)) for stride in self.backbone.strides]
        self.heads = nn.ModuleList(FlowHead(ndim, width, (3,) * ndim) for width in self.backbone.widths)
        initialise(self.entry)
        initialise(self.heads)

    @property
    def coarsest_stride(self) -> Stride:
        """Voxels of the images that one of the deepest map stands for."""
        return tuple(first * step for first, step in zip(self.entry_stride, self.backbone.divisor))

    @property
    def field_count(self) -> int:
        """One per resolution of the backbone, and the full one where its finest is coarser."""
        return len(self.heads) + (max(self.field_strides[0]) > 1)

    @property
    def field_stride(self) -> tuple[int, ...]:
        """That of the entry; a backbone whose finest features are coarser has its voxels between those of the input."""
        return self.field_strides[0] if max(self.backbone.strides[0]) == 1 else (1,) * self.ndim

    def fields(self, fixed: Tensor, moving: Tensor) -> list[Tensor]:
        """Fields, finest first; the coarser ones only with deep supervision."""
        shape = tuple(fixed.shape[2:])
        entered = self.entry(torch.cat([fixed, moving], dim=1))
        features = self.backbone(pad_to_multiple(entered, self.backbone.divisor))
        flows = self.flows(features)
        if self.integration_steps:
            flows = [integrate(flow, self.integration_steps) for flow in flows]
        if max(self.backbone.strides[0]) == 1:
            full = finer_field(crop_to(flows[0], entered.shape[2:]), self.field_stride, shape)
        else:
            full = self._sampled(flows[0], 0, shape, shape)
        if not self.deep_supervision:
            return [full]
        coarser = [
            self._sampled(flow, level, shape, [ceil(size / step) for size, step in zip(shape, self.field_strides[level])]) for level, flow in enumerate(flows)
        ]
        return [full, *coarser] if max(self.field_strides[0]) > 1 else [full, *coarser[1:]]

    def flows(self, features: Sequence[Tensor]) -> list[Tensor]:
        """What the heads make of the backbone's features, each in the voxels of its level; the first alone without deep supervision."""
        return [head(level) for head, level in zip(self.heads, features[: len(self.heads) if self.deep_supervision else 1])]

    def _sampled(self, flow: Tensor, level: int, shape: Sequence[int], counts: Sequence[int]) -> Tensor:
        """A level's field on a grid of `counts` voxels whose outermost ones are those of the input `shape`, in the voxels of that grid."""
        positions, factors = [], []
        for size, count, start, block, step in zip(shape, counts, self.entry_stride, self.backbone.strides[level], self.field_strides[level]):
            spacing = (size - 1) / (count - 1) if count > 1 else float(step)
            offset = start * (block - 1) / 2  # of the centre of the first block, in voxels of the input
            positions.append((torch.arange(count, dtype=torch.float32, device=flow.device) * spacing - offset) / step)
            factors.append(step / spacing)
        scale = torch.tensor(factors, device=flow.device).reshape(1, self.ndim, *(1,) * self.ndim)
        return sampled_along_axes(flow, positions) * scale


class DenseNetwork(nn.Module):
    """``network(images) -> [logits, half, quarter, ...]``: a backbone on one image, and a 1x1 convolution at each of its resolutions.

    Logits are (B, outputs, *spatial), finest first, sizes rounded up; never activations. With ``deep_supervision`` off the list has one
    entry. The switch changes no parameter, so weights load either way.

    Parameters
    ----------
    backbone
        Class of the backbone, or a function called as it.
    channels, outputs
        Of an image; logits per voxel.
    ndim, strides, kernel_sizes, features_per_stage, blocks_per_stage, deep_supervision
        See ``build_dense_network``.
    auxiliary
        Name to channels of further targets, each with a decoder and heads of its own; :meth:`with_auxiliary` returns them.
    **options
        The backbone's own.
    """

    output_layers = ("heads.", "decoders.", "auxiliary_heads.")
    """How the names of parameters begin that belong to the labels: weights for other labels are of no use there."""

    def __init__(
        self,
        backbone: Callable[..., Backbone],
        *,
        channels: int,
        outputs: int,
        ndim: int,
        deep_supervision: bool = True,
        auxiliary: Mapping[str, int] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if outputs < 1:
            raise ConfigurationError(f"a dense network needs 1 output or more, found {outputs}.")
        self.channels, self.outputs, self.ndim, self.deep_supervision = channels, outputs, ndim, deep_supervision
        self.backbone = backbone(inputs=channels, ndim=ndim, **options)
        self.heads = self._heads(outputs)
        if auxiliary and not hasattr(self.backbone, "another_decoder"):
            name = type(self.backbone).__name__
            raise ConfigurationError(
                f"network {name} has one decoder, auxiliary targets ({', '.join(auxiliary)}) need one each. Use plain_unet or resenc_unet."
            )
        self.decoders = nn.ModuleDict({name: self.backbone.another_decoder() for name in auxiliary or {}})  # type: ignore[operator]
        self.auxiliary_heads = nn.ModuleDict({name: self._heads(count) for name, count in (auxiliary or {}).items()})

    def _heads(self, outputs: int) -> nn.ModuleList:
        pointwise = nn.Conv2d if self.ndim == 2 else nn.Conv3d
        heads = nn.ModuleList(pointwise(width, outputs, 1) for width in self.backbone.widths)
        initialise(heads)
        return heads

    @property
    def output_count(self) -> int:
        """How many logits a call returns with deep supervision on."""
        return len(self.heads)

    @property
    def coarsest_stride(self) -> Stride:
        """Voxels of the image that one of the deepest map stands for."""
        return self.backbone.divisor

    @property
    def output_strides(self) -> tuple[Stride, ...]:
        """Stride of every logits relative to the image, finest first."""
        return self.backbone.strides

    def forward(self, images: Tensor) -> list[Tensor]:
        """Logits of images (B, C, *spatial) of any size."""
        return self._levels(self.backbone(self._checked(images)), self.heads, images)

    def with_auxiliary(self, images: Tensor) -> tuple[list[Tensor], dict[str, list[Tensor]]]:
        """Logits, and the maps (B, outputs, *spatial) of every auxiliary target, from one pass through the encoder."""
        encoded = self.backbone.encode(self._checked(images))  # type: ignore[operator]  # a backbone with further decoders has it
        logits = self._levels(self.backbone.decode(encoded), self.heads, images)  # type: ignore[operator]
        return logits, {name: self._levels(decoder(encoded), self.auxiliary_heads[name], images) for name, decoder in self.decoders.items()}  # type: ignore[arg-type]

    def _checked(self, images: Tensor) -> Tensor:
        if (images.shape[1], images.ndim) != (self.channels, self.ndim + 2):
            raise ConfigurationError(f"the network was built for images (B, {self.channels}, {self.ndim} axes), found {tuple(images.shape)}.")
        return pad_to_multiple(images, self.backbone.divisor)

    def _levels(self, features: Sequence[Tensor], heads: nn.ModuleList, images: Tensor) -> list[Tensor]:
        result = []
        for head, level, stride in zip(heads, features if self.deep_supervision else features[:1], self.backbone.strides):
            result.append(crop_to(head(level), [ceil(size / step) for size, step in zip(images.shape[2:], stride)]))
        return result
