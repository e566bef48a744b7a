"""KiU-Net (Valanarasu et al. 2020): a U-Net, and beside it a branch that enlarges instead of shrinking, so that small things survive."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from nnreg.architecture.backbone import Backbone, total_strides
from nnreg.architecture.base import NETWORKS
from nnreg.architecture.blocks import initialise
from nnreg.architecture.custom.parts import ConvNormReLU, conv, maybe_checkpointed, norm, pooled, resized
from nnreg.errors import ConfigurationError, did_you_mean

POOL_TYPES = ("max", "avg", "conv")
FEWEST_KI_FEATURES = 4


class _Shrink(nn.Module):
    """Convolution, pooling by a stride, normalisation, ReLU; with ``conv`` the convolution itself is strided."""

    def __init__(self, ndim: int, inputs: int, outputs: int, kernel: Sequence[int], stride: Sequence[int], pool_type: str) -> None:
        super().__init__()
        self.stride, self.pool_type = tuple(stride), pool_type
        self.convolution = conv(ndim, inputs, outputs, kernel)
        self.after = nn.Sequential(norm(ndim, outputs), nn.ReLU())
        if pool_type == "conv" and max(stride) > 1:
            strided = nn.Conv2d if ndim == 2 else nn.Conv3d
            self.convolution = nn.Sequential(self.convolution, strided(outputs, outputs, tuple(stride), stride=tuple(stride)))  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """(B, inputs, *spatial) to (B, outputs, *spatial / stride)."""
        features = self.convolution(features)
        return self.after(features if self.pool_type == "conv" else pooled(features, self.stride, self.pool_type))


class _Enlarge(nn.Module):
    """Convolution, linear enlarging by a stride, normalisation, ReLU."""

    def __init__(self, ndim: int, inputs: int, outputs: int, kernel: Sequence[int], stride: Sequence[int]) -> None:
        super().__init__()
        self.stride = tuple(stride)
        self.convolution = conv(ndim, inputs, outputs, kernel)
        self.after = nn.Sequential(norm(ndim, outputs), nn.ReLU())

    def forward(self, features: Tensor) -> Tensor:
        """(B, inputs, *spatial) to (B, outputs, *spatial * stride)."""
        features = self.convolution(features)
        return self.after(resized(features, [size * by for size, by in zip(features.shape[2:], self.stride)]))


class _Refine(nn.Module):
    """Cross refinement: each branch gains what the other sees, both from the values before the exchange."""

    def __init__(self, ndim: int, u_features: int, ki_features: int) -> None:
        super().__init__()
        self.to_u, self.to_ki = ConvNormReLU(ndim, ki_features, u_features), ConvNormReLU(ndim, u_features, ki_features)

    def forward(self, u: Tensor, ki: Tensor) -> tuple[Tensor, Tensor]:
        """Both branches' features, each at its own size."""
        factors = [large // small for large, small in zip(ki.shape[2:], u.shape[2:])]
        # means, not interpolation: shrinking by interpolation would look at some voxels only
        return u + pooled(self.to_u(ki), factors, "avg"), ki + resized(self.to_ki(u), ki.shape[2:])


@NETWORKS.register("kiunet")
class DynamicKiUNet(Backbone):
    """KiU-Net with the plan's strides, its enlarging branch held to what memory allows.

    The U branch has the plan's stages: a convolution, then pooling by the stage's stride; its decoder enlarges and adds the skips. Level k
    of the Ki branch goes with stage k: a convolution, then enlarging by 2, until the branch is `ki_max_scale` times as large as the image. The
    branches exchange features at every level they share, and are added at the end.

    Parameters
    ----------
    inputs, ndim, strides, kernel_sizes, features_per_stage, blocks_per_stage
        See ``build_network``; a stage has as many convolutions as blocks.
    pool_type
        ``max``, ``avg`` or ``conv`` (a strided convolution).
    ki_levels
        Levels of the Ki branch, at most as many as stages.
    ki_max_scale
        How many times larger than the image the branch may become per axis: a power of 2. Axes that the plan does not convolve at full
        resolution (thick slices) are not enlarged.
    ki_share
        Features of the Ki branch relative to those of its stage, 4 at least. The paper's is 1.
    width
        Factor on the features of every stage.
    checkpointing
        Whether the Ki branch is computed again in the backward pass instead of being kept.
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
        pool_type: str = "max",
        ki_levels: int = 1,
        ki_max_scale: int = 2,
        ki_share: float = 0.5,
        width: float = 1.0,
        checkpointing: bool = False,
    ) -> None:
        _check(pool_type, ki_levels, ki_max_scale, ki_share, width)
        features = [max(2, round(width * planned)) for planned in features_per_stage]
        relative = total_strides(strides)
        widths = [max(1, features[0] // 2), *features[1:-1]]
        first = (1,) * ndim  # a first stage that pools (the paper's) is undone by the last step
        super().__init__(inputs=inputs, ndim=ndim, widths=widths, strides=[first, *relative[1:-1]], divisor=relative[-1])
        self.checkpointing, levels = checkpointing, min(ki_levels, len(strides))
        plan = list(zip([inputs, *features], features, kernel_sizes, strides))
        self.encoder = nn.ModuleList(
            nn.Sequential(_Shrink(ndim, before, after, kernel, stride, pool_type), *(ConvNormReLU(ndim, after, after, kernel) for _ in range(1, blocks)))
            for (before, after, kernel, stride), blocks in zip(plan, blocks_per_stage)
        )
        lasts = [widths[0], *features]  # what the decoder leaves at each step
        self.decoder = nn.ModuleList(_Enlarge(ndim, after, lasts[stage], kernel, stride) for stage, (_, after, kernel, stride) in enumerate(plan))
        ki = [max(FEWEST_KI_FEATURES, round(ki_share * u)) for u in features[:levels]]
        factors = _ki_factors(kernel_sizes[0], levels, ki_max_scale)
        self.ki_encoder = nn.ModuleList(_Enlarge(ndim, before, after, kernel_sizes[0], factor) for before, after, factor in zip([inputs, *ki], ki, factors))
        ki_lasts = [max(2, ki[0] // 2), *ki]
        self.ki_decoder = nn.ModuleList(
            _Shrink(ndim, before, ki_lasts[level], kernel_sizes[0], factor, "avg" if pool_type == "conv" else pool_type)
            for level, (before, factor) in enumerate(zip(ki, factors))
        )
        self.refine_encoder = nn.ModuleList(_Refine(ndim, u, k) for u, k in zip(features, ki))
        # after the step down from level k, the branches meet at level k - 1
        self.refine_decoder = nn.ModuleList(_Refine(ndim, u, k) for u, k in zip(features, ki[:-1]))
        same = ki_lasts[0] == widths[0]
        self.join = nn.Identity() if same else conv(ndim, ki_lasts[0], widths[0], 1)
        initialise(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features of every decoder stage, finest first; the finest one is the sum of both branches."""
        u, ki = images, images
        u_skips: list[Tensor] = []
        ki_skips: list[Tensor] = []
        for level, stage in enumerate(self.encoder):
            u = stage(u)
            if level < len(self.ki_encoder):
                ki = maybe_checkpointed(self.checkpointing, self.ki_encoder[level], ki)
                u, ki = maybe_checkpointed(self.checkpointing, self.refine_encoder[level], u, ki)
                ki_skips.append(ki)
            u_skips.append(u)
        found: list[Tensor] = []
        for level in reversed(range(1, len(self.encoder))):
            u = self.decoder[level](u) + u_skips[level - 1]
            if level < len(self.ki_decoder):
                ki = maybe_checkpointed(self.checkpointing, self.ki_decoder[level], ki) + ki_skips[level - 1]
                u, ki = maybe_checkpointed(self.checkpointing, self.refine_decoder[level - 1], u, ki)
            found.insert(0, u)
        ki = maybe_checkpointed(self.checkpointing, self.ki_decoder[0], ki)
        found[0] = self.decoder[0](u) + self.join(ki)
        return found


def _ki_factors(kernel: Sequence[int], levels: int, most: int) -> list[tuple[int, ...]]:
    """Enlarging of every Ki level per axis: by 2 until `most` is reached, not along axes that are not convolved."""
    axes = [size > 1 for size in kernel] if max(kernel) > 1 else [True] * len(kernel)
    return [tuple(2 if along and 2 ** (level + 1) <= most else 1 for along in axes) for level in range(levels)]


def _check(pool_type: str, ki_levels: int, ki_max_scale: int, ki_share: float, width: float) -> None:
    if pool_type not in POOL_TYPES:
        raise ConfigurationError(f"kiunet: pool_type {pool_type!r} is unknown; {did_you_mean(pool_type, POOL_TYPES)}")
    if ki_levels < 1 or ki_max_scale < 2 or ki_max_scale & (ki_max_scale - 1):
        raise ConfigurationError(f"kiunet needs ki_levels >= 1 and ki_max_scale a power of 2 from 2 on, found {ki_levels} and {ki_max_scale}.")
    if ki_share <= 0 or width <= 0:
        raise ConfigurationError(f"kiunet needs ki_share and width above 0, found {ki_share} and {width}.")
