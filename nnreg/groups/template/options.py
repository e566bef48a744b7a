"""What a user may choose of a template, and the grids it is built on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnreg.engine.names import AUTO
from nnreg.engine.options import EngineOptions
from nnreg.errors import ConfigurationError
from nnreg.geometry import Space

COARSENINGS = (4, 2, 1)  # multiples of the template's spacing, coarse to fine
FEWEST = 16  # voxels along the shortest axis of a grid that a template is built on, but for the finest: fewer say nothing of a shape
MOST_ROUNDS = (4, 3, 3)  # on these grids, by the multiples
STILL = 0.05  # voxels: a round whose mean map moves no further has found the middle
UNCHANGED = 0.005  # of the range of intensities: a round that changes the template by less is the last one on its grid


@dataclass(frozen=True)
class TemplateOptions:
    """How a template is built.

    Attributes
    ----------
    preset, similarity
        Of the engine. A similarity other than ``auto`` is used without asking whether the images are of one contrast.
    alignment : "rigid" or "affine"
        The freest linear map between images.
    spacing : float, mm, optional
        Of the template, along every axis; by default that of the image in the middle.
    rounds : int, optional
        At most, on the finest grid.
    sharpen
        Whether the mean is sharpened after every round, as ANTs does. On 15 slices of brains the mean before sharpening got 6 % more gradient energy by it, and
        drifted twice as far in every round: edges of a sharpened mean lie a little beside those of the images.
    scale
        Whether each image's intensities are brought to a common scale.
    skip_failures
        Whether an image that cannot be read, has another contrast or cannot be registered is left out; else it ends the work.
    accept_likely_failed
        Whether an image whose registration likely failed by what is measured of it counts all the same.

    Raises
    ------
    ConfigurationError
        For a value that is out of range or unknown.
    """

    preset: str = "fast"
    similarity: str = AUTO
    alignment: str = "affine"
    spacing: float | None = None
    rounds: int | None = None
    sharpen: bool = False
    scale: bool = True
    skip_failures: bool = False
    accept_likely_failed: bool = False

    def __post_init__(self) -> None:
        self.engine()
        if self.alignment not in ("rigid", "affine"):
            raise ConfigurationError(f"alignment {self.alignment!r}: a template's images are aligned by a 'rigid' or an 'affine' map.")
        if self.spacing is not None and not 0 < self.spacing < np.inf:
            raise ConfigurationError(f"spacing {self.spacing:g}: expected a length in mm above 0.")
        if self.rounds is not None and self.rounds < 1:
            raise ConfigurationError(f"rounds {self.rounds}: expected 1 or more.")

    def engine(self) -> EngineOptions:
        """Of the registrations to the template, whose images are of one contrast."""
        return EngineOptions(preset=self.preset, similarity="lncc" if self.similarity == AUTO else self.similarity, alignment=self.alignment)

    def most_rounds(self, factor: int) -> int:
        """On the grid of `factor` times the template's spacing."""
        return self.rounds if self.rounds is not None and factor == 1 else MOST_ROUNDS[COARSENINGS.index(factor)]


def coarsened(spacing: Sequence[float], factor: int) -> tuple[float, ...]:
    """Spacing of a coarser grid: axes that are as coarse already stay as they are."""
    return tuple(max(step, factor * min(spacing)) for step in spacing)


def grids(finest: Space) -> list[tuple[int, Space]]:
    """Grids a template is built on, coarse to fine, with their multiples of the finest spacing."""
    found = []
    for factor in COARSENINGS:
        grid = finest if factor == 1 else finest.with_spacing(coarsened(finest.spacing, factor))
        pooled = [new for new, old in zip(grid.shape, finest.shape, strict=True) if new < old]
        if factor == 1 or (pooled and min(pooled) >= FEWEST):
            found.append((factor, grid))
    return found
