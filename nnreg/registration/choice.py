"""Choices made from the pair itself: is it one contrast, and which similarity follows."""

from __future__ import annotations

import numpy as np

from nnreg.kernels import volumes
from nnreg.registration.grids import Level
from nnreg.registration.result import Decision
from nnreg.registration.sides import foreground
from nnreg.registration.similarity import MutualInformation
from nnreg.registration.terms import local_correlation, volume_of_side

SAME_CONTRAST = 0.3  # correlation inside the common foreground from which two images count as of one contrast
LARGE = 100_000  # voxels of the level the choice is made on


def choose_similarity(level: Level, wanted: str) -> Decision:
    """Which similarity refines the pair, from several measured on `level` after linear alignment."""
    if wanted != "auto":
        return Decision("similarity", wanted, "asked for")
    fixed = volume_of_side(level)
    moving = level.moving.image if level.moving.image.ndim == 4 else level.moving.image[:, None]
    warped = volumes.sample(np.ascontiguousarray(moving), shape=level.grid, matrix=level.matrix)
    where = foreground(level.fixed).reshape(level.grid) > 0.5
    correlation = _correlation(fixed, warped, where)
    local = local_correlation(level, 2)(warped, np.empty_like(warped))
    information, _ = MutualInformation(fixed)(np.clip(warped, 0, 1), np.ones(level.grid, np.float32))
    measured = f"correlation {correlation:.2f} inside the foreground, squared local correlation {local:.2f}, normalised mutual information {information:.2f}"
    if correlation >= SAME_CONTRAST:
        return Decision("similarity", "lncc", f"{measured}: one contrast")
    return Decision("similarity", "mind", f"{measured}: different contrasts")


def _correlation(fixed: np.ndarray, warped: np.ndarray, where: np.ndarray) -> float:
    values = []
    for one, other in zip(fixed, warped, strict=True):
        a, b = one[where], other[where]
        scale = float(a.std() * b.std()) if a.size else 0.0
        values.append(float(((a - a.mean()) * (b - b.mean())).mean()) / scale if scale > 1e-9 else 0.0)
    return float(np.mean(values))
