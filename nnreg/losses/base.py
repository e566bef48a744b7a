"""What every loss shares: the registry, float32 whatever autocast says, and means over what a mask leaves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nnreg.errors import ConfigurationError
from nnreg.registry import Registry

LOSSES: Registry[Callable[..., nn.Module]] = Registry("loss")


def build_loss(name: str, **kwargs: Any) -> nn.Module:
    """The loss registered as `name`.

    Raises
    ------
    ConfigurationError
        If the name is unknown or an argument is not one of the loss's own.
    """
    try:
        return LOSSES[name](**kwargs)
    except TypeError as error:
        raise ConfigurationError(f"loss {name!r} cannot be built from {sorted(kwargs)}: {error}.") from error


def full_precision(tensor: Tensor) -> Tensor:
    """Float32, or float64 where it comes so (gradient checks): sums of squares lose their digits in half precision."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def slab_voxels(device: torch.device, least: int, maps: int) -> int:
    """How many voxels a loss that works slab by slab takes at a time: `least` on a CPU, whose caches are small.

    A GPU waits for the start of every operation, so it takes as many as a sixteenth of its memory holds `maps` float32 maps of.
    """
    if device.type != "cuda":
        return least
    return max(least, torch.cuda.get_device_properties(device).total_memory // (16 * 4 * maps))


def masked(values: Tensor, mask: Tensor | None) -> Tensor:
    """Zero where `mask` (B, 1, *spatial) is false. Chosen, not multiplied: what the mask leaves out may be NaN, in the gradient too."""
    return values if mask is None else torch.where(mask.bool(), values, 0.0)


def check_pair(warped: Tensor, fixed: Tensor, mask: Tensor | None) -> None:
    """Raise a ConfigurationError unless both images have one shape and the mask is (B, 1, *spatial) of it."""
    if warped.shape != fixed.shape:
        raise ConfigurationError(f"warped and fixed must have one shape, found {tuple(warped.shape)} and {tuple(fixed.shape)}.")
    if mask is not None and tuple(mask.shape) != (fixed.shape[0], 1, *fixed.shape[2:]):
        raise ConfigurationError(f"a mask is (B, 1, *spatial), here {(fixed.shape[0], 1, *fixed.shape[2:])}, found {tuple(mask.shape)}.")
