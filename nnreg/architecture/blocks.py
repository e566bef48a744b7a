"""Blocks of dynamic-network-architectures with the settings that all networks share."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import Any

import torch
from dynamic_network_architectures.building_blocks.residual import StackedResidualBlocks
from dynamic_network_architectures.building_blocks.simple_conv_blocks import ConvDropoutNormReLU
from dynamic_network_architectures.initialization.weight_init import InitWeights_He, init_last_bn_before_add_to_0
from torch import Tensor, nn
from torch.nn import functional as nnf

from nnreg.architecture.pyramid import pad_for
from nnreg.errors import ConfigurationError, did_you_mean

FLOW_HEAD_STD = 1e-5  # near the identity at the start, and not so exactly zero that the layers before get no gradient
NEGATIVE_SLOPE = 0.01
NORM_EPS = 1e-5
GROUPS = 8  # of group normalisation, where they divide the features


SLOW_BELOW = 20480  # torch, aten/native/Convolution.cpp (use_mkldnn): a single sample of fewer rows is not given to oneDNN


class VolumeConvolution(nn.Conv3d):
    """A convolution that hands a single small volume to the CPU as two overlapping halves.

    Torch gives one small volume to a plain implementation, five to nine times slower than oneDNN, which it uses for any batch of two. Such
    volumes are what the coarse levels of a pyramid consist of.
    """

    def forward(self, input: Tensor) -> Tensor:
        """As ``torch.nn.Conv3d``."""
        depth, span = input.shape[2], self.kernel_size[0]
        if input.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            if depth > 1:  # bfloat16 goes to oneDNN whatever the size
                return self._by_slices(input) if span == 1 and not isinstance(self.padding, str) else super().forward(input)
            # oneDNN's bfloat16 convolution of a single slice leaves values unset on processors with AMX (seen with torch 2.13)
            with torch.autocast("cpu", enabled=False):
                return super().forward(input.float())
        small = input.shape[0] == 1 and input.shape[1] * depth * input.shape[3] <= SLOW_BELOW and depth >= 4
        if not small or input.device.type != "cpu" or max(self.stride) > 1 or max(self.dilation) > 1 or isinstance(self.padding, str):
            return super().forward(input)
        half = (depth + 1) // 2
        padded = nnf.pad(input, [0, 0, 0, 0, self.padding[0], self.padding[0]])
        halves = torch.cat([padded[:, :, : half + span - 1], padded[:, :, depth - half :]])
        first, second = nnf.conv3d(halves, self.weight, self.bias, padding=(0, *self.padding[1:]), groups=self.groups).chunk(2)
        return torch.cat([first[:, :, : depth - half], second], dim=2)

    def _by_slices(self, input: Tensor) -> Tensor:
        """A kernel of one slice as a convolution of images.

        As volumes of few slices oneDNN gives NaN for gradients of the weights in bfloat16, on processors with AMX (seen with torch 2.13).
        """
        slices = input.transpose(1, 2)[:, :: self.stride[0]].flatten(0, 1)
        found = nnf.conv2d(slices, self.weight[:, :, 0], self.bias, self.stride[1:], self.padding[1:], self.dilation[1:], self.groups)
        return found.unflatten(0, (len(input), -1)).transpose(1, 2)


def convolution(ndim: int) -> type[nn.Conv2d] | type[nn.Conv3d]:
    """The convolution of 2 or 3 axes."""
    return nn.Conv2d if ndim == 2 else VolumeConvolution


class GroupNormalization(nn.GroupNorm):
    """Group normalisation of any number of features: eight groups, or as many as divide both."""

    def __init__(self, features: int, **options: Any) -> None:
        super().__init__(gcd(GROUPS, features), features, **options)


NORMALIZATIONS: dict[str, tuple[type[nn.Module], type[nn.Module]]] = {
    "instance": (nn.InstanceNorm2d, nn.InstanceNorm3d),
    "batch": (nn.BatchNorm2d, nn.BatchNorm3d),
    "group": (GroupNormalization, GroupNormalization),
}
"""Layers by name, for images of 2 and of 3 axes."""


def block_settings(ndim: int, normalization: str = "instance", dropout: float = 0.0) -> dict[str, Any]:
    """Normalisation and leaky ReLU of a block; by default as nnU-Net has them, instance normalisation (batches are of one or two pairs) and no dropout.

    Parameters
    ----------
    ndim
        2 or 3.
    normalization
        ``instance``, ``batch`` or ``group``.
    dropout
        Share of the values that training sets to 0 after each convolution that may have it (of a residual block, the first).

    Raises
    ------
    ConfigurationError
        Unknown normalisation, share out of range.
    """
    if normalization not in NORMALIZATIONS:
        raise ConfigurationError(f"architecture.normalization {normalization!r} is unknown; {did_you_mean(str(normalization), NORMALIZATIONS)}")
    if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
        raise ConfigurationError(f"architecture.dropout is {dropout!r}: expected a share of 0 or more and below 1, such as 0.5.")
    settings = {
        "conv_op": convolution(ndim),
        "conv_bias": True,
        "norm_op": NORMALIZATIONS[normalization][ndim - 2],
        "norm_op_kwargs": {"eps": NORM_EPS, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"negative_slope": NEGATIVE_SLOPE, "inplace": True},
    }
    return settings | ({"dropout_op": nn.Dropout, "dropout_op_kwargs": {"p": float(dropout)}} if dropout else {})


class Convolution(nn.Module):
    """Convolution, normalisation, leaky ReLU; a stride gives the size of ``pyramid.coarser_shape``."""

    def __init__(self, ndim: int, inputs: int, outputs: int, kernel: Sequence[int], stride: Sequence[int] | None = None, *, norm: bool = True) -> None:
        super().__init__()
        self.stride = tuple(stride or (1,) * ndim)
        # a kernel shorter than 2 * stride - 1 would leave voxels between its steps unseen
        size = [max(width, 2 * step - 1) for width, step in zip(kernel, self.stride)]
        settings = block_settings(ndim)
        if not norm:
            settings |= {"norm_op": None, "norm_op_kwargs": None}
        self.block = ConvDropoutNormReLU(input_channels=inputs, output_channels=outputs, kernel_size=size, stride=list(self.stride), **settings)

    def forward(self, features: Tensor) -> Tensor:
        """(B, inputs, *spatial) to (B, outputs, *coarser)."""
        return self.block(pad_for(features, self.stride))


class Stage(nn.Module):
    """One encoder stage: a strided convolution, then residual blocks at its resolution.

    The stride sits before the residual blocks because the average pooling on their skip rounds odd sizes down while their convolution rounds up.
    """

    def __init__(self, ndim: int, inputs: int, outputs: int, kernel: Sequence[int], stride: Sequence[int], blocks: int) -> None:
        super().__init__()
        self.entry = Convolution(ndim, inputs, outputs, kernel, stride)
        settings = block_settings(ndim)
        self.blocks = (
            StackedResidualBlocks(
                blocks, settings.pop("conv_op"), input_channels=outputs, output_channels=outputs, kernel_size=list(kernel), initial_stride=1, **settings
            )
            if blocks
            else nn.Identity()
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, inputs, *spatial) to (B, outputs, *coarser)."""
        return self.blocks(self.entry(features))


class FlowHead(nn.Module):
    """Convolution to one component per axis, near zero at the start."""

    def __init__(self, ndim: int, inputs: int, kernel: Sequence[int]) -> None:
        super().__init__()
        self.convolution: nn.Conv2d | nn.Conv3d
        if ndim == 2:
            self.convolution = nn.Conv2d(inputs, ndim, (kernel[0], kernel[1]), padding=(kernel[0] // 2, kernel[1] // 2))
        else:
            sizes = (kernel[0], kernel[1], kernel[2])
            self.convolution = VolumeConvolution(inputs, ndim, sizes, padding=(sizes[0] // 2, sizes[1] // 2, sizes[2] // 2))

    def forward(self, features: Tensor) -> Tensor:
        """(B, inputs, *spatial) to (B, ndim, *spatial), float32 whatever autocast says."""
        return self.convolution(features).float()

    def start_near_zero(self) -> None:
        """Weights of standard deviation 1e-5, no bias (VoxelMorph, CorrMLP)."""
        nn.init.normal_(self.convolution.weight, std=FLOW_HEAD_STD)
        if self.convolution.bias is not None:
            nn.init.zeros_(self.convolution.bias)


def initialise(network: nn.Module) -> None:
    """He's initialisation for every convolution, residual blocks that start as the identity, heads near zero."""
    network.apply(InitWeights_He(NEGATIVE_SLOPE))
    network.apply(init_last_bn_before_add_to_0)
    for module in network.modules():
        if isinstance(module, FlowHead):
            module.start_near_zero()
