"""Mean squares of self-similarity maps (MIND-SSC): images of different contrasts."""

from __future__ import annotations

from nnreg.engine.grids import Level, volume_of
from nnreg.engine.mind import mind
from nnreg.engine.similarities import SIMILARITIES, EngineSimilarity
from nnreg.engine.similarity_terms import ChannelGroup, MeanSquares, volume_of_side


def _groups(level: Level, radius: float) -> list[ChannelGroup]:
    return [ChannelGroup(MeanSquares(mind(volume_of_side(level))), mind(volume_of(level.moving.image)))]


# the maps are made of neighbours along the axes of a grid: both images must have the same axes. Forces between different contrasts are less certain voxel by
# voxel, and are smoothed more
SIMILARITIES["mind"] = EngineSimilarity("mind", _groups, smoothing=2.0, same_axes=True, across_contrasts=True, on_device=True)
