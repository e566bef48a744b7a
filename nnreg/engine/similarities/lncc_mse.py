"""Local correlation with mean squares beside it: images of one scale, large motion of what has no texture."""

from __future__ import annotations

from nnreg.engine.grids import Level, volume_of
from nnreg.engine.similarities import SIMILARITIES, EngineSimilarity
from nnreg.engine.similarities.lncc import local_correlation, middle_intensities
from nnreg.engine.similarity_terms import ChannelGroup, MeanSquares, volume_of_side

SQUARES_WEIGHT = 0.25  # of the force of mean squares beside that of local correlation; no measurement of other values is recorded


def _groups(level: Level, *radii: float) -> list[ChannelGroup]:
    squares = ChannelGroup(MeanSquares(volume_of_side(level)), volume_of(level.moving.image), SQUARES_WEIGHT)
    return [local_correlation(level, *radii), squares]


SIMILARITIES["lncc+mse"] = EngineSimilarity("lncc+mse", _groups, windowed=True, several_windows=True, features=middle_intensities, on_device=True)
