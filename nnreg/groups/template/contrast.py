"""Whether the images of a group are of one contrast: each against the mean of the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.ndimage import binary_erosion, binary_fill_holes

from nnreg.arrays import Floats, Mask
from nnreg.engine.prepared_image import foreground, prepare
from nnreg.groups.template.mean_image import MeanImage

ONE_CONTRAST = 0.1  # correlation with the mean of the others inside the body, from which an image is of their contrast
FEW = 30  # voxels inside the body, with fewer of which nothing is said


def agreements(files: Sequence[Path], mean: MeanImage) -> list[float]:
    """Correlation of each image with the mean of the others well inside the body, mean over channels; NaN where there is too little of it.

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
        body &= mask.array[0] > 0
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
        others = (total[where] - channel[where] * weight[where]) / left[where]
        spread = channel[where].std() * others.std()
        found.append(np.corrcoef(channel[where], others)[0, 1] if spread > 0 else np.nan)
    return float(np.mean(found))
