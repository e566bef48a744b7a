"""MONAI's residual U-Net, which imported configurations call ``unetreg3d``: one field, at full resolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nnreg.architecture.backbone import pad_to_multiple, total_strides
from nnreg.architecture.base import NETWORKS, RegistrationNetwork
from nnreg.architecture.blocks import FlowHead
from nnreg.architecture.pyramid import crop_to
from nnreg.errors import ConfigurationError

KERNEL = 3


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
        network = _residual_unet()(
            spatial_dims=ndim,
            in_channels=2 * channels,
            out_channels=ndim,
            channels=tuple(features_per_stage),
            strides=[tuple(stride) for stride in strides[1:]],
            num_res_units=num_res_units,
        )
        head = FlowHead(ndim, ndim, (KERNEL,) * ndim)
        head.start_near_zero()
        network.model[-1][-1] = head
        self.network: nn.Module = network

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


def _residual_unet() -> Any:
    try:
        from monai.networks.nets import UNet
    except (ImportError, RuntimeError) as error:
        raise ConfigurationError(
            f"network 'unetreg_original' needs MONAI, which cannot be imported here ({str(error).splitlines()[0]}): pip install 'nnreg[monai]'."
        ) from error
    return UNet
