"""MONAI's residual U-Net, which imported configurations call ``unetreg3d``: one field, at full resolution."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nnreg.architecture.backbone import pad_to_multiple, total_strides
from nnreg.architecture.base import NETWORKS, RegistrationNetwork
from nnreg.architecture.blocks import FlowHead, convolution
from nnreg.architecture.pyramid import crop_to
from nnreg.errors import ConfigurationError

KERNEL = 3
Stride = Sequence[int]


class _Unit(nn.Module):
    """Convolution (transposed: to a multiple of the size), instance normalisation without weights, PReLU."""

    def __init__(self, ndim: int, inputs: int, outputs: int, stride: Stride, *, transposed: bool = False) -> None:
        super().__init__()
        size, padding, step = (KERNEL,) * ndim, (KERNEL // 2,) * ndim, tuple(stride)
        self.conv: nn.Module
        if transposed:
            made = nn.ConvTranspose2d if ndim == 2 else nn.ConvTranspose3d
            self.conv = made(inputs, outputs, size, step, padding, output_padding=tuple(by - 1 for by in step))  # type: ignore[arg-type]
        else:
            self.conv = convolution(ndim)(inputs, outputs, size, step, padding)  # type: ignore[arg-type]
        normalise = nn.InstanceNorm2d if ndim == 2 else nn.InstanceNorm3d
        self.adn = nn.Sequential(OrderedDict(N=normalise(outputs), A=nn.PReLU()))

    def forward(self, features: Tensor) -> Tensor:
        """(B, inputs, *spatial) to (B, outputs, *smaller or larger)."""
        activated: Tensor = self.adn(self.conv(features))
        return activated


class _Residual(nn.Module):
    """Units one after another, the input (through a convolution where sizes or features change) added to what they return."""

    def __init__(self, ndim: int, inputs: int, outputs: int, stride: Stride, units: int) -> None:
        super().__init__()
        made: OrderedDict[str, nn.Module] = OrderedDict(
            (f"unit{index}", _Unit(ndim, outputs if index else inputs, outputs, (1,) * ndim if index else stride)) for index in range(units)
        )
        self.conv = nn.Sequential(made)
        self.residual: nn.Module = nn.Identity()
        if max(stride) > 1:
            self.residual = convolution(ndim)(inputs, outputs, (KERNEL,) * ndim, tuple(stride), (KERNEL // 2,) * ndim)  # type: ignore[arg-type]
        elif inputs != outputs:
            self.residual = convolution(ndim)(inputs, outputs, (1,) * ndim)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """(B, inputs, *spatial) to (B, outputs, *smaller)."""
        added: Tensor = self.residual(features) + self.conv(features)
        return added


class _Skip(nn.Module):
    """What goes in, and what the levels below make of it."""

    def __init__(self, submodule: nn.Module) -> None:
        super().__init__()
        self.submodule = submodule

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, *spatial) to (B, C + below, *spatial)."""
        return torch.cat([features, self.submodule(features)], dim=1)


def _level(ndim: int, inputs: int, outputs: int, features: Sequence[int], strides: Sequence[Stride], units: int) -> nn.Sequential:
    """Down to ``features[0]`` through `units` units, all that lies below, and up again to `outputs`."""
    first, second = features[0], features[1]
    deepest = len(features) == 2
    below = _Residual(ndim, first, second, (1,) * ndim, units) if deepest else _level(ndim, first, first, features[1:], strides[1:], units)
    up = _Unit(ndim, first + (second if deepest else first), outputs, strides[0], transposed=True)
    last = _Residual(ndim, outputs, outputs, (1,) * ndim, 1)
    return nn.Sequential(_Residual(ndim, inputs, first, strides[0], units), _Skip(below), nn.Sequential(up, last))


class _UNet(nn.Module):
    """MONAI's nesting, so that names of weights are its names; the last unit is a flow head."""

    def __init__(self, ndim: int, inputs: int, features: Sequence[int], strides: Sequence[Stride], units: int) -> None:
        super().__init__()
        self.model = _level(ndim, inputs, ndim, features, strides, units)
        head = FlowHead(ndim, ndim, (KERNEL,) * ndim)
        head.start_near_zero()
        top = self.model[-1]
        assert isinstance(top, nn.Sequential)
        top[-1] = head

    def forward(self, images: Tensor) -> Tensor:
        """(B, inputs, *spatial) to (B, ndim, *spatial)."""
        field: Tensor = self.model(images)
        return field


@NETWORKS.register("unetreg_original")
class OriginalUNetReg(RegistrationNetwork):
    """MONAI's residual U-Net on both images, weight for weight, but for its last addition.

    There every stage is strided, the first one too: nothing is computed at full resolution but the last convolution, which adds what it finds to what it is
    given. Without that addition, and near zero, it starts as the identity like every network here. Use ``unetreg`` for registration: it
    has fields of several resolutions, and weights in its normalisation.

    Parameters
    ----------
    channels, ndim, strides, kernel_sizes, features_per_stage, blocks_per_stage, deep_supervision
        See ``build_network``. Stages of the plan but the first are the original's strides; kernels are 3 wide, blocks are not used. It returns
        one field, so that deep supervision changes nothing.
    num_res_units
        Convolutions of a residual unit.
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
        num_res_units: int = 2,
    ) -> None:
        super().__init__(channels=channels, ndim=ndim, deep_supervision=deep_supervision)
        if num_res_units < 1:
            raise ConfigurationError(f"unetreg_original needs num_res_units >= 1, found {num_res_units}.")
        self.divisor = total_strides(strides)[-1]
        self.network = _UNet(ndim, 2 * channels, features_per_stage, strides[1:], num_res_units)

    @property
    def coarsest_stride(self) -> tuple[int, ...]:
        """Voxels of the images that one of the deepest map stands for."""
        return self.divisor

    @property
    def field_count(self) -> int:
        """One."""
        return 1

    def fields(self, fixed: Tensor, moving: Tensor) -> list[Tensor]:
        """The field."""
        images = pad_to_multiple(torch.cat([fixed, moving], dim=1), self.divisor)
        field: Tensor = self.network(images)
        return [crop_to(field, fixed.shape[2:])]
