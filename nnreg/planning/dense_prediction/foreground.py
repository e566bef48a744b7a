"""What is looked at of a case: the box around what is not 0, and the intensities of its labelled voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from nnreg.imageio import Image

QUANTILES = 10_000  # of each case and channel; pooled they give the percentiles of the dataset to 1 in 10000
FEWEST_QUANTILES = 101  # of many cases, which share out those of 500, so that memory does not grow with their number
SLICE_SPACING = 999.0  # nnU-Net: a 2D image is one slice, so many times the spacing of its plane away from the next

Box = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Foreground:
    """Intensities of one case and channel on labelled foreground: exact moments, and evenly spaced quantiles in place of the voxels."""

    mean: float
    square: float
    quantiles: npt.NDArray[np.float32]

    @classmethod
    def of(cls, values: npt.NDArray[Any]) -> Foreground:
        """Measure at least one intensity."""
        exact = values.astype(np.float64)
        ordered = np.sort(values).astype(np.float32)
        place = np.linspace(0, len(ordered) - 1, QUANTILES)
        below = place.astype(np.int64)
        above = np.minimum(below + 1, len(ordered) - 1)
        quantiles = ordered[below] + (place - below) * (ordered[above] - ordered[below])
        return cls(float(exact.mean()), float(np.mean(exact**2)), quantiles.astype(np.float32))

    def thinned(self, count: int) -> Foreground:
        """With `count` of its quantiles, evenly spaced, the lowest and the highest among them."""
        if count >= len(self.quantiles):
            return self
        return replace(self, quantiles=self.quantiles[np.rint(np.linspace(0, len(self.quantiles) - 1, count)).astype(np.int64)])


def quantiles_of_each(cases: int) -> int:
    """How many quantiles each of so many cases gives.

    Examples
    --------
    >>> [quantiles_of_each(cases) for cases in (1, 500, 1000, 10**6)]
    [10000, 10000, 5000, 101]
    """
    return min(QUANTILES, max(FEWEST_QUANTILES, 500 * QUANTILES // max(1, cases)))


def nonzero_box(array: npt.NDArray[Any]) -> Box:
    """First and one past the last index, per axis, of what is not 0 in any channel of (C, *spatial); everything if all is 0.

    Examples
    --------
    >>> image = np.zeros((2, 4, 5))
    >>> image[0, 1, 2] = image[1, 2, 2] = 1
    >>> nonzero_box(image)
    ((1, 3), (2, 3))
    """
    inside = (array != 0).any(axis=0)
    if not inside.any():
        return tuple((0, size) for size in inside.shape)
    box = []
    for axis in range(inside.ndim):
        along = np.flatnonzero(inside.any(axis=tuple(other for other in range(inside.ndim) if other != axis)))
        box.append((int(along[0]), int(along[-1]) + 1))
    return tuple(box)


def volume_spacing(spacing: Sequence[float]) -> tuple[float, float, float]:
    """Spacing (mm, array axis order) with three axes: the slice that a 2D image is lies far from the next."""
    *first, height, width = spacing
    return (first[0] if first else SLICE_SPACING * max(height, width)), height, width


def as_volume(image: Image) -> tuple[npt.NDArray[Any], tuple[float, float, float]]:
    """Array (C, D, H, W) and spacing (mm, array axis order); a 2D image becomes a single slice."""
    return image.array if image.ndim == 3 else image.array[:, None], volume_spacing(image.space.spacing)
