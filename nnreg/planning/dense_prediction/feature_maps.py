"""Elements of a U-Net's feature maps, in closed form: nnU-Net's measure of memory, without building the network.

Every result of a convolution counts, for one sample, without deep supervision. With ``V_s`` voxels and ``f_s`` features at stage s,
``n_s`` blocks in the encoder and ``d_s`` convolutions in the decoder, the decoder and the head give
``sum_s (d_s + 1) f_s V_s + heads V_0`` over all stages but the last (the one more is the transposed convolution). The plain encoder gives
``sum_s n_s f_s V_s``; the residual one ``f_0 V_0`` (stem) ``+ sum_s 2 n_s f_s V_s``, and ``f_s V_s`` more where a stage changes features or size.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from nnreg.planning.dense_prediction.presets import PLAIN, RESIDUAL


def stage_voxels(patch: Sequence[int], strides: Sequence[Sequence[int]]) -> list[int]:
    """Voxels of each stage's feature maps."""
    size, voxels = list(patch), []
    for stride in strides:
        size = [extent // step for extent, step in zip(size, stride, strict=True)]
        voxels.append(prod(size))
    return voxels


def plain_unet_elements(
    patch: Sequence[int], strides: Sequence[Sequence[int]], features: Sequence[int], encoder: Sequence[int], decoder: Sequence[int], heads: int
) -> int:
    """Elements of a plain U-Net's feature maps.

    Parameters
    ----------
    patch : voxels per axis
    strides, features, encoder
        Per stage; `encoder` counts convolutions.
    decoder
        Convolutions per stage on the way up, as the library lists them: coarsest first, the bottleneck left out.
    heads
        Output channels.
    """
    maps = _maps(patch, strides, features)
    return sum(count * size for count, size in zip(encoder, maps, strict=True)) + _decoder(maps, decoder, heads * stage_voxels(patch, strides)[0])


def residual_unet_elements(
    patch: Sequence[int], strides: Sequence[Sequence[int]], features: Sequence[int], encoder: Sequence[int], decoder: Sequence[int], heads: int
) -> int:
    """Elements of the feature maps of a U-Net with a residual encoder; `encoder` counts blocks, the rest as in :func:`plain_unet_elements`."""
    maps = _maps(patch, strides, features)
    total = features[0] * prod(patch) + _decoder(maps, decoder, heads * stage_voxels(patch, strides)[0])
    before = features[0]
    for count, size, width, stride in zip(encoder, maps, features, strides, strict=True):
        projected = width != before or any(step != 1 for step in stride)
        total += (2 * count + projected) * size
        before = width
    return total


ELEMENTS = {PLAIN: plain_unet_elements, RESIDUAL: residual_unet_elements}
"""By the network's name."""


def _maps(patch: Sequence[int], strides: Sequence[Sequence[int]], features: Sequence[int]) -> list[int]:
    return [width * voxels for width, voxels in zip(features, stage_voxels(patch, strides), strict=True)]


def _decoder(maps: Sequence[int], blocks: Sequence[int], head: int) -> int:
    """Decoder and head; a network of a single stage has neither, as the library counts."""
    if len(maps) == 1:
        return 0
    return head + sum((count + 1) * size for count, size in zip(blocks, reversed(maps[:-1]), strict=True))
