"""Registration of one pair: prepare, align, choose, search, refine."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nnreg.engine.affine import Alignment, align_sides, check_pair
from nnreg.engine.choose_similarity import choose_similarity
from nnreg.engine.clock import Clock
from nnreg.engine.constraints import FREE, Constraints
from nnreg.engine.deformable import Course, State, View
from nnreg.engine.evidence import gather
from nnreg.engine.grids import Level, as_map, continued, pyramid
from nnreg.engine.guidance import Guides, check_belongs
from nnreg.engine.options import EngineOptions
from nnreg.engine.prepared_image import PreparedImage, foreground, prepare_shown
from nnreg.engine.presets import schedule
from nnreg.engine.refine import common_view
from nnreg.engine.result import Annotations, Decision, Registration
from nnreg.engine.similarities import find_similarity
from nnreg.errors import RegistrationError
from nnreg.geometry import AffineMap, FieldMap, Space, Transform
from nnreg.geometry.space import SAME_VOXEL
from nnreg.geometry.transform import Stage
from nnreg.imageio import Image, check_finite, read_image
from nnreg.padding import shown
from nnreg.progress import Progress


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
    device: str = "cpu",
    constraints: Constraints = FREE,
    on_progress: Progress | None = None,
) -> Registration:
    """Register one pair.

    Parameters
    ----------
    fixed, moving : Image or path
        Any grids, orientations and spacings; both 2D or both 3D, as many channels each.
    fixed_mask, moving_mask : Image, optional
        Where the images may be looked at; each on the grid of its image.
    fixed_labels, moving_labels : Image, optional
        Structures to bring onto each other, besides the images; each on the grid of its image.
    fixed_points, moving_points : array (N, ndim), optional
        Landmarks to bring onto each other, in the same order: voxel indices, x first, inside the images.
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
    device : "cpu", "cuda" or "cuda:1"
        Where levels are refined. Alignment, search and measures stay on the processor.
    constraints : Constraints
        What the deformable part must keep to: axes along which it may move, regions that keep their volume; and how much landmarks count.
    on_progress
        Called with (done, total, what is being done).

    Returns
    -------
    Registration
        ``succeeded`` is False, and the transform the best that was found, if the similarity fell below that of the start or the registration likely failed by
        what is measured of it; ``failure`` has the probability and its reasons.

    Raises
    ------
    RegistrationError
        Naming what the pair lacks: a constant image, NaN, 2D against 3D, other channel counts, an empty mask, a mask or label map on another grid,
        landmarks outside an image, no common view, foregrounds that do not meet, an empty or misplaced mask of what is preserved.
    ConfigurationError
        For an unknown preset, similarity or alignment, for a radius or smoothness out of range, and for a device that is not there.
    """
    # refused before anything is read
    options = EngineOptions(guided, preset, similarity, alignment, affine_only, symmetric, radius, smoothness, device, constraints)
    annotations = Annotations(fixed_labels, moving_labels, fixed_points, moving_points)
    return register_as((_image(fixed), _image(moving)), (fixed_mask, moving_mask), annotations, options, initial, on_progress)


def register_as(
    images: tuple[Image, Image],
    masks: tuple[Image | None, Image | None],
    annotations: Annotations,
    options: EngineOptions,
    initial: Transform | None = None,
    on_progress: Progress | None = None,
) -> Registration:
    """:func:`register` for callers that hold the options, as a result does."""
    check_pair(images[0].ndim, images[1].ndim, images[0].channels, images[1].channels)
    return _Engine(images, masks, annotations, options, on_progress).run(initial)


@dataclass(frozen=True, eq=False)
class _Begun:
    """What the deformable part starts from: the map to there, the moving side seen from there, why, and the linear alignment where one was searched for."""

    start: Transform
    view: View
    decision: Decision
    alignment: Alignment | None = None


class _Engine:
    """One registration, stage by stage. Its attributes are set once: what changes from stage to stage is handed on."""

    def __init__(
        self,
        images: tuple[Image, Image],
        masks: tuple[Image | None, Image | None],
        annotations: Annotations,
        options: EngineOptions,
        on_progress: Progress | None,
    ) -> None:
        fixed, moving = self.images = images
        self.masks, self.annotations, self.options = masks, annotations, options
        guides = Guides(fixed, moving, annotations, options.constraints)  # checked even where they only measure
        self.guides = guides if options.guided else Guides(fixed, moving, Annotations(), options.constraints)
        self.preset = options.spent(fixed.ndim)
        self.clock = Clock(on_progress)
        with self.clock.stage("preparation"):
            self.boxes = self.guides.kept(shown(fixed.array).airy), shown(moving.array).airy
            self.guides = self.guides.cut(*self.boxes)
            self.fixed = prepare_shown(fixed.array, fixed.space, _mask(masks[0], fixed, "fixed"), "fixed", self.boxes[0])
            self.moving = prepare_shown(moving.array, moving.space, _mask(masks[1], moving, "moving"), "moving", self.boxes[1])

    def run(self, initial: Transform | None) -> Registration:
        plan = schedule(self.preset, self.fixed.space)
        self.clock.expect(len(plan.factors) + 2)  # alignment and measures too
        with self.clock.stage("alignment"):
            begun = self._aligned() if initial is None else self._given(initial)
        levels = pyramid(self.fixed, begun.view.moving, begun.view.world, plan.factors)
        if not common_view(levels[0]):
            raise RegistrationError("the two images have no common view where the registration starts. Check headers, masks and initial transform.")
        if not _foregrounds_meet(levels[0]):
            raise RegistrationError(
                "the foregrounds of the two images do not meet where the registration starts. Check headers and initial transform, or let it align them."
            )
        if self.options.affine_only and begun.alignment is not None:
            return self._aligned_only(begun, begun.alignment)
        chosen = choose_similarity(levels, self.options.similarity, (self.images[0].contrast, self.images[1].contrast))
        by = find_similarity(chosen.value)
        plan = plan.without(sum(prod(level.grid) < by.fewest_voxels for level in levels[:-1]))
        symmetric_from = self.options.symmetric_from(self.fixed.space.ndim)
        levels = levels[-len(plan.factors) :]
        scales = by.scales(self.fixed, begun.view.moving, begun.view.world)
        fixed, moving = by.prepared(self.fixed, scales[0]), by.prepared(self.moving, scales[1])
        view = replace(begun.view, moving=moving if begun.view.moving is self.moving else by.prepared(begun.view.moving, scales[1]))
        if by.features is not None:
            levels = pyramid(fixed, view.moving, view.world, plan.factors)
            levels = [level if factor >= self.preset.features_from else level.plain() for level, factor in zip(levels, plan.factors, strict=True)]
        course = Course(fixed, moving, view, levels, plan, by, self.preset, symmetric_from, self.clock, self.options.on_device)
        spent = tuple(count + course.more(number) for number, count in enumerate(plan.iterations))
        where = () if course.device is None else (Decision("device", str(course.device), "asked for: levels are refined there, in torch"),)
        decisions: tuple[Decision, ...] = begun.decision, *where, Decision("levels", f"{self.options.preset}: {spent}", plan.because), chosen
        if max(*scales[0], *scales[1]) > 1:
            factors = ", ".join(f"{other / one:.2f}" for one, other in zip(*scales, strict=True))
            told = "fixed over moving, median of what lies on each other; middle intensities are made of one scale"
            decisions = *decisions, Decision("intensities", factors, told)
        if self.options.constraints.preserve is not None and self.preset.symmetric_from is not None and self.options.symmetric is None:
            decisions = *decisions, Decision("one direction", "all levels", "regions that keep their volume are known on the fixed grid only")
        state = course.run()
        return self._result(begun, replace(state, decisions=(*decisions, *state.decisions)), chosen.value)

    def _aligned(self) -> _Begun:
        """From the linear alignment."""
        found = align_sides(self.fixed, self.moving, kind=self.options.alignment)
        decision = Decision("alignment", found.kind, found.because)
        return _Begun(Transform.affine(found.matrix), View(self.moving, self.guides, found.matrix), decision, found)

    def _given(self, initial: Transform) -> _Begun:
        """From the transform that was given."""
        ndim = self.fixed.space.ndim
        if initial.ndim != ndim:
            raise RegistrationError(f"the initial transform has {initial.ndim} axes, the images {ndim}.")
        decision = Decision("alignment", "given", "an initial transform was given")
        headers = View(self.moving, self.guides, np.eye(ndim + 1))
        simple = initial.simplified()
        if all(isinstance(stage, AffineMap) for stage in simple.stages):
            world = np.asarray(simple.stages[0].matrix) if simple.stages else headers.world  # type: ignore[union-attr]
            return _Begun(Transform.affine(world), replace(headers, world=world), decision)
        return _Begun(initial, headers.through(initial, self.fixed.space), decision)

    def _aligned_only(self, begun: _Begun, found: Alignment) -> Registration:
        header, after = found.similarity_before, found.similarity_after
        return self._result(begun, State(None, None, header, after, after, (begun.decision,)), "of the linear alignment")

    def _result(self, begun: _Begun, state: State, similarity: str) -> Registration:
        field = None if state.field is None or state.space is None else as_map(*continued(state.field, state.space, self.images[0].space))
        stages = begun.start.stages if field is None else (field, *_continued_for(field, begun.start.stages, self.images[0].space))
        transform = Transform(stages, self.fixed.space.ndim)
        evidence = functools.partial(gather, self.fixed, self.moving, transform, None if field is None else similarity)
        return Registration(
            *self.images,
            transform=transform,
            start=begun.start,
            alignment=begun.alignment,
            field=field,
            evidence=evidence,
            similarity=similarity,
            similarity_header=state.header,
            similarity_before=state.before,
            similarity_after=state.after,
            decisions=state.decisions,
            timings=dict(self.clock.timings),
            options=self.options,
            annotations=self.annotations,
            masks=self.masks,
        )


def _continued_for(field: FieldMap, start: tuple[Stage, ...], fixed: Space) -> tuple[Stage, ...]:
    """The stages of a start, continued for what `field` carries out of the fixed image.

    A field that ends where that image does is the identity beyond, and what lies on both sides of its border would be torn apart. It is continued as far as
    `field` reaches.
    """
    if not start or not isinstance(start[0], FieldMap):
        return start
    first = start[0]
    index = first.space.to_index(fixed.corners())
    if (index < -SAME_VOXEL).any() or (index > np.asarray(first.space.shape) - 1 + SAME_VOXEL).any():
        return start  # it ends inside the image, by intention
    steps = np.asarray(field.space.spacing, np.float32).reshape(-1, *(1,) * field.ndim)
    reach = float(np.sqrt(((field.displacement * steps) ** 2).sum(axis=0).max()))
    margins = [int(np.ceil(reach / step)) for step in first.space.spacing]
    return first.continued([(margin, margin) for margin in margins]), *start[1:]


def _foregrounds_meet(level: Level) -> bool:
    """Whether what both images show, or what their masks allow, overlaps under the linear map of a level."""
    moving = PreparedImage(foreground(level.moving)[None], level.moving.mask, level.moving.space)
    seen = Level(level.fixed, moving, level.matrix, level.spacing).resampled().moving
    both = foreground(level.fixed) * seen.image[0] * (1 if seen.mask is None else seen.mask > 0.5)
    return bool((both > 0.01).any())


def _image(image: Image | Path | str) -> Image:
    if isinstance(image, Image):
        return image
    found = read_image(image)
    check_finite(found, image)
    return found


def _mask(mask: Image | None, image: Image, role: str) -> npt.NDArray[np.generic] | None:
    """The mask of an image, if it lies on its grid."""
    if mask is None:
        return None
    check_belongs(mask.space, image.space, f"the {role} mask")
    return mask.array[:1]
