"""The deformable part of a registration: through a pyramid, coarse to fine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nnreg.arrays import Doubles, Floats
from nnreg.engine.clock import Clock
from nnreg.engine.grids import Level, blocks_of, carried, matrix_between, pyramid
from nnreg.engine.guidance import Guides
from nnreg.engine.prepared_image import PreparedImage
from nnreg.engine.presets import Preset, Schedule
from nnreg.engine.refine import BLOCKS_SPREADS, Refined, Settings, refine, score
from nnreg.engine.result import Decision
from nnreg.engine.search import search
from nnreg.engine.similarities import EngineSimilarity
from nnreg.engine.similarity_terms import ChannelGroup
from nnreg.engine.symmetric import halfway, opposite
from nnreg.geometry import Space, Transform, resample_image
from nnreg.kernels.backend import as_array, computing_on

# voxels of a level: on a larger one the field has a voxel for every two along an axis. A step is smoothed over more than a voxel of that grid
FIELD_VOXELS = 3_000_000
# the same of levels that are not the last and are refined in one direction. In both directions four brains lost 0.001 of Dice under `default`: halfway between
# two such fields is less certain
PASSING_VOXELS = 500_000
# what blocks and compositions spread there, as BLOCKS_SPREADS says of the last level. By trial: with those of the last level four brains gained 0.002, and a
# pair of lungs ended at 1.69 mm instead of 1.57
PASSING_SPREADS = 1.0, 0.0
# iterations on such a level besides those of the preset: they cost half, and `fast`, which has two, otherwise lost 0.002 of Dice on two pairs of brains
MORE = 1
SCORE_VOXELS = 2_000_000  # voxels of the level on which the result is judged, at most: on a finer one it takes nearly a second
SEARCH_REACH = 0.12  # of the longest side of the field of view: how far the global search looks
SEARCH_STEPS = 8  # voxels of the search's grid within its reach
# what the search must add, as a share of what the coarsest level gains without it. By trial: with 0.05 one of 24 pairs of hippocampi in five started from it
# and they lost 0.0016 of Dice, always started from it 0.0054, at a higher similarity in the end
SEARCH_GAIN = 0.1


@dataclass(frozen=True, eq=False)
class View:
    """The moving side as the deformable part sees it.

    Attributes
    ----------
    moving : PreparedImage
    guides : Guides
    world : array, shape (ndim + 1, ndim + 1)
        The linear map that is left between the fixed and the moving world.
    """

    moving: PreparedImage
    guides: Guides
    world: Doubles

    def through(self, transform: Transform, fixed: Space) -> View:
        """Carry the moving side to the fixed grid: what is left is registered there, and composed."""
        moving = self.moving.space
        image = resample_image(self.moving.image, moving=moving, fixed=fixed, transform=transform)
        inside = np.ones(moving.shape, np.float32) if self.moving.mask is None else self.moving.mask
        seen = resample_image(inside[None], moving=moving, fixed=fixed, transform=transform, outside=0.0)[0]
        guides = self.guides.through(transform, fixed, moving)
        return View(PreparedImage(image, None if seen.min() > 0.5 else seen, fixed), guides, np.eye(fixed.ndim + 1))


@dataclass(frozen=True, eq=False)
class State:
    """Where the deformable part ends.

    Attributes
    ----------
    field : array, shape (ndim, *grid), or None
        What was found, as a volume; None where only a linear map was searched for.
    space : Space or None
        The grid of the field: that of the fixed image, or a coarser one.
    header, before, after : float
        The similarity under the headers alone (NaN where they do not overlap), where this started, and now: of one level and one similarity.
    decisions : tuple of Decision
    """

    field: Floats | None = None
    space: Space | None = None
    header: float = float("nan")
    before: float = float("nan")
    after: float = float("nan")
    decisions: tuple[Decision, ...] = ()


@dataclass(frozen=True, eq=False)
class _Way:
    """One direction.

    Attributes
    ----------
    levels : list of Level
    bent : list of Level
        On whose grids the fields of each level lie: the level itself, or one of longer voxels.
    guides : Guides
        What guides besides images.
    guides_world : array, shape (ndim + 1, ndim + 1)
        The linear map that landmarks see between the worlds.
    """

    levels: list[Level]
    bent: list[Level]
    guides: Guides
    guides_world: Doubles

    def coarser(self, number: int) -> bool:
        """Whether fields of level `number` lie on a grid of longer voxels."""
        return self.bent[number] is not self.levels[number]

    def carried(self, field: Floats, number: int) -> Floats:
        """The field of the level before on the grid of fields of level `number`."""
        return carried(field, self.bent[number - 1].fixed.space, self.bent[number].fixed.space)

    def swapped(self) -> _Way:
        """The other direction."""
        world = np.asarray(np.linalg.inv(self.guides_world), np.float64)
        levels = [level.swapped() for level in self.levels]
        bent = [field.swapped() if self.coarser(number) else levels[number] for number, field in enumerate(self.bent)]
        return _Way(levels, bent, self.guides.swapped(), world)


@dataclass(frozen=True, eq=False)
class Course:
    """The deformable part of one registration, and what it is given; the coarsest level may start from a global search.

    Attributes
    ----------
    fixed, moving : PreparedImage
        As stored.
    aligned : View
        What it starts from.
    levels : list of Level
        The pyramid, coarse to fine.
    schedule, similarity, preset
        Levels and iterations, what is compared, and how much is spent.
    symmetric_from : int or None
        Multiple of the finest spacing from which on levels are refined in both directions.
    clock : Clock
    device
        Of torch, where levels are refined; None for the compiled kernels.
    """

    fixed: PreparedImage
    moving: PreparedImage
    aligned: View
    levels: list[Level]
    schedule: Schedule
    similarity: EngineSimilarity
    preset: Preset
    symmetric_from: int | None
    clock: Clock
    device: Any = None

    def run(self) -> State:
        """The field, brought to what it must keep to."""
        with computing_on(self.device):
            state = self._through()
        held = None if state.space is None else self.aligned.guides.held(state.space, self.fixed.space, self.aligned.world)
        if held is not None and state.field is not None:
            # exactly: fields that are carried to finer grids, composed and averaged keep to it nearly
            held.apply(state.field)
        return state

    def in_both_directions(self, number: int) -> bool:
        """Whether that level is refined in both directions."""
        return self.symmetric_from is not None and self.schedule.factors[number] >= self.symmetric_from

    def _through(self) -> State:
        """Once through the pyramid: the field on the fixed grid, and the similarity under the headers, before and after."""
        way, fixed = self._way(), self.fixed.space
        field, decisions = self._refined(way)
        with self.clock.stage("measures"):
            scores = self._scores(way, field)
        space = way.bent[-1].fixed.space
        if way.coarser(len(way.levels) - 1):
            return State(as_array(field), space, *scores, decisions)
        return State(carried(as_array(field), space, fixed), fixed, *scores, decisions)

    def _way(self) -> _Way:
        """The forward direction, where levels are refined."""
        levels, guides, world = self.levels, self.aligned.guides, self.aligned.world
        if self.similarity.same_axes:
            guides = guides.through(Transform.affine(world), self.fixed.space, self.aligned.moving.space)
            levels, world = [level.resampled() for level in levels], np.eye(len(world))
        halves = [level.halved() if self._coarser(number) else None for number, level in enumerate(levels)]
        device = self.device
        levels = [level.on(device) for level in levels]
        bent = [levels[0]]
        for before, level, half in zip(levels, levels[1:], halves[1:], strict=False):
            # usually the grid of the level before, whose images need not be held twice
            bent.append(level if half is None else before if half.same_grids(before) else half.on(device))
        return _Way(levels, bent, guides, world)

    def more(self, number: int) -> int:
        """Iterations of a level besides those of the schedule."""
        return MORE * self._coarser(number)

    def _coarser(self, number: int) -> bool:
        """Whether fields of a level lie on a grid of longer voxels: of large ones, in whose voxels nothing has to be kept exactly."""
        passing = number + 1 < len(self.levels) and not self.in_both_directions(number)
        large = np.prod(self.levels[number].grid) > (PASSING_VOXELS if passing else FIELD_VOXELS)
        return bool(large) and number > 0 and self.aligned.guides.preserved is None

    def _refined(self, forward: _Way) -> tuple[Floats, tuple[Decision, ...]]:
        """The field of the finest level, on its grid, and what the global search led to, from which the coarsest one may start."""
        backward = forward.swapped()
        levels = forward.levels
        both = sum(self.in_both_directions(number) for number in range(len(levels)))
        field = opposed = levels[0].empty_field()
        decisions: tuple[Decision, ...] = ()
        for number, (level, planned) in enumerate(zip(levels, self.schedule.iterations, strict=True)):
            count = planned + self.more(number)
            with self.clock.stage(f"level {level.spacing:g} mm"):
                if number == 0:
                    found, decisions = self._searched(forward, count)
                    field = found.field
                    # not from a search of its own: halfway between two that differ is nowhere
                    start = opposite(field, backward.levels[0]) if both else None
                    if both and start is None:
                        both, decisions = 0, (*decisions, _one_direction(level))
                    opposed = opposed if start is None else start
                else:
                    # of no more use after the last level that both directions share: its memory is needed
                    opposed = backward.carried(opposed, number) if number < both else field
                    field = self._level(forward, number, forward.carried(field, number), count).field
                if number < both:
                    opposed = self._level(backward, number, opposed, count).field
                    mean = halfway(field, opposed, forward.bent[number])
                    # the finest of them is carried on in one direction only
                    other = halfway(opposed, field, backward.bent[number]) if number + 1 < both else opposed
                    if mean is None or other is None:
                        decisions = (*decisions, _one_direction(level))
                    else:
                        field, opposed = mean, other
        return field, decisions

    def _level(self, way: _Way, number: int, field: Floats, iterations: int) -> Refined:
        level, similarity = way.levels[number], self.similarity
        finer, preset = len(way.levels) - 1 - number, self.preset
        groups = [*similarity.groups(level, *(preset.radii(finer) if similarity.several_windows else (preset.radius,)))]
        labels = way.guides.group(level)
        if labels is not None:
            groups.append(labels)
        settings = Settings.of(preset, similarity, iterations, spreads=PASSING_SPREADS if finer else BLOCKS_SPREADS)
        bent = way.bent[number]
        held = way.guides.held(bent.fixed.space, self.fixed.space, self.aligned.world, bent.matrix)
        blocks = blocks_of(level.fixed.space, bent.fixed.space) if way.coarser(number) else None
        return refine(level, field, groups, settings, way.guides.landmarks(bent, way.guides_world), held, blocks)

    def _plain(self, way: _Way, iterations: int) -> Refined:
        """The coarsest level, started from the linear alignment."""
        return self._level(way, 0, way.levels[0].empty_field(), iterations)

    def _searched(self, way: _Way, iterations: int) -> tuple[Refined, tuple[Decision, ...]]:
        """The better of the coarsest level started from the linear alignment and from a global search."""
        level = way.levels[0]
        plain = self._plain(way, iterations)
        reach = SEARCH_REACH * float(np.max(self.fixed.space.extent))
        with self.clock.stage("search"):
            grid = pyramid(self.fixed, self.aligned.moving, self.aligned.world, (1,), max(level.spacing / 2, reach / SEARCH_STEPS))[0]
            start = level.placed(carried(search(grid, reach), grid.fixed.space, level.fixed.space))
            found = self._level(way, 0, start, iterations)
        # not by what the level raised: how labels and squares weigh beside the first term is set anew wherever it starts
        group, landmarks = self._compared(level), way.guides.landmarks(level, way.guides_world)
        fields = level.empty_field(), plain.field, found.field
        before, without, after = (score(level, field, group) - (0.0 if landmarks is None else float(landmarks.penalty(field, fields[0]))) for field in fields)
        text = f"similarity at {level.spacing:g} mm {after:.4f} from a search within {reach:.0f} mm, {without:.4f} without"
        use = after - without > SEARCH_GAIN * max(1e-6, without - before)
        return found if use else plain, (Decision("global search", "used" if use else "not used", text),)

    def _scores(self, way: _Way, field: Floats) -> tuple[float, float, float]:
        """Similarity under the headers alone, at the start and in the end, on the finest level that costs little; NaN where the headers do not overlap."""
        level = next((level for level in reversed(way.levels) if np.prod(level.grid) <= SCORE_VOXELS), way.levels[0])
        group = self._compared(level)
        before = score(level, level.empty_field(), group)
        after = score(level, carried(field, way.bent[-1].fixed.space, level.fixed.space), group)
        if self.moving is self.aligned.moving and np.array_equal(self.aligned.world, np.eye(len(self.aligned.world))):
            return before, before, after
        moving = _pooled_like(self.moving, level)
        header = Level(level.fixed, moving, matrix_between(level.fixed.space, moving.space), level.spacing)
        header = (header.resampled() if self.similarity.same_axes else header).on(self.device)
        return score(header, header.empty_field(), self._compared(header)), before, after

    def _compared(self, level: Level) -> ChannelGroup:
        """What the similarity compares of a level, in one window."""
        return self.similarity.groups(level, self.preset.radius)[0]


def _one_direction(level: Level) -> Decision:
    return Decision("one direction", f"at {level.spacing:g} mm", "the inverse that both directions are joined by was not found")


def _pooled_like(side: PreparedImage, level: Level) -> PreparedImage:
    """The native moving image at the spacing of a level, with features if the level has any."""
    side = replace(side, make_features=level.fixed.make_features)
    return pyramid(level.fixed, side, np.eye(side.space.ndim + 1), (1,), level.spacing)[0].moving
