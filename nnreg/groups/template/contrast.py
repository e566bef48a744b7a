"""Whether the images of a group are of one contrast: each against the mean of the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.ndimage import binary_erosion, binary_fill_holes, gaussian_filter

from nnreg.arrays import Doubles, Floats, Mask
from nnreg.engine.prepared_image import foreground, prepare
from nnreg.groups.template.mean_image import MeanImage

# mean correlation in small windows inside the body with the mean of the others, from which an image is of their contrast. Heads and slices of brains of one
# contrast had 0.43 to 0.91; T2 among T1 0.21, among T1 and FLAIR 0.18 and 0.32; slices of inverted brains -0.21, all of a group inverted by half below 0.26
ONE_CONTRAST = 0.3
WINDOW = 2.0  # voxels of the coarsest grid: width of the Gaussian windows
FEW = 30  # voxels inside the body, with fewer of which nothing is said
TINY = 1e-8  # product of variances on the common scale, below which a window shows nothing


def agreements(files: Sequence[Path], mean: MeanImage) -> list[float]:
    """Mean local correlation of each image with the mean of the others well inside the body, mean over channels; NaN where there is too little of it.

    Against the mean of many, not against one image: after linear alignment two slices of brains of one contrast had a local correlation of 0.16.

    Parameters
    ----------
    files
        Images on the grid of `mean`, (C + 1, *grid), the last channel their weight.
    mean : MeanImage
        Of all of them.
    """
    inner = _inside(mean)
    return [_agreement(np.load(file), mean, len(files), inner) for file in files]


def _inside(mean: MeanImage) -> Mask:
    """The body without its outline, which looks alike in every contrast."""
    mask = mean.mask()
    body = foreground(prepare(mean.array, mean.space, None, "mean")) > 0.5
    if mask is not None:
        body &= mask.array[0] != 0
    element = np.zeros((3,) * body.ndim, bool)
    for axis, size in enumerate(body.shape):
        # an axis of few slices has no inside
        if 2 * size >= max(body.shape):
            element[tuple(slice(None) if other == axis else 1 for other in range(body.ndim))] = True
    return np.asarray(binary_erosion(binary_fill_holes(body), element, iterations=2))


def _agreement(own: Floats, mean: MeanImage, count: int, inner: Mask) -> float:
    weight = own[-1]
    left = mean.seen * count - weight
    where = inner & (weight > 0.5) & (left > 0.5)
    if np.count_nonzero(where) < FEW:
        return float("nan")
    found = []
    for channel, total in zip(own[:-1], mean.array * mean.seen * count, strict=True):
        others = np.where(left > 0.5, total - channel * weight, 0) / np.maximum(left, 0.5)
        found.append(_local_correlation(channel.astype(np.float64), others)[where].mean())
    return float(np.mean(found))


def _local_correlation(one: Doubles, other: Doubles) -> Doubles:
    """In a window around every voxel."""

    def mean(values: Doubles) -> Doubles:
        return np.asarray(gaussian_filter(values, WINDOW, mode="nearest"))

    middle, middle_other = mean(one), mean(other)
    shared = mean(one * other) - middle * middle_other
    spreads = (mean(one * one) - middle**2) * (mean(other * other) - middle_other**2)
    return np.asarray(np.where(spreads > TINY, shared / np.sqrt(np.maximum(spreads, TINY)), 0))
