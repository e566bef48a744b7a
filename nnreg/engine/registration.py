"""Registration of one pair: prepare, align, choose, search, refine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nnreg.arrays import Doubles, Floats
from nnreg.engine.affine import Alignment, align_sides, check_pair
from nnreg.engine.choose_similarity import choose_similarity
from nnreg.engine.grids import Level, carried, matrix_between, pyramid
from nnreg.engine.guidance import Guides
from nnreg.engine.names import AUTO
from nnreg.engine.prepared_image import PreparedImage, prepare
from nnreg.engine.presets import LATER_SMOOTHNESS, Preset, Schedule, in_planes, preset_named, schedule, tailored
from nnreg.engine.refine import Refined, Settings, common_view, refine, score
from nnreg.engine.result import Annotations, Decision, Registration
from nnreg.engine.search import search
from nnreg.engine.similarities import EngineSimilarity, find_similarity
from nnreg.engine.symmetric import halfway, opposite
from nnreg.errors import RegistrationError
from nnreg.geometry import AffineMap, FieldMap, Transform, resample_image
from nnreg.imageio import Image, check_finite, read_image
from nnreg.kernels import volumes
from nnreg.progress import Progress

SCORE_VOXELS = 2_000_000  # voxels of the level on which the result is judged, at most: on a finer one it takes nearly a second
CHOICE_VOXELS = 40_000  # voxels of the level on which the similarity is chosen, about
SEARCH_REACH = 0.12  # of the longest side of the field of view: how far the global search looks
SEARCH_STEPS = 8  # voxels of the search's grid within its reach
SEARCH_GAIN = 0.05  # what the search must add, as a share of what the coarsest level gains without it


def register(
    *,
    fixed: Image | Path | str,
    moving: Image | Path | str,
    fixed_mask: Image | None = None,
    moving_mask: Image | None = None,
    fixed_labels: Image | None = None,
    moving_labels: Image | None = None,
    fixed_points: npt.ArrayLike | None = None,
    moving_points: npt.ArrayLike | None = None,
    guided: bool = True,
    initial: Transform | None = None,
    preset: str = "default",
    similarity: str = "auto",
    alignment: str = "affine",
    affine_only: bool = False,
    symmetric: bool | None = None,
    radius: float | None = None,
    smoothness: float = 1.0,
    on_progress: Progress | None = None,
) -> Registration:
    """Register one pair.

    Parameters
    ----------
    fixed, moving : Image or path
        Any grids, orientations and spacings; both 2D or both 3D, as many channels each.
    fixed_mask, moving_mask : Image, optional
        Where the images may be looked at.
    fixed_labels, moving_labels : Image, optional
        Structures to bring onto each other, besides the images.
    fixed_points, moving_points : array (N, ndim), optional
        Landmarks to bring onto each other, in the same order: voxel indices, x first.
    guided
        Whether labels and landmarks guide the registration; if not, they only measure it.
    initial : Transform, optional
        Fixed to moving world: where to start, instead of searching for a linear alignment.
    preset : "fast", "default" or "accurate"
    similarity : str
        "auto", or one of :func:`nnreg.engine.similarity_names`. ``lncc+mse`` adds mean squares at a quarter of the force, for images of one scale: large
        motion of what has no texture.
    alignment : "none", "centre", "rigid" or "affine"
        The freest linear map that may be used.
    affine_only
        Stop after linear alignment.
    symmetric : bool, optional
        Whether each level is refined in both directions and goes on from halfway: more accurate, in twice the time. By default as the preset has it.
    radius : voxels of a level, optional
        Half the window of local correlation; the preset's if absent.
    smoothness
        Factor on the widths of the Gaussians that smooth each update and the whole field: more bends less.
    on_progress
        Called with (done, total, what is being done).

    Returns
    -------
    Registration
        ``succeeded`` is False, and the transform the best that was found, if the similarity did not rise.

    Raises
    ------
    RegistrationError
        Naming what the pair lacks: a constant image, NaN, 2D against 3D, other channel counts, an empty mask, no common view.
    ConfigurationError
        For an unknown preset, similarity or alignment, and for a radius or smoothness out of range.
    """
    if similarity != AUTO:
        find_similarity(similarity)  # refused before anything is read
    spent = tailored(preset_named(preset), radius, smoothness)
    images = _image(fixed), _image(moving)
    check_pair(images[0].ndim, images[1].ndim, images[0].channels, images[1].channels)
    annotations = Annotations(fixed_labels, moving_labels, fixed_points, moving_points)
    engine = _Engine(images, (fixed_mask, moving_mask), annotations, guided, (preset, spent), symmetric, on_progress)
    return engine.run(initial, similarity, alignment, affine_only)


@dataclass(frozen=True, eq=False)
class _Way:
    """One direction: the levels, what guides besides images, and the linear map that landmarks see between the worlds."""

    levels: list[Level]
    guides: Guides
    guides_world: Doubles

    def carried(self, field: Floats, number: int) -> Floats:
        """The field of the level before on the grid of level `number`."""
        return carried(field, self.levels[number - 1].fixed.space, self.levels[number].fixed.space)

    def swapped(self) -> _Way:
        """The other direction."""
        return _Way([level.swapped() for level in self.levels], self.guides.swapped(), np.asarray(np.linalg.inv(self.guides_world), np.float64))


class _Engine:
    """One registration, stage by stage."""

    def __init__(
        self,
        images: tuple[Image, Image],
        masks: tuple[Image | None, Image | None],
        annotations: Annotations,
        guided: bool,
        preset: tuple[str, Preset],
        symmetric: bool | None,
        on_progress: Progress | None,
    ) -> None:
        fixed, moving = self.images = images
        self.annotations = annotations
        guides = Guides(fixed, moving, annotations)  # checked even where they only measure
        self.guides = guides if guided else Guides(fixed, moving, Annotations())
        self.preset_name, self.preset = preset[0], in_planes(preset[1]) if fixed.ndim == 2 else preset[1]
        self.symmetric_from = self.preset.symmetric_from if symmetric is None else (1 if symmetric else None)
        self.on_progress = on_progress
        self.total = self.done = 0
        self.timings: dict[str, float] = {}
        self.decisions: list[Decision] = []
        with self._stage("preparation"):
            self.fixed = prepare(fixed.array, fixed.space, _mask(masks[0], fixed), "fixed")
            self.moving = prepare(moving.array, moving.space, _mask(masks[1], moving), "moving")
        self.world = np.eye(fixed.ndim + 1)  # what is left between the fixed and the moving world when the deformable part starts

    def run(self, initial: Transform | None, similarity: str, alignment: str, affine_only: bool) -> Registration:
        plan = schedule(self.preset, self.fixed.space)
        self.total, self.done = self.preset.rounds * (len(plan.factors) + 1) + 1, 0  # alignment once, measures after every round
        with self._stage("alignment"):
            found, start = self._start(initial, alignment)
        levels = pyramid(self.fixed, self.moving, self.world, plan.factors)
        if not common_view(levels[0]):
            raise RegistrationError("the two images have no common view where the registration starts. Check headers, masks and initial transform.")
        if affine_only and found is not None:
            better = not found.similarity_after < found.similarity_before
            values = found.similarity_before, found.similarity_after
            return self._result(start, None, better, "of the linear alignment", values, found)
        chosen = choose_similarity(min(levels, key=lambda level: abs(np.prod(level.grid) - CHOICE_VOXELS)), similarity)
        by = find_similarity(chosen.value)
        plan = plan.without(sum(prod(level.grid) < by.fewest_voxels for level in levels[:-1]))
        self.decisions += [Decision("levels", f"{self.preset_name}: {plan.iterations}", plan.because), chosen]
        field, (before, after) = self._round(levels[-len(plan.factors) :], plan, by, search=True)
        field, after = self._more_rounds(field, after, plan, by)
        return self._result(start, self._map(field), bool(after > before or np.isnan(before)), chosen.value, (before, after), found)

    def _round(self, levels: list[Level], plan: Schedule, similarity: EngineSimilarity, *, search: bool) -> tuple[Floats, tuple[float, float]]:
        """Once through the pyramid: the field on the fixed grid, and the similarity before and after."""
        way = _Way(levels, self.guides, self.world)
        if similarity.same_axes:
            guides = self.guides.through(Transform.affine(self.world), self.fixed.space, self.moving.space)
            way = _Way([level.resampled() for level in levels], guides, np.eye(self.fixed.space.ndim + 1))
        field = self._refined(way, plan, similarity, search=search)
        with self._stage("measures"):
            values = self._scores(way.levels, field, similarity)
        return carried(field, levels[-1].fixed.space, self.fixed.space), values

    def _more_rounds(self, field: Floats, after: float, plan: Schedule, similarity: EngineSimilarity) -> tuple[Floats, float]:
        """The field and its similarity after going through the pyramid again, from the map so far.

        Coarse levels then correct what only fine ones showed, and the smoothing of the field holds back what is new and no more. The similarity of the images
        does not judge it: on hearts it fell a little, and Dice rose.
        """
        moving, guides, linear = self.moving, self.guides, AffineMap(self.world)
        rounds, self.preset = self.preset.rounds, self.preset.smoother(LATER_SMOOTHNESS)
        for _ in range(1, rounds):
            so_far = Transform((self._map(field), linear), self.fixed.space.ndim)
            self.moving, self.guides = moving, guides
            self._see_through(so_far)
            self.world = np.eye(self.fixed.space.ndim + 1)
            added, (_, after) = self._round(pyramid(self.fixed, self.moving, self.world, plan.factors), plan, similarity, search=False)
            field = volumes.compose(field, added)
        return field, after

    def _start(self, initial: Transform | None, alignment: str) -> tuple[Alignment | None, Transform]:
        """The linear alignment, unless a start is given, and the map the refinement starts from."""
        ndim = self.fixed.space.ndim
        if initial is None:
            found = align_sides(self.fixed, self.moving, kind=alignment)
            self.world = found.matrix
            self.decisions.append(Decision("alignment", found.kind, found.because))
            return found, Transform.affine(found.matrix)
        if initial.ndim != ndim:
            raise RegistrationError(f"the initial transform has {initial.ndim} axes, the images {ndim}.")
        self.decisions.append(Decision("alignment", "given", "an initial transform was given"))
        simple = initial.simplified()
        if all(isinstance(stage, AffineMap) for stage in simple.stages):
            self.world = np.asarray(simple.stages[0].matrix) if simple.stages else self.world  # type: ignore[union-attr]
            return None, Transform.affine(self.world)
        self._see_through(initial)
        return None, initial

    def _see_through(self, transform: Transform) -> None:
        """Carry the moving side to the fixed grid: what is left is registered there, and composed."""
        fixed, moving = self.fixed.space, self.moving.space
        image = resample_image(self.moving.image, moving=moving, fixed=fixed, transform=transform)
        inside = np.ones(moving.shape, np.float32) if self.moving.mask is None else self.moving.mask
        seen = resample_image(inside[None], moving=moving, fixed=fixed, transform=transform, outside=0.0)[0]
        self.guides = self.guides.through(transform, fixed, moving)
        self.moving = PreparedImage(image, None if seen.min() > 0.5 else seen, fixed)

    def _map(self, field: Floats) -> FieldMap:
        """A field on the fixed grid, a volume, as a map."""
        return FieldMap(field if self.fixed.space.ndim == 3 else np.ascontiguousarray(field[:, 0]), self.fixed.space)

    def _refined(self, forward: _Way, plan: Schedule, similarity: EngineSimilarity, *, search: bool) -> Floats:
        """The field of the finest level, on its grid; with `search` the coarsest one may start from a global search."""
        backward = forward.swapped()
        levels = forward.levels
        both = sum(self.symmetric_from is not None and factor >= self.symmetric_from for factor in plan.factors)
        field = opposed = levels[0].empty_field()
        for number, (level, count) in enumerate(zip(levels, plan.iterations, strict=True)):
            with self._stage(f"level {level.spacing:g} mm"):
                if number == 0:
                    start = self._searched if search else self._plain
                    field = start(forward, similarity, count).field
                    # not from a search of its own: halfway between two that differ is nowhere
                    opposed = opposite(field, backward.levels[0]) if both else opposed
                else:
                    field = self._level(forward, number, forward.carried(field, number), similarity, count).field
                    opposed = backward.carried(opposed, number) if number < both else opposed
                if number < both:
                    opposed = self._level(backward, number, opposed, similarity, count).field
                    mean = halfway(field, opposed, level)
                    # the finest of them is carried on in one direction only
                    field, opposed = mean, halfway(opposed, field, backward.levels[number]) if number + 1 < both else opposed
        return field

    def _level(self, way: _Way, number: int, field: Floats, similarity: EngineSimilarity, iterations: int) -> Refined:
        level = way.levels[number]
        groups = [*similarity.groups(level, self.preset.radius)]
        labels = way.guides.group(level)
        if labels is not None:
            groups.append(labels)
        wider = similarity.smoothing
        settings = Settings(iterations, similarity.step * self.preset.step, wider * self.preset.update_smoothing, wider * self.preset.field_smoothing)
        return refine(level, field, groups, settings, way.guides.landmarks(level, way.guides_world))

    def _plain(self, way: _Way, similarity: EngineSimilarity, iterations: int) -> Refined:
        """The coarsest level, started from the linear alignment."""
        return self._level(way, 0, way.levels[0].empty_field(), similarity, iterations)

    def _searched(self, way: _Way, similarity: EngineSimilarity, iterations: int) -> Refined:
        """The better of the coarsest level started from the linear alignment and from a global search."""
        level = way.levels[0]
        plain = self._plain(way, similarity, iterations)
        reach = SEARCH_REACH * float(np.max(self.fixed.space.extent))
        with self._stage("search"):
            grid = pyramid(self.fixed, self.moving, self.world, (1,), max(level.spacing / 2, reach / SEARCH_STEPS))[0]
            start = carried(search(grid, reach), grid.fixed.space, level.fixed.space)
            found = self._level(way, 0, start, similarity, iterations)
        # not by what the level raised: how labels and squares weigh beside the first term is set anew wherever it starts
        group, landmarks = similarity.groups(level, self.preset.radius)[0], way.guides.landmarks(level, way.guides_world)
        fields = level.empty_field(), plain.field, found.field
        before, without, after = (score(level, field, group) - (0.0 if landmarks is None else landmarks.penalty(field, fields[0])) for field in fields)
        text = f"similarity at {level.spacing:g} mm {after:.4f} from a search within {reach:.0f} mm, {without:.4f} without"
        use = after - without > SEARCH_GAIN * max(1e-6, without - before)
        self.decisions.append(Decision("global search", "used" if use else "not used", text))
        return found if use else plain

    def _scores(self, levels: list[Level], field: Floats, similarity: EngineSimilarity) -> tuple[float, float]:
        """Similarity under the headers alone and in the end, on the finest level that costs little; NaN where the headers do not overlap."""
        level = next((level for level in reversed(levels) if np.prod(level.grid) <= SCORE_VOXELS), levels[0])
        field = carried(field, levels[-1].fixed.space, level.fixed.space)
        after = score(level, field, similarity.groups(level, self.preset.radius)[0])
        moving = _pooled_like(self.moving, level)
        header = Level(level.fixed, moving, matrix_between(level.fixed.space, moving.space), level.spacing)
        header = header.resampled() if similarity.same_axes else header
        return score(header, np.zeros_like(field), similarity.groups(header, self.preset.radius)[0]), after

    def _result(
        self, start: Transform, field: FieldMap | None, succeeded: bool, similarity: str, values: tuple[float, float], alignment: Alignment | None
    ) -> Registration:
        return Registration(
            *self.images,
            transform=Transform(start.stages if field is None else (field, *start.stages), self.fixed.space.ndim),
            start=start,
            alignment=alignment,
            field=field,
            succeeded=succeeded,
            similarity=similarity,
            similarity_before=values[0],
            similarity_after=values[1],
            decisions=tuple(self.decisions),
            timings=dict(self.timings),
            annotations=self.annotations,
        )

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        start, before = time.perf_counter(), sum(self.timings.values())
        if self.on_progress is not None and self.total:
            self.on_progress(self.done, self.total, name)
        yield
        # less the stages within, so that the sum is the whole time
        spent = time.perf_counter() - start - (sum(self.timings.values()) - before)
        self.timings[name] = self.timings.get(name, 0.0) + spent
        self.done += name != "search"


def _pooled_like(side: PreparedImage, level: Level) -> PreparedImage:
    """The native moving image at the spacing of a level."""
    return pyramid(level.fixed, side, np.eye(side.space.ndim + 1), (1,), level.spacing)[0].moving


def _image(image: Image | Path | str) -> Image:
    if isinstance(image, Image):
        return image
    found = read_image(image)
    check_finite(found, image)
    return found


def _mask(mask: Image | None, image: Image) -> npt.NDArray[np.generic] | None:
    """The mask on the grid of its image."""
    if mask is None:
        return None
    if mask.space.same_as(image.space):
        return mask.array[:1]
    from nnreg.geometry import resample_labels

    return resample_labels((mask.array[:1] > 0).astype(np.uint8), moving=mask.space, fixed=image.space)
