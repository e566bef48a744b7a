"""Diffeomorphic refinement on one grid: small smooth steps, composed, until the similarity stops rising.

Each step is the force of the similarity on the field, smoothed (a fluid) and scaled so that its longest vector is a set fraction of a voxel; it is
composed with what is there (``u <- step + u(x + step)``), and the whole is smoothed a little (an elastic solid). Composing steps that are smooth and
about a voxel keeps the map one to one, but for single voxels between slices so thick that steps are hardly smoothed across them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from nnreg.arrays import Floats
from nnreg.engine.constraints import Held
from nnreg.engine.grids import Level, volume_of
from nnreg.engine.presets import Preset
from nnreg.engine.similarities import EngineSimilarity
from nnreg.engine.similarity_terms import ChannelGroup, Landmarks, at_least
from nnreg.kernels import volumes
from nnreg.kernels.backend import as_number, copied, library, read, zeros
from nnreg.kernels.volumes import Blocks

CHECK = 5  # iterations between looks at the view and at the progress
SETTLED = 0.02  # a level ends when that many iterations add less than this share of what it has gained
SHRINK = 0.5
SEEN_ALIKE = 5e-4  # share of the voxels: where fewer came into view or left it, the windows are not counted again, which takes as long as an iteration
SHARPEST = 0.2  # voxels: a narrower Gaussian is none
# voxels of the images, squared: what means over blocks and interpolation between them spread an update by themselves, and each composition on the coarser
# grid the field. Found by trial on four pairs of brains: Dice and SDlogJ of fields on the full grid, on average
BLOCKS_SPREADS = 1.4, 0.08
LANDMARK_SMOOTHING = 4.0  # voxels over which a landmark pulls its surroundings along


@dataclass(frozen=True)
class Settings:
    """How a level is refined.

    Attributes
    ----------
    iterations : int
        At most.
    step : float
        Length of the longest vector of an update, in voxels of the level.
    update_smoothing, field_smoothing : float
        Widths of the Gaussians on each update and on the whole field after it, in voxels of the level (its spacing in mm along thicker axes).
    divergence_smoothing : float
        After each iteration what the field stretches and shrinks is evened out, in squares of the shortest voxel side of the grid the field lies on.
    spreads : pair of float
        Of these Gaussians, voxels squared: what blocks spread an update by themselves, and each composition the field, where that lies on a coarser grid.
    """

    iterations: int
    step: float
    update_smoothing: float
    field_smoothing: float
    divergence_smoothing: float = 0.0
    spreads: tuple[float, float] = BLOCKS_SPREADS

    @classmethod
    def of(cls, preset: Preset, similarity: EngineSimilarity, iterations: int, *, step: float = 1.0, spreads: tuple[float, float] = BLOCKS_SPREADS) -> Settings:
        """What a preset and a similarity say; `step` is a further factor on its length.

        A similarity widens the Gaussians alone: under those of two contrasts, four times as wide, smoothing the divergence changes nothing that was measured.
        """
        wider, length = similarity.smoothing, step * similarity.step * preset.step
        return cls(iterations, length, wider * preset.update_smoothing, wider * preset.field_smoothing, preset.divergence_smoothing, spreads)


@dataclass(frozen=True, eq=False)
class Refined:
    """A field (N, D, H, W) in voxels of the level, and the similarity after each iteration (the first is before any)."""

    field: Floats
    history: tuple[float, ...]


def refine(
    level: Level,
    field: Floats,
    groups: Sequence[ChannelGroup],
    settings: Settings,
    landmarks: Landmarks | None = None,
    held: Held | None = None,
    blocks: Blocks | None = None,
) -> Refined:
    """Raise the similarity of `groups` on `level`, starting from `field`, brought to what `held` allows.

    The result is never worse than the start by the sum of the terms. With `blocks` the field, the landmarks and what is held lie on the coarser grid of
    those; the settings are in voxels of the level all the same.
    """
    return _Descent(level, field, groups, settings, landmarks, held, blocks).run()


def score(level: Level, field: Floats, group: ChannelGroup) -> float:
    """Similarity of one group under a field, over what both images show; NaN if they show nothing in common."""
    view = _View(level)
    view.changed(field)
    valid = view.valid()
    if valid is not None and not valid.any():
        return float("nan")
    group.term.restrict(valid)
    warped = volumes.sample(group.moving, field, matrix=level.matrix)
    return read(group.term(warped, copied(warped)))[0]


def common_view(level: Level) -> bool:
    """Whether the images of a level show anything in common under its linear map and their masks."""
    view = _View(level)
    view.changed(level.empty_field())
    valid = view.valid()
    return valid is None or bool(valid.any())


class _Descent:
    def __init__(
        self,
        level: Level,
        field: Floats,
        groups: Sequence[ChannelGroup],
        settings: Settings,
        landmarks: Landmarks | None,
        held: Held | None,
        blocks: Blocks | None,
    ) -> None:
        self.level, self.settings, self.groups, self.landmarks, self.held, self.blocks = level, settings, groups, landmarks, held, blocks
        if held is not None:
            field = field.copy()
            held.apply(field)
        self.start = field
        self.field = copied(field)
        self.compiled = isinstance(field, np.ndarray)
        library_of_both = library(field)
        self.spare, self.update = library_of_both.empty_like(field), library_of_both.empty_like(field)
        self.moving = library_of_both.concatenate([group.moving for group in groups]) if len(groups) > 1 else groups[0].moving
        self.warped = zeros((len(self.moving), *level.grid), field)
        self.gradient = library_of_both.empty_like(self.warped)
        finite = [step if np.isfinite(step) else 1e9 for step in level.steps]
        self.update_sigma, self.field_sigma, self.landmark_sigma = (
            (width * level.spacing / finite[0], width * level.spacing / finite[1], width * level.spacing / finite[2])
            for width in (settings.update_smoothing, settings.field_smoothing, LANDMARK_SMOOTHING)
        )
        self.longest_step = settings.step
        if blocks is not None:
            widths = zip((self.update_sigma, self.field_sigma), settings.spreads, strict=True)
            self.update_sigma, self.field_sigma = (_on_blocks(width, blocks, own) for width, own in widths)
            self.longest_step /= max(blocks.factors)
        factors = (1, 1, 1) if blocks is None else blocks.factors
        sides = np.multiply(finite, factors)
        self.shares = tuple((settings.divergence_smoothing * (sides.min() / sides) ** 2).tolist())
        self.view = _View(level, blocks)
        self.scales = [1.0] * len(groups)

    def run(self) -> Refined:
        """The same steps for arrays and tensors. What decides may be a tensor: it is multiplied with or chosen by, and read every CHECK iterations."""
        self._balance()
        first = highest = value = self._evaluate()
        history, counted, step, going = [first], 0, self.longest_step, True
        for iteration in range(self.settings.iterations):
            look = iteration % CHECK == CHECK - 1
            going = self._force(step) & going
            if self.compiled and not going:
                break
            self._move(going)
            value = self._evaluate(look)
            history.append(value)
            counted, highest = counted + going, at_least(value, highest)
            if len(history) > 2 * CHECK:
                step = step * (1 - (1 - SHRINK) * (value - history[-1 - CHECK] < SETTLED * (highest - first)))
                going = going & (step >= SHRINK**2 * self.longest_step * 1.01)
            if (look or self.compiled) and not read(going)[0]:
                break
        *values, last = read(*history, counted)
        return self._found(values[: 1 + int(last)])

    def _found(self, history: list[float]) -> Refined:
        if history[-1] <= history[0]:
            return Refined(self.start, (history[0],))
        return Refined(self.field, tuple(history))

    def _evaluate(self, look: bool = True) -> Any:
        if look and self.view.changed(self.field):
            self._restrict()
        # an image is sampled where its term looks; a term that says nothing looks everywhere
        ranges = getattr(self.groups[0].term, "ranges", None) if len(self.groups) == 1 else None
        volumes.sample(self.moving, self.field, matrix=self.level.matrix, out=self.warped, ranges=ranges, blocks=self.blocks)
        value: Any = 0.0
        for (group, part), scale in zip(self._parts(), self.scales, strict=True):
            value = value + scale * group.term(self.warped[part], self.gradient[part])
            if scale != 1:
                self.gradient[part] *= scale
        if self.landmarks is not None:
            value = value - self.landmarks.penalty(self.field, self.start)
        return value

    def _restrict(self) -> None:
        for group in self.groups:
            # what was found for the voxels before goes first: a large level has no room for both
            group.term.restrict(None)
        valid = self.view.valid()
        for group in self.groups:
            group.term.restrict(valid)

    def _parts(self) -> list[tuple[ChannelGroup, slice]]:
        """Each group with its channels among all."""
        ends = np.cumsum([len(group.moving) for group in self.groups])
        return [(group, slice(int(end) - len(group.moving), int(end))) for group, end in zip(self.groups, ends, strict=True)]

    def _balance(self) -> None:
        """Scale the groups so that their longest forces are as their weights say, once, where the level starts."""
        if len(self.groups) == 1:
            return
        self._evaluate()
        forces = [
            volumes.smooth_force(self.gradient[part], self.warped[part], self.update_sigma, out=self.update, blocks=self.blocks) for _, part in self._parts()
        ]
        longest = read(*forces)
        self.scales = [group.weight * (longest[0] or 1.0) / length if length > 0 else 0.0 for group, length in zip(self.groups, longest, strict=True)]
        self.view.forget()

    def _force(self, step: Any) -> Any:
        """The next update, its longest vector of `step` voxels; whether there is any."""
        longest: Any = volumes.smooth_force(self.gradient, self.warped, self.update_sigma, out=self.update, blocks=self.blocks)
        if self.held is not None:
            longest = self.held.project(self.update)
        self.update *= step / (longest + (longest == 0))
        if self.landmarks is None:
            return longest > 0
        pull = volumes.smooth(self.landmarks.missing(self.field), self.landmark_sigma)
        strongest = as_number((pull**2).sum(axis=0).max() ** 0.5) if self.held is None else self.held.project(pull)
        # no further than the landmark that is furthest away
        reach = -at_least(-step, -self.landmarks.furthest(self.field))
        self.update += pull * (self.landmarks.weight * reach / (strongest + (strongest == 0)))
        return (longest > 0) | (strongest > 0)

    def _move(self, going: Any) -> None:
        """Follow the update. On a device nobody asks whether the descent has ended: what has ended is chosen to stay."""
        before, sharp = self.field, max(self.field_sigma) < SHARPEST
        if not self.compiled:
            moved = volumes.compose(before, self.update)
            moved = moved if sharp else volumes.smooth(moved, self.field_sigma)
            self.field = library(before).where(going, self._evened(moved), before)
            return
        self.field, self.spare = volumes.compose(before, self.update, out=self.spare), before
        if not sharp:
            self.field, self.spare = volumes.smooth(self.field, self.field_sigma, out=self.spare), self.field
        self.field = self._evened(self.field)
        if self.held is not None:
            self.held.settle(self.field)

    def _evened(self, field: Floats) -> Floats:
        return volumes.smooth_divergence(field, self.shares, spare=self.spare[0]) if self.settings.divergence_smoothing else field


def _on_blocks(sigma: tuple[float, float, float], blocks: Blocks, own: float) -> tuple[float, float, float]:
    """Widths of Gaussians in voxels of the field that spread as much as those in voxels of the images, less `own` where voxels are joined."""
    widths = (
        width if factor == 1 else volumes.width_of(max(0.0, volumes.spread_of(width) - own) / factor**2)
        for width, factor in zip(sigma, blocks.factors, strict=True)
    )
    return next(widths), next(widths), next(widths)


class _View:
    """Which fixed voxels show something that the moving image has too: its field of view and both masks.

    With `blocks` all voxels of a block are told by its middle, where the field has a voxel.
    """

    def __init__(self, level: Level, blocks: Blocks | None = None) -> None:
        self.moving, self.blocks, self.grid = level.moving, blocks, level.grid
        self.matrix = level.matrix if blocks is None else blocks.before(level.matrix)
        self.allowed = None if level.fixed.mask is None else (level.fixed.mask > 0.5).reshape(level.grid)
        self.allows_all = self.allowed is None or bool(read(self.allowed.all())[0])
        self.seen: Any = None
        self.everything = False

    def forget(self) -> None:
        """Take the next look for the first."""
        self.seen = None

    def changed(self, field: Floats) -> bool:
        """Look again; whether the valid voxels are not what they were."""
        before, self.seen = self.seen, self._look(field)
        # read together: a device is waited for once
        other, everything = read(1.0 if before is None else (before != self.seen).sum() / prod(self.seen.shape), self.seen.all())
        if other <= SEEN_ALIKE:
            self.seen = before
            return False
        self.everything = self.allows_all and bool(everything)
        return before is not None or not self.everything

    def valid(self) -> Floats | None:
        """Ones at the valid voxels of the level (D, H, W) and zeros elsewhere; None where all are. Made anew each time."""
        if self.everything:
            return None
        seen = self.seen if self.blocks is None else self.blocks.repeated(self.seen)
        result: Floats = zeros(self.grid, self.moving.image)
        result[:] = seen if self.allowed is None else seen & self.allowed
        return result

    def _look(self, field: Floats) -> Any:
        shape = self.moving.space.shape
        seen = volumes.within((1,) * (3 - len(shape)) + shape, field, matrix=self.matrix)
        if self.moving.mask is not None:
            seen &= volumes.sample(volume_of(self.moving.mask[None]), field, matrix=self.matrix)[0] > 0.5
        return seen
