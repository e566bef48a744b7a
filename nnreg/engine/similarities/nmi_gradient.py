"""Normalised mutual information with local correlation of edges beside it: images of different contrasts."""

from __future__ import annotations

import numpy as np

from nnreg.arrays import Floats
from nnreg.engine.grids import Level
from nnreg.engine.prepared_image import PreparedImage
from nnreg.engine.similarities import SIMILARITIES, EngineSimilarity
from nnreg.engine.similarities.lncc import SMOOTHING, correlated, smoothed
from nnreg.engine.similarities.nmi import FEWEST_SAMPLES, information
from nnreg.engine.similarity_terms import ChannelGroup
from nnreg.kernels.backend import library

EDGES_WEIGHT = 1.0  # of the force of edges beside that of mutual information
EDGE = 0.5  # of the mean length of the gradient: an edge of that length counts half; not tuned


def edges(side: PreparedImage, width: float) -> Floats:
    """Where an image changes, whatever its contrast: the length of the gradient, edges of any height brought to one scale.

    Parameters
    ----------
    side : PreparedImage
    width : mm
        Of a Gaussian on the image before.

    Returns
    -------
    array, shape (1, D, H, W), in [0, 1)
        ``|g| / (|g| + e)``, over all channels and per mm; `e` is EDGE of the mean of ``|g|``.
    """
    volume = smoothed(side, width)
    steps = side.space.spacing
    slopes = [_slope(volume, axis - len(steps), step) for axis, step in enumerate(steps) if side.space.shape[axis] > 1]
    length = sum((slope**2).sum(0) for slope in slopes) ** 0.5
    result: Floats = (length / (length + EDGE * length.mean() + np.finfo(np.float32).tiny))[None]
    return result


def _slope(volume: Floats, axis: int, step: float) -> Floats:
    """Differences of neighbours on both sides, of one at the ends."""
    before, after = ((Ellipsis, part, *(slice(None),) * (-1 - axis)) for part in (slice(None, -1), slice(1, None)))
    single = (volume[after] - volume[before]) / np.float32(step)
    ends = ((Ellipsis, part, *(slice(None),) * (-1 - axis)) for part in (slice(None, 1), slice(-1, None)))
    first, last = (single[end] for end in ends)
    slope: Floats = library(volume).concatenate([first, (single[after] + single[before]) / np.float32(2), last], axis)
    return slope


def _groups(level: Level, radius: float) -> list[ChannelGroup]:
    fixed, moving = (edges(side, SMOOTHING * level.spacing) for side in (level.fixed, level.moving))
    return [information(level), ChannelGroup(correlated(fixed, level, radius), moving, EDGES_WEIGHT)]


SIMILARITIES["nmi+gradient"] = EngineSimilarity(
    "nmi+gradient", _groups, smoothing=4.0, step=0.5, fewest_voxels=FEWEST_SAMPLES, windowed=True, across_contrasts=True, on_device=True
)
