"""Transformers made by others, as backbones: Primus of dynamic-network-architectures, Swin-UNETR of MONAI.

Both are imported when one is built: Primus needs timm, which needs a torchvision that fits torch; Swin-UNETR needs MONAI.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from nnreg.architecture.backbone import Backbone, total_strides
from nnreg.architecture.base import NETWORKS
from nnreg.architecture.blocks import block_settings
from nnreg.errors import ConfigurationError, did_you_mean

PRIMUS_SIZES = {"S": (396, 12, 6), "B": (792, 12, 12), "M": (864, 16, 12), "L": (1056, 24, 16)}  # features, depth, heads: Wald et al. 2025
LARGEST_PATCH = 8
REFERENCE = 16  # tokens per axis for which the learnt positions are made; other sizes are interpolated
SWIN_DIVISOR = 32


@NETWORKS.register("primus")
class Primus(Backbone):
    """Primus: a convolution that makes tokens, a vision transformer with rotary positions, transposed convolutions back to full size.

    One resolution, so that a network of it returns one field or one logits. Images of 2 axes are one slice thick.

    Parameters
    ----------
    inputs, ndim, strides, kernel_sizes, features_per_stage, blocks_per_stage
        See ``build_network``. A token is as large as the plan's total stride, 8 voxels per axis at most; it returns the features of stage 0.
    size
        ``S``, ``B``, ``M`` or ``L`` of the paper.
    embed_dim, depth, heads
        In place of a size; `embed_dim` must be a multiple of 6 times `heads`.
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
        size: str = "S",
        embed_dim: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
    ) -> None:
        if size not in PRIMUS_SIZES:
            raise ConfigurationError(f"primus: size {size!r} is unknown; {did_you_mean(size, PRIMUS_SIZES)}")
        features, blocks, attention = (own or usual for own, usual in zip((embed_dim, depth, heads), PRIMUS_SIZES[size]))
        if features % (6 * attention):
            raise ConfigurationError(f"primus: embed_dim {features} must be a multiple of 6 * heads, {6 * attention}.")
        token = tuple(min(LARGEST_PATCH, 2 ** (step.bit_length() - 1)) for step in total_strides(strides)[-1])
        if max(token) < 2:
            raise ConfigurationError(f"primus: the plan's strides {[tuple(stride) for stride in strides]} leave tokens of one voxel; it needs 2 or more.")
        super().__init__(inputs=inputs, ndim=ndim, widths=[features_per_stage[0]], strides=[(1,) * ndim], divisor=token)
        token3d = (1, *token) if ndim == 2 else token
        reference = tuple(REFERENCE if step > 1 else 1 for step in token3d)
        network, rotary = _primus()
        self.network = network(
            input_channels=inputs,
            embed_dim=features,
            patch_embed_size=token3d,
            num_classes=features_per_stage[0],
            eva_depth=blocks,
            eva_numheads=attention,
            input_shape=tuple(count * step for count, step in zip(reference, token3d)),
            # without a shape of its own it makes the positions of any
            rope_impl=lambda dim, feat_shape, **settings: rotary(dim, feat_shape=None, **settings),
        )
        self.reference = reference

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features at full resolution."""
        volume = images.unsqueeze(2) if self.ndim == 2 else images
        tokens = self.network.down_projection(volume)
        grid = tokens.shape[2:]
        eva = self.network.eva
        learnt = eva.pos_embed.transpose(1, 2).unflatten(2, self.reference)
        if grid != self.reference:
            learnt = nnf.interpolate(learnt, size=tuple(grid), mode="trilinear", align_corners=False)
        sequence = tokens.flatten(2).transpose(1, 2) + learnt.flatten(2).transpose(1, 2)
        rotary = eva.rope.get_embed(shape=list(grid))
        for block in eva.blocks:
            sequence = block(sequence, rope=rotary)
        features = self.network.up_projection(eva.norm(sequence).transpose(1, 2).unflatten(2, tuple(grid)))
        return [features.squeeze(2) if self.ndim == 2 else features]


@NETWORKS.register("swin_unetr")
class SwinUNETR(Backbone):
    """Swin-UNETR of MONAI: windows of shifted attention in the encoder, convolutions in the decoder.

    One resolution. It halves every axis five times whatever the plan says, so sizes are padded to multiples of 32.

    Parameters
    ----------
    inputs, ndim, strides, kernel_sizes, features_per_stage, blocks_per_stage
        See ``build_network``; the plan's stages are not used.
    feature_size
        Features at full resolution, a multiple of 12.
    depths, num_heads
        Blocks and attention heads of the four stages.
    use_checkpoint
        Compute blocks again in the backward pass instead of keeping what they computed.
    dropout
        Share of the values that training sets to 0 in the attention's blocks.
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
        feature_size: int = 24,
        depths: Sequence[int] = (2, 2, 2, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        use_checkpoint: bool = False,
        dropout: float = 0.0,
    ) -> None:
        block_settings(ndim, dropout=dropout)  # the same check for all networks
        if feature_size % 12:
            raise ConfigurationError(f"swin_unetr: feature_size {feature_size} must be a multiple of 12.")
        super().__init__(inputs=inputs, ndim=ndim, widths=[feature_size], strides=[(1,) * ndim], divisor=(SWIN_DIVISOR,) * ndim)
        self.network = _swin_unetr()(
            in_channels=inputs,
            out_channels=1,
            feature_size=feature_size,
            depths=tuple(depths),
            num_heads=tuple(num_heads),
            use_checkpoint=use_checkpoint,
            drop_rate=dropout,
            spatial_dims=ndim,
        )
        self.network.out = nn.Identity()  # the head is ours

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features at full resolution."""
        return [self.network(images)]


def _primus() -> tuple[Any, Any]:
    """The network's class and that of its rotary positions."""
    try:
        from dynamic_network_architectures.architectures.primus import Primus as Network
        from timm.layers import RotaryEmbeddingCat
    except (ImportError, RuntimeError) as error:  # torchvision of another torch raises a RuntimeError
        raise ConfigurationError(
            f"network 'primus' needs timm, which cannot be imported here ({str(error).splitlines()[0]}): "
            f"install timm and the torchvision that was built for torch {torch.__version__}."
        ) from error
    return Network, RotaryEmbeddingCat


def _swin_unetr() -> Any:
    try:
        from monai.networks.nets import SwinUNETR as Network
    except (ImportError, RuntimeError) as error:
        raise ConfigurationError(
            f"network 'swin_unetr' needs MONAI, which cannot be imported here ({str(error).splitlines()[0]}): pip install 'nnreg[monai]'."
        ) from error
    return Network
