"""Mean squares: images of one scale."""

from __future__ import annotations

from nnreg.engine.grids import Level, volume_of
from nnreg.engine.similarities import SIMILARITIES, EngineSimilarity
from nnreg.engine.similarity_terms import ChannelGroup, MeanSquares, volume_of_side


def _groups(level: Level, radius: float) -> list[ChannelGroup]:
    return [ChannelGroup(MeanSquares(volume_of_side(level)), volume_of(level.moving.image))]


SIMILARITIES["mse"] = EngineSimilarity("mse", _groups, on_device=True)
