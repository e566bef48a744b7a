"""Choices made from the pair itself: is it one contrast, and which similarity follows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnreg.arrays import Floats
from nnreg.engine.grids import Level, carried, volume_of
from nnreg.engine.names import AUTO
from nnreg.engine.prepared_image import foreground
from nnreg.engine.presets import PRESETS
from nnreg.engine.refine import Settings, refine
from nnreg.engine.result import Decision
from nnreg.engine.similarities import find_similarity
from nnreg.engine.similarity import SAME_CONTRAST, MutualInformation, inner_correlation
from nnreg.engine.similarity_terms import volume_of_side
from nnreg.kernels import volumes

CHOICE_VOXELS = 40_000  # voxels of the level on which the similarity is chosen, about
# local correlation after linear alignment from which a pair may be of one contrast that is only deformed. Of 24 pairs of hippocampi of different people 15 had
# 0.28 to 0.41, and 0.62 to 0.82 once they were deformed; T1, T2 and T2* of brains and cords 0.23 at most, and 0.28 once deformed
DOUBTFUL = 0.2
TRIAL_ITERATIONS = 30  # at most, on each level of the trial


def choose_similarity(levels: Sequence[Level], wanted: str) -> Decision:
    """Which similarity refines the pair, from several measured after linear alignment on the level of about CHOICE_VOXELS.

    Where the local correlation leaves it open, the pair is deformed by local correlation on the levels up to that one, and measured again: images of one
    contrast come to look alike, those of two do not.

    Parameters
    ----------
    levels
        Coarse to fine.
    wanted
        A similarity's name, or ``auto``.
    """
    if wanted != AUTO:
        return Decision("similarity", wanted, "asked for")
    number = min(range(len(levels)), key=lambda index: abs(np.prod(levels[index].grid) - CHOICE_VOXELS))
    level = levels[number]
    fixed, body = volume_of_side(level), foreground(level.fixed).reshape(level.grid) > 0.5
    moving = volume_of(level.moving.image)
    warped = volumes.sample(moving, shape=level.grid, matrix=level.matrix)
    inner = inner_correlation(fixed, warped, body)
    information, _ = MutualInformation(fixed)(np.clip(warped, 0, 1), np.ones(level.grid, np.float32))
    measured = f"local correlation {inner:.2f} inside the body, normalised mutual information {information:.2f}"
    if DOUBTFUL <= inner < SAME_CONTRAST:
        inner = inner_correlation(fixed, volumes.sample(moving, _trial(levels[: number + 1]), matrix=level.matrix), body)
        measured += f", local correlation {inner:.2f} once deformed by it"
    if inner >= SAME_CONTRAST:
        return Decision("similarity", "lncc", f"{measured}: one contrast")
    return Decision("similarity", "nmi", f"{measured}: different contrasts")


def _trial(levels: Sequence[Level]) -> Floats:
    """The field of the last level after a short descent of local correlation through all of them, in one direction."""
    preset, similarity = PRESETS["fast"], find_similarity("lncc")
    settings = Settings(TRIAL_ITERATIONS, preset.step, preset.update_smoothing, preset.field_smoothing)
    field = levels[0].empty_field()
    for number, level in enumerate(levels):
        if number:
            field = carried(field, levels[number - 1].fixed.space, level.fixed.space)
        field = refine(level, field, similarity.groups(level, preset.radius), settings).field
    return field
