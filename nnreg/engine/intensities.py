"""One scale of intensities for both images of a pair.

Each image is windowed by what it shows itself: a bright neck, fat, or a scanner that cut off what is bright leave tissue of one kind at different values.
"""

from __future__ import annotations

import numpy as np

from nnreg.arrays import Doubles, Floats
from nnreg.engine.grids import matrix_between, volume_of
from nnreg.engine.prepared_image import PreparedImage
from nnreg.kernels.backend import library

Scales = tuple[float, ...]

SAMPLED = 200_000  # voxels of the fixed image that are looked at, about
DARKEST, BRIGHTEST = 0.2, 0.97  # of [0, 1]: darker is air and noise, brighter is what the window cut off; both say nothing of the scale
FEWEST = 200  # voxels from which a ratio is believed; not tuned
ALIKE = 0.03  # logarithm of a ratio that is left: brains of one scanner differ by 0.01


def common_scales(fixed: PreparedImage, moving: PreparedImage, world: Doubles) -> tuple[Scales, Scales]:
    """By what to multiply each channel of both images, 1 or more, so that what lies on each other is as bright in the median.

    Parameters
    ----------
    fixed, moving : PreparedImage
        Values in [0, 1]; what is above 1 after multiplication is to be cut off.
    world : array, shape (ndim + 1, ndim + 1)
        From the fixed to the moving world, as far as they are aligned.

    Returns
    -------
    pair of tuple
        For the channels of the fixed and of the moving image; 1 where fewer than FEWEST voxels tell, and where the scales differ by less than ALIKE.
    """
    matrix = matrix_between(fixed.space, moving.space, world).astype(float)
    images, masks = [volume_of(side.image) for side in (fixed, moving)], [side.mask for side in (fixed, moving)]
    grid, size = images[0].shape[1:], images[1].shape[1:]
    step = max(1, round((np.prod(grid) / SAMPLED) ** (1 / fixed.space.ndim)))
    index = np.stack(np.meshgrid(*(np.arange(0, length, step) for length in grid), indexing="ij"), axis=-1).reshape(-1, 3)
    place = np.rint(index @ matrix[:, :3].T + matrix[:, 3]).astype(int)
    seen = ((place >= 0) & (place < size)).all(axis=1)
    pair = [tuple(points[seen].T) for points in (index, place)]
    allowed = np.ones(int(seen.sum()), bool)
    for points, mask, shape in zip(pair, masks, (grid, size), strict=True):
        if mask is not None:
            allowed &= mask.reshape(shape)[points] > 0.5
    ratios = [_ratio(one[pair[0]][allowed], other[pair[1]][allowed]) for one, other in zip(*images, strict=True)]
    return tuple(max(1.0, 1 / ratio) for ratio in ratios), tuple(max(1.0, ratio) for ratio in ratios)


def scaled(image: Floats, scales: Scales) -> Floats:
    """Each channel of an image (C, *grid) in [0, 1] multiplied, at most 1."""
    return image if max(scales) == 1 else library(image).stack([(channel * scale).clip(max=1) for channel, scale in zip(image, scales, strict=True)])


def _ratio(fixed: Floats, moving: Floats) -> float:
    """Median of the fixed values over the moving ones."""
    told = (fixed > DARKEST) & (moving > DARKEST) & (fixed < BRIGHTEST) & (moving < BRIGHTEST)
    if np.count_nonzero(told) < FEWEST:
        return 1.0
    logarithm = float(np.median(np.log(fixed[told]) - np.log(moving[told])))
    return float(np.exp(logarithm)) if abs(logarithm) > ALIKE else 1.0
