"""Choices made from the pair itself: is it one contrast, and which similarity follows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnreg.engine.grids import Level, volume_of
from nnreg.engine.names import AUTO, in_colours
from nnreg.engine.prepared_image import foreground
from nnreg.engine.result import Decision
from nnreg.engine.similarities import find_similarity
from nnreg.engine.similarity import SAME_CONTRAST, MutualInformation, inner_correlation
from nnreg.engine.similarity_terms import volume_of_side
from nnreg.engine.trial import descended
from nnreg.imageio.contrast import told_apart
from nnreg.kernels import volumes

CHOICE_VOXELS = 40_000  # voxels of the level on which the similarity is chosen, about
# local correlation after linear alignment from which a pair may be of one contrast that is only deformed. Of 24 pairs of hippocampi of different people 15 had
# 0.28 to 0.41, and 0.62 to 0.82 once they were deformed; T1, T2 and T2* of brains and cords 0.23 at most, and 0.28 once deformed
DOUBTFUL = 0.2


def choose_similarity(levels: Sequence[Level], wanted: str, named: tuple[str | None, str | None] = (None, None)) -> Decision:
    """Which similarity refines the pair, from several measured after linear alignment on the level of about CHOICE_VOXELS.

    Files that are named after two contrasts are of two: T1 and FLAIR of one head look as much alike, in windows and as a whole, as T1 before and after agent.
    Where the local correlation leaves it open, the pair is deformed by local correlation on the levels up to that one, and measured again: images of one
    contrast come to look alike, those of two do not.

    Parameters
    ----------
    levels
        Coarse to fine.
    wanted
        A similarity's name, or ``auto``.
    named
        Contrasts that the files of both images are named after, as :func:`nnreg.imageio.contrast.contrast_named` says them.
    """
    if wanted != AUTO:
        return Decision("similarity", wanted, "asked for")
    if told_apart(*named):
        return Decision("similarity", "nmi+gradient", f"the files are named after different contrasts ({' and '.join(filter(None, named))})".replace("?", ""))
    number = min(range(len(levels)), key=lambda index: abs(np.prod(levels[index].grid) - CHOICE_VOXELS))
    level, moving = levels[number], volume_of(levels[number].moving.image)
    together = level.resampled().moving
    fixed, warped = volume_of_side(level), volume_of(together.image)
    body = foreground(level.fixed).reshape(level.grid) > 0.5
    if level.moving.mask is not None and together.mask is not None:
        body &= together.mask.reshape(level.grid) > 0.5
    inner = inner_correlation(fixed, warped, body)
    information, _ = MutualInformation(fixed)(np.clip(warped, 0, 1), np.ones(level.grid, np.float32))
    measured = f"local correlation {inner:.2f} inside the body, normalised mutual information {information:.2f}"
    if DOUBTFUL <= inner < SAME_CONTRAST:
        inner = inner_correlation(fixed, volumes.sample(moving, descended(levels[: number + 1], find_similarity("lncc")), matrix=level.matrix), body)
        measured += f", local correlation {inner:.2f} once deformed by it"
    if inner >= SAME_CONTRAST:
        return Decision("similarity", "lncc", f"{measured}: one contrast")
    if in_colours(level.fixed.space.ndim, len(fixed)):
        return Decision("similarity", "nmi", f"{measured}: different contrasts of pictures in colours, such as stained sections, whose edges do not correspond")
    return Decision("similarity", "nmi+gradient", f"{measured}: different contrasts")
