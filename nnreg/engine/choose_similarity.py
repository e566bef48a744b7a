"""Choices made from the pair itself: is it one contrast, and which similarity follows."""

from __future__ import annotations

import numpy as np

from nnreg.engine.grids import Level, volume_of
from nnreg.engine.names import AUTO
from nnreg.engine.prepared_image import foreground
from nnreg.engine.result import Decision
from nnreg.engine.similarity import SAME_CONTRAST, MutualInformation, inner_correlation
from nnreg.engine.similarity_terms import volume_of_side
from nnreg.kernels import volumes


def choose_similarity(level: Level, wanted: str) -> Decision:
    """Which similarity refines the pair, from several measured on `level` after linear alignment."""
    if wanted != AUTO:
        return Decision("similarity", wanted, "asked for")
    fixed = volume_of_side(level)
    warped = volumes.sample(volume_of(level.moving.image), shape=level.grid, matrix=level.matrix)
    inner = inner_correlation(fixed, warped, foreground(level.fixed).reshape(level.grid) > 0.5)
    information, _ = MutualInformation(fixed)(np.clip(warped, 0, 1), np.ones(level.grid, np.float32))
    measured = f"local correlation {inner:.2f} inside the body, normalised mutual information {information:.2f}"
    if inner >= SAME_CONTRAST:
        return Decision("similarity", "lncc", f"{measured}: one contrast")
    return Decision("similarity", "nmi", f"{measured}: different contrasts")
