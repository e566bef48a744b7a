"""LocalNet (Hu et al. 2018): a U-Net on both images whose field is the mean of what all its levels find."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from nnreg.architecture.backbone import Backbone, FieldNetwork, total_strides
from nnreg.architecture.base import NETWORKS
from nnreg.architecture.blocks import initialise
from nnreg.architecture.custom.globalnet import encoder_stage, plan_depth
from nnreg.architecture.custom.parts import ConvNormReLU, conv, norm, pooled, resized
from nnreg.errors import ConfigurationError

FIRST_KERNEL = 7


class _Up(nn.Module):
    """Transposed convolution, plus the features themselves enlarged and summed in groups down to as many."""

    def __init__(self, ndim: int, inputs: int, outputs: int, stride: Sequence[int]) -> None:
        super().__init__()
        size = tuple(3 if step > 1 else 1 for step in stride)
        settings = {
            "stride": tuple(stride),
            "padding": tuple(width // 2 for width in size),
            "output_padding": tuple(step - 1 for step in stride),
            "bias": False,
        }
        transposed = nn.ConvTranspose2d if ndim == 2 else nn.ConvTranspose3d
        self.learnt = nn.Sequential(transposed(inputs, outputs, size, **settings), norm(ndim, outputs), nn.ReLU())  # type: ignore[arg-type]
        self.groups = inputs // outputs if inputs % outputs == 0 else 0
        self.fit = nn.Identity() if self.groups else conv(ndim, inputs, outputs, 1, bias=False)

    def forward(self, features: Tensor, shape: Sequence[int]) -> Tensor:
        """(B, inputs, *spatial) to (B, outputs, *shape)."""
        summed = features.unflatten(1, (self.groups, -1)).sum(dim=1) if self.groups else self.fit(features)
        return self.learnt(features) + resized(summed, shape)


class _LocalNetBackbone(Backbone):
    def __init__(
        self,
        *,
        inputs: int,
        ndim: int,
        strides: Sequence[Sequence[int]],
        kernel_sizes: Sequence[Sequence[int]],
        features_per_stage: Sequence[int],
        blocks_per_stage: Sequence[int],
        extract_levels: Sequence[int] | None = None,
        depth: int | None = None,
        num_channel_initial: int | None = None,
    ) -> None:
        if depth is None and extract_levels:
            depth = max(extract_levels)
        depth = plan_depth("localnet", depth, len(strides))
        levels = sorted(set(extract_levels or range(depth + 1)))
        if levels[0] < 0 or levels[-1] != depth:
            raise ConfigurationError(f"localnet: extract_levels {levels} must lie between 0 and the depth, {depth}, and contain it.")
        widths = [num_channel_initial * 2**level for level in range(depth + 1)] if num_channel_initial else list(features_per_stage[: depth + 1])
        relative = total_strides(strides[: depth + 1])
        super().__init__(
            inputs=inputs, ndim=ndim, widths=[widths[level] for level in levels], strides=[relative[level] for level in levels], divisor=relative[-1]
        )
        self.levels, self.steps = levels, [tuple(stride) for stride in strides[: depth + 1]]
        # wide where the plan convolves at full resolution, not along thick slices
        first = tuple(FIRST_KERNEL if size > 1 else 1 for size in kernel_sizes[0])
        kernels = [first, *kernel_sizes[1:depth]]
        self.encoder = nn.ModuleList(encoder_stage(ndim, before, after, kernel) for before, after, kernel in zip([inputs, *widths], widths, kernels))
        self.bottom = ConvNormReLU(ndim, widths[-2], widths[-1], kernel_sizes[depth], bias=False)
        built = range(levels[0], depth)  # nothing is decoded that no field is taken from
        self.ups = nn.ModuleDict({str(level): _Up(ndim, widths[level + 1], widths[level], strides[level + 1]) for level in built})
        self.joins = nn.ModuleDict({str(level): encoder_stage(ndim, widths[level], widths[level], 3) for level in built})
        initialise(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features of the extracted levels, finest first."""
        features, skips = images, []
        for stage, stride in zip(self.encoder, self.steps):
            features = stage(pooled(features, stride, "max"))
            skips.append(features)
        features = self.bottom(pooled(features, self.steps[-1], "max"))
        found = [features]
        for level in reversed(range(self.levels[0], len(self.encoder))):
            features = self.joins[str(level)](self.ups[str(level)](features, skips[level].shape[2:]) + skips[level])
            if level in self.levels:
                found.insert(0, features)
        return found


@NETWORKS.register("localnet")
class LocalNet(FieldNetwork):
    """LocalNet with the plan's strides.

    Every extracted level has a head; what it returns is a displacement in voxels of the input's size. The field of a level is the mean of
    what it and all coarser levels return, so the finest one is the original's output and deep supervision sees it grow.

    Parameters
    ----------
    channels, ndim, strides, kernel_sizes, features_per_stage, blocks_per_stage, deep_supervision
        See ``build_network``; blocks are not used. The first convolutions are 7 wide.
    depth
        Poolings; those of the plan if left out. Level 0 is the input's resolution, level `depth` the coarsest.
    extract_levels
        Levels with a head, the coarsest among them; all if left out.
    num_channel_initial
        Features of level 0, doubled at every next one; the plan's features if left out.
    field_resolution, integration_steps
        See :class:`FieldNetwork`.
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
        depth: int | None = None,
        extract_levels: Sequence[int] | None = None,
        num_channel_initial: int | None = None,
        field_resolution: int = 1,
        integration_steps: int = 0,
    ) -> None:
        super().__init__(
            _LocalNetBackbone,
            channels=channels,
            ndim=ndim,
            strides=strides,
            kernel_sizes=kernel_sizes,
            features_per_stage=features_per_stage,
            blocks_per_stage=blocks_per_stage,
            deep_supervision=deep_supervision,
            field_resolution=field_resolution,
            integration_steps=integration_steps,
            depth=depth,
            extract_levels=extract_levels,
            num_channel_initial=num_channel_initial,
        )

    def flows(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Running means from coarse to fine, each in the voxels of its level."""
        found: list[Tensor] = []
        total: Tensor | None = None
        for count, (level, head) in enumerate(reversed(list(zip(features, self.heads))), 1):
            flow = head(level)
            total = flow if total is None else resized(total, flow.shape[2:]) + flow
            stride = flow.new_tensor(self.backbone.strides[len(features) - count]).reshape(1, self.ndim, *(1,) * self.ndim)
            found.insert(0, total / (count * stride))
        return found if self.deep_supervision else found[:1]
