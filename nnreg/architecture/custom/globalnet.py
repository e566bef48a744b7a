"""GlobalNet (Hu et al. 2018): an encoder on both images and one affine map."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from nnreg.architecture.base import NETWORKS, RegistrationNetwork
from nnreg.architecture.blocks import FLOW_HEAD_STD, initialise
from nnreg.architecture.custom.parts import ConvNormReLU, conv, norm, pooled
from nnreg.errors import ConfigurationError, did_you_mean
from nnreg.geometry import identity_grid
from nnreg.geometry.fields import without_autocast

MODES = ("affine", "rigid", "translation")
POOLED_SIZE = 4  # voxels per axis that the last map is averaged to: a mean over all of it would not know where things are


class ResidualBlock(nn.Module):
    """Two convolutions, the input added before the last ReLU."""

    def __init__(self, ndim: int, features: int, kernel: int | Sequence[int]) -> None:
        super().__init__()
        self.body = nn.Sequential(
            ConvNormReLU(ndim, features, features, kernel, bias=False), conv(ndim, features, features, kernel, bias=False), norm(ndim, features)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Same shape."""
        return torch.relu(features + self.body(features))


def encoder_stage(ndim: int, inputs: int, outputs: int, kernel: int | Sequence[int]) -> nn.Sequential:
    """Convolution and residual block, as GlobalNet and LocalNet have them at every level."""
    return nn.Sequential(ConvNormReLU(ndim, inputs, outputs, kernel, bias=False), ResidualBlock(ndim, outputs, kernel))


def plan_depth(network: str, depth: int | None, stages: int) -> int:
    """Number of poolings: the plan's, or fewer.

    Raises
    ------
    ConfigurationError
        If the plan has fewer stages than that.
    """
    if depth is None:
        return stages - 1
    if not 1 <= depth < stages:
        raise ConfigurationError(f"{network}: depth {depth} needs a plan of {depth + 1} stages, this one has {stages}: use 1 to {stages - 1}.")
    return depth


@NETWORKS.register("globalnet")
class GlobalNet(RegistrationNetwork):
    """One affine map from both images; its field is affine in the position, whatever the size of the images.

    The map acts on positions relative to the centre of the grid, divided by half its longest extent, so that turning and shifting are not
    coupled and the numbers that the network finds are all of one size.

    Parameters
    ----------
    channels, ndim, strides, kernel_sizes, features_per_stage, blocks_per_stage, deep_supervision
        See ``build_network``; blocks are not used. It returns one field, so that deep supervision changes nothing.
    mode
        ``affine``, ``rigid`` or ``translation``.
    depth
        Poolings; those of the plan if left out.
    num_channel_initial
        Features of the first level, doubled at every next one; the plan's features if left out.
    max_disp
        Bound on each of the numbers (relative to half the longest extent) by tanh; none if left out.
    spacing
        mm per axis, so that a rigid map is rigid in the world; voxels are taken as cubes if left out.
    image_size
        Sizes that the network is tied to: the last map then enters the linear layer whole, as in the original, instead of averaged.
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
        mode: str = "affine",
        depth: int | None = None,
        num_channel_initial: int | None = None,
        max_disp: float | None = None,
        spacing: Sequence[float] | None = None,
        image_size: Sequence[int] | None = None,
    ) -> None:
        super().__init__(channels=channels, ndim=ndim, deep_supervision=deep_supervision)
        if mode not in MODES:
            raise ConfigurationError(f"globalnet: mode {mode!r} is unknown; {did_you_mean(mode, MODES)}")
        self.mode, self.max_disp, self.spacing = mode, max_disp, tuple(spacing or (1.0,) * ndim)
        depth = plan_depth("globalnet", depth, len(strides))
        self.pool_strides = [tuple(stride) for stride in strides[1 : depth + 1]]
        widths = [num_channel_initial * 2**level for level in range(depth + 1)] if num_channel_initial else list(features_per_stage[: depth + 1])
        self.stages = nn.ModuleList(encoder_stage(ndim, before, after, kernel) for before, after, kernel in zip([2 * channels, *widths], widths, kernel_sizes))
        self.image_size = tuple(image_size) if image_size else None
        self.last_size = (POOLED_SIZE,) * ndim
        if self.image_size:
            total = [prod(stride[axis] for stride in self.pool_strides) for axis in range(ndim)]
            if len(self.image_size) != ndim or any(size % by for size, by in zip(self.image_size, total)):
                raise ConfigurationError(f"globalnet: image_size {list(self.image_size)} must be {ndim} multiples of {total}.")
            self.last_size = tuple(size // by for size, by in zip(self.image_size, total))
        numbers = {"affine": ndim * (ndim + 1), "rigid": ndim + ndim * (ndim - 1) // 2, "translation": ndim}[mode]
        self.head = nn.Linear(widths[-1] * prod(self.last_size), numbers)
        initialise(self)
        nn.init.normal_(self.head.weight, std=FLOW_HEAD_STD)
        nn.init.zeros_(self.head.bias)

    @property
    def coarsest_stride(self) -> tuple[int, ...]:
        """Voxels of the images that one of the last map stands for."""
        return tuple(prod(axis) for axis in zip(*self.pool_strides))

    @property
    def field_count(self) -> int:
        """One: an affine map has no coarser part."""
        return 1

    def affine(self, fixed: Tensor, moving: Tensor) -> tuple[Tensor, Tensor]:
        """What the map adds to the identity: matrix (B, ndim, ndim) and shift (B, ndim), in units of half the longest extent."""
        if self.image_size and tuple(fixed.shape[2:]) != self.image_size:
            raise ConfigurationError(
                f"globalnet was built for images of {list(self.image_size)}, found {list(fixed.shape[2:])}. Leave image_size out for any size."
            )
        features = torch.cat([fixed, moving], dim=1)
        for stage, stride in zip(self.stages, [(1,) * self.ndim, *self.pool_strides]):
            features = stage(pooled(features, stride, "max"))
        pool = nnf.adaptive_avg_pool2d if self.ndim == 2 else nnf.adaptive_avg_pool3d
        with without_autocast(features.device):
            last = pool(features.float(), self.last_size).flatten(1)  # type: ignore[arg-type]
            # a mean over the features: Adam moves every weight alike, and the sum of thousands would leap by the image's width
            numbers: Tensor = self.head(last) / self.head.in_features
        if self.max_disp:
            numbers = self.max_disp * torch.tanh(numbers / self.max_disp)
        shift, rest = numbers[:, : self.ndim], numbers[:, self.ndim :]
        if self.mode == "translation":
            return shift.new_zeros(shift.shape[0], self.ndim, self.ndim), shift
        if self.mode == "affine":
            return rest.reshape(-1, self.ndim, self.ndim), shift
        return _rotation(rest, self.ndim) - torch.eye(self.ndim, device=rest.device), shift

    def fields(self, fixed: Tensor, moving: Tensor) -> list[Tensor]:
        """The affine field."""
        matrix, shift = self.affine(fixed, moving)
        shape = tuple(fixed.shape[2:])
        ones = (1,) * self.ndim
        spacing = torch.tensor(self.spacing, device=fixed.device).reshape(1, self.ndim, *ones)
        half = torch.tensor([(size - 1) / 2 for size in shape], device=fixed.device).reshape(1, self.ndim, *ones)
        extent = max(step * max(size - 1, 1) / 2 for step, size in zip(self.spacing, shape))
        positions = ((identity_grid(shape, fixed.device) - half) * spacing / extent).flatten(2)
        moved = matrix @ positions + shift[:, :, None]
        return [moved.reshape(-1, self.ndim, *shape) * extent / spacing]


def _rotation(angles: Tensor, ndim: int) -> Tensor:
    """Rotation matrices (B, ndim, ndim): the exponential of the antisymmetric matrix of the angles (1 in 2D, 3 in 3D)."""
    generator = angles.new_zeros(angles.shape[0], ndim, ndim)
    for index, (row, column) in enumerate([(0, 1)] if ndim == 2 else [(0, 1), (0, 2), (1, 2)]):
        generator[:, row, column] = angles[:, index]
        generator[:, column, row] = -angles[:, index]
    return torch.linalg.matrix_exp(generator)
