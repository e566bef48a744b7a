"""What a registration spends: one table, and the pyramid it means for an image of a given size."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from nnreg.errors import ConfigurationError, did_you_mean
from nnreg.geometry import Space

# voxels along the shortest axis that is pooled at all: a level with fewer says nothing. In 3D not tuned. In 2D a window holds a fifth of the voxels: on 24
# pairs of slices of brains 36 gave a Dice of 0.481, 12 and 24 0.470
COARSEST = {2: 36, 3: 12}
PLANES = 0.95  # of the smoothing of fields, in 2D: with 0.83 pairs of slices of brains gained 0.003 of Dice and folded five times as much
RADII, SMOOTHNESS = (1.0, 8.0), (0.25, 4.0)  # what may be asked for; not tuned: wide limits against mistyped numbers
STABLE = 0.3  # of `divergence_smoothing`: beyond 2/3 divergence would grow
LARGEST_LEVEL = 40_000_000  # voxels: beyond, the finest level is left out; not tuned: no measurement is recorded
USUAL_LEVEL = 5_000_000  # voxels the table's iterations at the finest level are made for; smaller images get more, because they cost less; not tuned


@dataclass(frozen=True)
class Preset:
    """How much is spent.

    Attributes
    ----------
    iterations : tuple of int
        At most, at 8, 4, 2 and 1 times the finest spacing; coarser levels take the first figure.
    step : float
        Longest vector of an update, voxels of the level.
    update_smoothing, field_smoothing : float
        Widths of the Gaussians on each update and on the whole field, voxels of the level.
    divergence_smoothing : float
        How much of its stretching and shrinking the field evens out after each update, squares of its voxels: fields then bend without changing volumes more
        than they must.
    radius : float
        Half window of local correlation, voxels of the level.
    windows : tuple of tuples of float
        Half windows at the finest level, at the one before, and so on, rising multiples of `radius`, for similarities that take several; `radius` itself
        at levels that are not named.
    symmetric_from : int or None
        Multiple of the finest spacing from which on, coarser ones included, levels are refined in both directions; None for none.
    features_from : int
        Multiple of the finest spacing from which on, coarser ones included, levels compare the features of a similarity beside the images.
    """

    iterations: tuple[int, int, int, int]
    # Chosen on three pairs of brains, hippocampi, hearts and slices; registration_engine.md, "Measured", has the results on pairs that nothing was chosen on.
    # The radius is the one that Greedy is run with beside it (-m NCC 2x2x2)
    step: float = 1.2
    update_smoothing: float = 1.7
    field_smoothing: float = 0.42
    divergence_smoothing: float = 0.035
    radius: float = 2.0
    windows: tuple[tuple[float, ...], ...] = ()
    symmetric_from: int | None = None
    features_from: int = 1

    def radii(self, finer: int) -> tuple[float, ...]:
        """Half windows, voxels, of the level that has so many finer ones, for similarities that take several."""
        return tuple(self.radius * window for window in self.windows[finer]) if finer < len(self.windows) else (self.radius,)

    def smoother(self, factor: float) -> Preset:
        """The same with Gaussians `factor` times as wide."""
        return replace(
            self,
            update_smoothing=factor * self.update_smoothing,
            field_smoothing=factor * self.field_smoothing,
            divergence_smoothing=min(factor**2 * self.divergence_smoothing, STABLE),
        )


# Iterations: chosen on the same three pairs of brains; 20 and 12 on the last two levels gained 0.002 of Dice over 15 and 8, 25 and 12 nothing more. Levels
# above the finest in both directions: + 0.0025. Windows of two widths and more iterations: + 0.003 on the three pairs for 1.7 times the time; a second passage
# through the pyramid brought as much, and made hearts rougher without a gain. `fast` without features at the finest level and with an iteration more: + 0.002
# in two thirds of the time; hippocampi, hearts and slices end as near
WINDOWS = (0.5, 2.5), (0.5,)
PRESETS = {
    "fast": Preset((15, 20, 15, 3), features_from=2),
    "default": Preset((30, 40, 20, 12), symmetric_from=2),
    "accurate": Preset((30, 40, 40, 20), windows=WINDOWS, symmetric_from=2),
}


def preset_named(name: str) -> Preset:
    """The preset `name`.

    Raises
    ------
    ConfigurationError
        If there is none of that name.
    """
    if name not in PRESETS:
        raise ConfigurationError(f"preset {name!r} is unknown; {did_you_mean(name, PRESETS)}")
    return PRESETS[name]


def tailored(preset: Preset, radius: float | None, smoothness: float) -> Preset:
    """A preset with another window of local correlation and with Gaussians `smoothness` times as wide.

    Raises
    ------
    ConfigurationError
        If one of them is out of range.
    """
    if radius is not None and not RADII[0] <= radius <= RADII[1]:
        raise ConfigurationError(f"radius {radius:g}: expected {RADII[0]:g} to {RADII[1]:g} voxels, half the window of local correlation.")
    if not SMOOTHNESS[0] <= smoothness <= SMOOTHNESS[1]:
        raise ConfigurationError(f"smoothness {smoothness:g}: expected {SMOOTHNESS[0]:g} to {SMOOTHNESS[1]:g} times the preset's.")
    return replace(preset.smoother(smoothness), radius=preset.radius if radius is None else radius)


def in_planes(preset: Preset) -> Preset:
    """The preset for images of two axes: a field is held together along fewer of them, and may bend more."""
    return replace(preset, field_smoothing=PLANES * preset.field_smoothing)


@dataclass(frozen=True)
class Schedule:
    """Multiples of the finest spacing, coarse to fine, the iterations at each, and why."""

    factors: tuple[int, ...]
    iterations: tuple[int, ...]
    because: str

    def without(self, coarsest: int) -> Schedule:
        """The same less so many of the coarsest levels, which have too few voxels for the similarity."""
        if not coarsest:
            return self
        return Schedule(self.factors[coarsest:], self.iterations[coarsest:], f"{self.because}; {coarsest} coarsest left out: too few voxels for the similarity")


def schedule(preset: Preset, fixed: Space) -> Schedule:
    """The levels of a pyramid for the grid of `fixed`.

    It starts where the shortest axis still has some voxels (axes much coarser than the finest are not pooled and do not count), and ends at the finest
    spacing, or above it for presets that stop there and volumes too large to refine whole.
    """
    spacing, shape = np.asarray(fixed.spacing), np.asarray(fixed.shape)
    finest = float(spacing.min())

    def pooled(factor: int) -> np.ndarray:
        return np.maximum(1, shape // np.maximum(1, np.round(factor * finest / spacing)))

    factors = [1]
    while True:
        factor = 2 * factors[0]
        moved = pooled(factor) < shape
        if not moved.any() or pooled(factor)[moved].min() < COARSEST[fixed.ndim]:
            break
        factors.insert(0, factor)
    sizes = {factor: int(np.prod(pooled(factor))) for factor in factors}
    table = {8: preset.iterations[0], 4: preset.iterations[1], 2: preset.iterations[2], 1: preset.iterations[3]}
    planned = []
    for factor in factors:
        count = table.get(factor, preset.iterations[0])
        planned.append((factor, round(count * float(np.clip((USUAL_LEVEL / factor**3 / sizes[factor]) ** 0.5, 1, 4)))))
    kept = [(factor, count) for factor, count in planned if count and sizes[factor] <= LARGEST_LEVEL]
    if not kept:
        # a small image whose only level the preset would skip
        kept = [(factors[-1], max(1, preset.iterations[2]))]
    spacings = ", ".join(f"{factor * finest:g}" for factor, _ in kept)
    reason = f"{len(kept)} levels of {spacings} mm: {COARSEST[fixed.ndim]} voxels at least along the shortest axis that is pooled"
    return Schedule(tuple(factor for factor, _ in kept), tuple(count for _, count in kept), reason)
