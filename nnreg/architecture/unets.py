"""nnU-Net's plain and residual encoder U-Nets, from the encoders of dynamic-network-architectures."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder
from dynamic_network_architectures.building_blocks.simple_conv_blocks import StackedConvBlocks
from torch import Tensor, nn

from nnreg.architecture.backbone import Backbone, total_strides
from nnreg.architecture.base import NETWORKS
from nnreg.architecture.blocks import block_settings, initialise
from nnreg.errors import ConfigurationError


class _UNet(Backbone):
    """An encoder of one feature map per stage, and nnU-Net's decoder: transposed convolution, concatenation, convolutions."""

    default_field_resolution = 2

    def __init__(
        self,
        encoder: nn.Module,
        *,
        inputs: int,
        ndim: int,
        strides: Sequence[Sequence[int]],
        kernel_sizes: Sequence[Sequence[int]],
        features: Sequence[int],
        convolutions: Sequence[int],
        settings: Mapping[str, Any],
    ) -> None:
        relative = total_strides(strides)
        super().__init__(inputs=inputs, ndim=ndim, widths=features[:-1], strides=relative[:-1], divisor=relative[-1])
        self.encoder = encoder
        self._decoder_of = functools.partial(_decoder_parts, settings, strides, kernel_sizes, features, convolutions)
        self.ups, self.joins = self._decoder_of()
        initialise(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features of every decoder stage, finest first."""
        return self.decode(self.encode(images))

    def decode(self, encoded: Sequence[Tensor]) -> list[Tensor]:
        """Features of every decoder stage, finest first, from those of the encoder."""
        return _decoded(encoded, self.ups, self.joins)

    def encode(self, images: Tensor) -> list[Tensor]:
        """Features of every encoder stage, finest first: what decoders start from."""
        found: list[Tensor] = self.encoder(images)
        return found

    def another_decoder(self) -> UNetDecoder:
        """A further decoder of the same encoder, with weights of its own."""
        decoder = UNetDecoder(*self._decoder_of())
        initialise(decoder)
        return decoder


class UNetDecoder(nn.Module):
    """A decoder beside the network's first one: features of every stage, finest first, from those of the encoder."""

    def __init__(self, ups: nn.ModuleList, joins: nn.ModuleList) -> None:
        super().__init__()
        self.ups, self.joins = ups, joins

    def forward(self, encoded: Sequence[Tensor]) -> list[Tensor]:
        """As the network's own."""
        return _decoded(encoded, self.ups, self.joins)


def _decoder_parts(
    settings: Mapping[str, Any], strides: Sequence[Sequence[int]], kernel_sizes: Sequence[Sequence[int]], features: Sequence[int], convolutions: Sequence[int]
) -> tuple[nn.ModuleList, nn.ModuleList]:
    """Transposed convolutions, and the convolutions after each."""
    transposed = nn.ConvTranspose2d if len(strides[0]) == 2 else nn.ConvTranspose3d
    ups = nn.ModuleList(
        transposed(below, width, tuple(stride), stride=tuple(stride))  # type: ignore[arg-type]
        for (width, below), stride in zip(pairwise(features), strides[1:])
    )
    joins = nn.ModuleList(
        StackedConvBlocks(num_convs=count, input_channels=2 * width, output_channels=width, kernel_size=list(kernel), initial_stride=1, **settings)
        for count, width, kernel in zip(convolutions, features[:-1], kernel_sizes)
    )
    return ups, joins


def _decoded(encoded: Sequence[Tensor], ups: nn.ModuleList, joins: nn.ModuleList) -> list[Tensor]:
    *skips, features = encoded
    found: list[Tensor] = []
    for up, join, skip in zip(reversed(ups), reversed(joins), reversed(skips)):
        features = join(torch.cat([up(features), skip], dim=1))
        found.insert(0, features)
    return found


@NETWORKS.register("plain_unet")
class PlainUNet(_UNet):
    """nnU-Net's default U-Net: `blocks_per_stage` convolutions in every encoder stage, `decoder_convolutions` in every decoder stage.

    Where these are to differ, `decoder_blocks_per_stage` names them one by one, finest first. `normalization` and `dropout`: see ``block_settings``.
    """

    def __init__(
        self,
        *,
        inputs: int,
        ndim: int,
        strides: Sequence[Sequence[int]],
        kernel_sizes: Sequence[Sequence[int]],
        features_per_stage: Sequence[int],
        blocks_per_stage: Sequence[int],
        decoder_convolutions: int = 2,
        decoder_blocks_per_stage: Sequence[int] | None = None,
        normalization: str = "instance",
        dropout: float = 0.0,
    ) -> None:
        decoder = _decoder(decoder_blocks_per_stage, decoder_convolutions, len(strides))
        if min(*decoder, *blocks_per_stage) < 1:
            raise ConfigurationError(f"plain_unet needs 1 convolution or more per stage, found {list(blocks_per_stage)} and {decoder}.")
        settings = block_settings(ndim, normalization, dropout)
        encoder = PlainConvEncoder(
            input_channels=inputs,
            n_stages=len(strides),
            features_per_stage=list(features_per_stage),
            kernel_sizes=[list(kernel) for kernel in kernel_sizes],
            strides=[list(stride) for stride in strides],
            n_conv_per_stage=list(blocks_per_stage),
            return_skips=True,
            **settings,
        )
        stages: dict[str, Any] = {"strides": strides, "kernel_sizes": kernel_sizes, "features": features_per_stage, "convolutions": decoder}
        super().__init__(encoder, inputs=inputs, ndim=ndim, settings=settings, **stages)


@NETWORKS.register("resenc_unet")
class ResidualEncoderUNet(_UNet):
    """nnU-Net's residual encoder U-Net: `blocks_per_stage` residual blocks in every encoder stage (1, 3, 4, 6, 6, ... in its plans).

    `normalization` and `dropout`: see ``block_settings``.
    """

    def __init__(
        self,
        *,
        inputs: int,
        ndim: int,
        strides: Sequence[Sequence[int]],
        kernel_sizes: Sequence[Sequence[int]],
        features_per_stage: Sequence[int],
        blocks_per_stage: Sequence[int],
        decoder_convolutions: int = 1,
        decoder_blocks_per_stage: Sequence[int] | None = None,
        encoder_blocks: Sequence[int] | None = None,
        encoder_features: Sequence[int] | None = None,
        normalization: str = "instance",
        dropout: float = 0.0,
    ) -> None:
        stages = len(strides)
        blocks = _stretched(encoder_blocks, stages) if encoder_blocks else list(blocks_per_stage)
        features = _stretched(encoder_features, stages) if encoder_features else list(features_per_stage)
        decoder = _decoder(decoder_blocks_per_stage, decoder_convolutions, stages)
        if min(*decoder, *blocks) < 1:
            raise ConfigurationError(f"resenc_unet needs 1 block or more per stage, found {blocks} and {decoder}.")
        settings = block_settings(ndim, normalization, dropout)
        encoder = ResidualEncoder(
            input_channels=inputs,
            n_stages=stages,
            features_per_stage=features,
            kernel_sizes=[list(kernel) for kernel in kernel_sizes],
            strides=[list(stride) for stride in strides],
            n_blocks_per_stage=blocks,
            return_skips=True,
            **settings,
        )
        shape: dict[str, Any] = {"strides": strides, "kernel_sizes": kernel_sizes, "features": features, "convolutions": decoder}
        super().__init__(encoder, inputs=inputs, ndim=ndim, settings=settings, **shape)


def _decoder(per_stage: Sequence[int] | None, convolutions: int, stages: int) -> list[int]:
    """Convolutions of every decoder stage, finest first: one number per stage that is decoded, or one for all."""
    if per_stage is None:
        return [convolutions] * (stages - 1)
    if len(per_stage) != stages - 1:
        raise ConfigurationError(f"decoder_blocks_per_stage has {len(per_stage)} numbers, expected {stages - 1}: one per stage but the last, finest first.")
    return list(per_stage)


def _stretched(values: Sequence[int], stages: int) -> list[int]:
    """The first `stages` values, the last one repeated: a preset says how a network widens, the plan how deep it is."""
    return [*values, *[values[-1]] * stages][:stages]
