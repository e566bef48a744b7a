"""A short descent on coarse levels, in one direction: what a pair can be brought to, to decide or to judge by."""

from __future__ import annotations

from collections.abc import Sequence

from nnreg.arrays import Floats
from nnreg.engine.grids import Level, carried
from nnreg.engine.presets import PRESETS
from nnreg.engine.refine import Settings, refine
from nnreg.engine.similarities import EngineSimilarity

ITERATIONS = 30  # at most, on each level


def descended(levels: Sequence[Level], similarity: EngineSimilarity) -> Floats:
    """The field of the last level after a short descent through all of them, coarse to fine."""
    preset = PRESETS["fast"]
    settings = Settings.of(preset, similarity, ITERATIONS)
    field = levels[0].empty_field()
    for number, level in enumerate(levels):
        if number:
            field = carried(field, levels[number - 1].fixed.space, level.fixed.space)
        field = refine(level, field, similarity.groups(level, preset.radius), settings).field
    return field
