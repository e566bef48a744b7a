"""What a registration gives back: the map, what it does, how it was found."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from nnreg import metrics
from nnreg.arrays import Floats
from nnreg.engine.affine import Alignment
from nnreg.engine.failure import Evidence, Failure, judge
from nnreg.engine.grids import as_map, carried
from nnreg.engine.options import EngineOptions
from nnreg.geometry import AffineMap, FieldMap, Transform, index_points_to_world, resample_image, resample_labels
from nnreg.imageio import Image

FALLEN = 1e-3  # a similarity that is lower by less has not fallen: interpolation moves it by as much
PART_VOXELS = 2**18  # of the fixed grid whose determinants are looked at together, in the cache of a core
ALL_VOXELS, INSIDE_MASK = "all voxels", "inside the fixed mask"


@dataclass(frozen=True)
class Decision:
    """One choice that was made from the pair itself."""

    name: str
    value: str
    because: str


@dataclass(frozen=True, eq=False)
class Annotations:
    """What is known of a pair besides its images, to guide it or to measure the result with.

    Attributes
    ----------
    fixed_labels, moving_labels : Image, optional
    fixed_points, moving_points : array (N, ndim), optional
        Voxel indices, x first, as Learn2Reg has them; row i of one corresponds to row i of the other.
    """

    fixed_labels: Image | None = None
    moving_labels: Image | None = None
    fixed_points: npt.ArrayLike | None = None
    moving_points: npt.ArrayLike | None = None


@dataclass(frozen=True, eq=False)
class Registration:
    """The result of registering one pair.

    Attributes
    ----------
    transform : Transform
        From the fixed to the moving world (pull-back), the way ITK resamples images.
    start : Transform
        What the deformable part started from: the linear alignment, or the initial transform that was given.
    field : FieldMap or None
        The deformable part on the fixed grid, for large images on one of half as many voxels along each axis, and linear between them; None after linear
        alignment only.
    evidence : function
        Measures what says whether the registration failed; `failure` asks it once, when it is first wanted.
    similarity : str
        The measure that the following are taken with, on one level of at most 2 million voxels; of a linear alignment its own.
    similarity_header, similarity_before, similarity_after : float
        Of the headers alone (NaN where they do not overlap), of `start`, and of `transform`.
    decisions : tuple of Decision
    timings : dict of str to float
        Seconds per stage.
    options : EngineOptions
        How it was registered.
    annotations : Annotations
        Labels and landmarks the pair was given.
    masks : tuple of Image or None
        Where the fixed and the moving image were looked at.
    """

    fixed: Image
    moving: Image
    transform: Transform
    start: Transform
    alignment: Alignment | None
    field: FieldMap | None
    evidence: Callable[[], Evidence]
    similarity: str
    similarity_header: float
    similarity_before: float
    similarity_after: float
    decisions: tuple[Decision, ...]
    options: EngineOptions
    timings: dict[str, float] = dataclasses.field(default_factory=dict)
    annotations: Annotations = Annotations()
    masks: tuple[Image | None, Image | None] = (None, None)

    @functools.cached_property
    def failure(self) -> Failure:
        """How likely the registration failed, and what that rests on; measured when first asked for."""
        started = time.perf_counter()
        found = judge(self.evidence())
        self.timings["failure"] = time.perf_counter() - started
        return found

    @property
    def failure_probability(self) -> float:
        """How likely the registration failed, 0 to 1."""
        return self.failure.probability

    @property
    def rose(self) -> bool:
        """Whether the similarity rose above that of the start (of the headers, where only a linear alignment was searched for), or was not known there."""
        return not self.similarity_after <= (self.similarity_header if self.field is None else self.similarity_before)

    @property
    def guided_by(self) -> list[str]:
        """Which annotations guided, "labels" or "points": by them the registration says little about how good it is elsewhere."""
        truth, options = self.annotations, self.options
        labels = truth.fixed_labels is not None and truth.moving_labels is not None
        points = truth.fixed_points is not None and truth.moving_points is not None and options.constraints.landmark_weight > 0
        found = {"labels": labels, "points": points} if options.guided and not options.affine_only else {}
        return [name for name, guides in found.items() if guides]

    @property
    def fell(self) -> bool:
        """Whether the similarity fell below that of the start.

        Where labels, landmarks or regions that keep their volume have a say, the images may pay for it, down to the similarity of the headers.
        """
        paid = self.guided_by or self.options.constraints.preserve is not None
        least = np.minimum(self.similarity_header, self.similarity_before) if paid else self.similarity_before
        return bool(self.similarity_after < least - FALLEN)

    @property
    def succeeded(self) -> bool:
        """Whether the similarity did not fall and nothing says that the registration failed; if not, `transform` is the best that was found, not to be trusted.

        A pair that agreed at the start and stayed there is a success: `rose` says whether anything was gained.
        """
        return not self.fell and not self.failure.likely

    def field_on_fixed(self) -> FieldMap | None:
        """The deformable part on the fixed grid; None after linear alignment only."""
        return None if self.field is None else as_map(carried(self.field.volume, self.field.space, self.fixed.space), self.fixed.space)

    def _determinants(self, field: FieldMap, mask: npt.NDArray[np.bool_] | None) -> Iterator[Floats]:
        """Jacobian determinants on the fixed grid (inside a mask), some planes at a time: those of the whole map, up to a factor where the start is linear."""
        linear = [stage.matrix[:-1, :-1] for stage in self.start.stages if isinstance(stage, AffineMap)]
        deforms = len(linear) < len(self.start.stages)
        # a start may mirror: what folds is what is turned the other way
        sign = np.float32(np.sign(prod(np.linalg.det(matrix) for matrix in linear))) if deforms else np.float32(1)
        size, *others = self.fixed.space.shape
        rows = max(1, PART_VOXELS // prod(others))
        for low in range(0, size, rows):
            first, last = max(low - 1, 0), min(low + rows + 1, size)  # a plane more on each side for the differences
            part = self.fixed.space.part(((first, last), *((0, other) for other in others)))
            whole = self.transform.sampled_on(part) if deforms else as_map(carried(field.volume, field.space, part), part)
            found = sign * whole.determinants()[low - first : low - first + rows]
            yield found if mask is None else found[mask[low : low + rows]]

    @functools.cached_property
    def inverse(self) -> Transform:
        """From the moving to the fixed world; computed when first asked for. Its field is as fine as the fixed image, whatever that of `transform` is."""
        return self.transform.inverse(self.fixed.space)

    @functools.cached_property
    def warped(self) -> Image:
        """The moving image on the fixed grid, sampled once."""
        sampled = resample_image(self.moving.array, moving=self.moving.space, fixed=self.fixed.space, transform=self.transform)
        return Image(sampled, self.fixed.space)

    def warped_labels(self, labels: Image) -> npt.NDArray[np.generic]:
        """Labels of the moving image on the fixed grid, sampled once by nearest neighbour."""
        return resample_labels(labels.array, moving=labels.space, fixed=self.fixed.space, transform=self.transform)

    @functools.cached_property
    def measures(self) -> dict[str, Any]:
        """How good the map is, by the labels and landmarks the registration was given; see :meth:`measured_by`."""
        return self.measured_by(self.annotations)

    def measured_by(self, annotations: Annotations) -> dict[str, Any]:
        """Numbers that say how good the map is.

        Returns
        -------
        dict
            ``succeeded``; ``failure`` (``probability``, ``reasons`` and the evidence); ``similarity`` (its ``measure``) and ``ncc``; where something was
            deformed ``sdlogj``, ``folding_count`` and ``folding_percent`` of the whole map; where `annotations` has them ``dice`` and ``tre_mm``.
            Similarities, Dice and distances are each for the stages ``header``, ``aligned`` (start) and ``after``. ``ncc`` and the figures of the map are
            measured where ``measured_over`` says: inside the fixed mask, or where there is none over all voxels.
        """
        stages = {"header": Transform.identity(self.fixed.ndim), "aligned": self.start, "after": self.transform}
        mask = None if self.masks[0] is None else self.masks[0].array[0] != 0
        content: dict[str, Any] = {
            "succeeded": self.succeeded,
            "failure": self.failure.content(),
            "measured_over": ALL_VOXELS if mask is None else INSIDE_MASK,
            "similarity": {"measure": self.similarity, "header": self.similarity_header, "aligned": self.similarity_before, "after": self.similarity_after},
            "ncc": {name: self._correlation(transform, mask) for name, transform in stages.items()},
        }
        if self.field is not None and min(self.fixed.space.shape) > 1:
            content["sdlogj"], content["folding_count"], content["folding_percent"] = metrics.regularity_of(self._determinants(self.field, mask))
        if annotations.fixed_labels is not None and annotations.moving_labels is not None:
            content["dice"] = self._dice(annotations.fixed_labels, annotations.moving_labels, stages)
        if annotations.fixed_points is not None and annotations.moving_points is not None:
            content["tre_mm"] = self._landmark_errors(annotations.fixed_points, annotations.moving_points, stages)
        return content

    def _correlation(self, transform: Transform, mask: npt.NDArray[np.bool_] | None) -> float:
        """Mean over channels."""
        if transform is self.transform:
            warped = self.warped.array
        else:
            warped = resample_image(self.moving.array, moving=self.moving.space, fixed=self.fixed.space, transform=transform)
        return float(np.mean([metrics.ncc(one, other, mask) for one, other in zip(self.fixed.array, warped, strict=True)]))

    def _landmark_errors(self, fixed: npt.ArrayLike, moving: npt.ArrayLike, stages: Mapping[str, Transform]) -> dict[str, Any]:
        start, goal = index_points_to_world(fixed, self.fixed.space), index_points_to_world(moving, self.moving.space)
        result = {}
        for name, transform in stages.items():
            distances = metrics.point_distances(transform.map_points(start), goal)
            result[name] = {"mean": float(distances.mean()), "median": float(np.median(distances)), "max": float(distances.max())}
        return result

    def _dice(self, fixed: Image, moving: Image, stages: Mapping[str, Transform]) -> dict[str, Any]:
        target = fixed.array if fixed.space.same_as(self.fixed.space) else resample_labels(fixed.array, moving=fixed.space, fixed=self.fixed.space)
        labels = sorted({*np.unique(target).tolist(), *np.unique(moving.array).tolist()} - {0})
        result = {}
        for name, transform in stages.items():
            warped = resample_labels(moving.array, moving=moving.space, fixed=self.fixed.space, transform=transform)
            values = metrics.dice(target, warped, labels, moving=moving.array)
            finite = [value for value in values.values() if np.isfinite(value)]
            result[name] = {"mean": float(np.mean(finite)) if finite else float("nan"), "labels": {str(label): value for label, value in values.items()}}
        return result
