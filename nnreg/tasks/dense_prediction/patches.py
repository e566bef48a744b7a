"""Where a patch is cut: nnU-Net's rule of forced foreground and of how far a patch may reach beyond the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nnreg.dataset.labels import OUTSIDE, Label

Locations = Mapping[Label, npt.NDArray[Any]]

FORCED_SHARE = 0.33


def is_forced(position: int, batch_size: int, share: float = FORCED_SHARE) -> bool:
    """Whether the sample at `position` of a batch must show foreground: the last third, rounded.

    Examples
    --------
    >>> [is_forced(position, 2) for position in range(2)], [is_forced(0, 1)]
    ([False, True], [False])
    """
    return position >= round(batch_size * (1 - share))


def limits(shape: Sequence[int], read: Sequence[int], seen: Sequence[int]) -> tuple[list[int], list[int]]:
    """First and last start, per axis, of patches that are read from an image.

    A patch may leave the image by half of what is read beyond what the network sees, so that every voxel can come anywhere in what it sees; where the
    image is smaller than the patch, by half of what is missing.

    Parameters
    ----------
    shape, read, seen
        Voxels of the image, of the patch that is read (for rotations larger than what is seen) and of the patch that the network sees.
    """
    lower, upper = [], []
    for size, wide, kept in zip(shape, read, seen, strict=True):
        beyond = max(wide - kept, wide - size)
        lower.append(-(beyond // 2 + beyond % 2))
        upper.append(size + beyond // 2 + beyond % 2 - wide)
    return lower, upper


def eligible(locations: Locations) -> list[Label]:
    """Labels or regions that a forced patch may show. Everything annotated (the key with -1, where there is an ignore label) only if there is nothing else."""
    present = [key for key, voxels in locations.items() if len(voxels)]
    named = [key for key in present if not (isinstance(key, tuple) and OUTSIDE in key)]
    return named or present


def annotated(locations: Locations) -> Label | None:
    """The key of everything annotated, which there is only beside an ignore label; None without one, or without any such voxel."""
    return next((key for key, voxels in locations.items() if isinstance(key, tuple) and OUTSIDE in key and len(voxels)), None)


def draw_start(
    rng: np.random.Generator, shape: Sequence[int], read: Sequence[int], seen: Sequence[int], locations: Locations, *, forced: bool
) -> tuple[int, ...]:
    """First voxel, per axis, of the patch to read; it may lie outside the image.

    A forced patch is centred on a voxel of a label that the image has, labels being equally likely; one that is not forced lies anywhere, or, where
    parts of the image are not annotated, on a voxel that is.
    """
    lower, upper = limits(shape, read, seen)
    choices = eligible(locations)
    chosen = choices[int(rng.integers(len(choices)))] if forced and choices else None if forced else annotated(locations)
    if chosen is None:
        return tuple(int(rng.integers(low, high + 1)) for low, high in zip(lower, upper, strict=True))
    voxels = locations[chosen]
    voxel = voxels[int(rng.integers(len(voxels)))]
    return tuple(max(low, int(at) - wide // 2) for low, at, wide in zip(lower, voxel, read, strict=True))
