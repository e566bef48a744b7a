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
from nnreg.geometry import FieldMap, Transform, index_points_to_world, resample_image, resample_labels
from nnreg.imageio import Image

PART_VOXELS = 2**18  # of the fixed grid whose determinants are looked at together, in the cache of a core


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
    rose : bool
        Whether the similarity rose, or could not be measured under the headers alone.
    similarity : str
        The measure `similarity_before` and `similarity_after` are taken with, at the finest level.
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
    rose: bool
    similarity: str
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
    def succeeded(self) -> bool:
        """Whether the similarity rose and nothing says that the registration failed; if not, `transform` is the best that was found, not to be trusted."""
        return self.rose and not self.failure.likely

    def field_on_fixed(self) -> FieldMap | None:
        """The deformable part on the fixed grid; None after linear alignment only."""
        return None if self.field is None else as_map(carried(self.field.volume, self.field.space, self.fixed.space), self.fixed.space)

    def _determinants(self, field: FieldMap) -> Iterator[Floats]:
        """Jacobian determinants on the fixed grid, some planes at a time."""
        size, *others = self.fixed.space.shape
        rows = max(1, PART_VOXELS // prod(others))
        for low in range(0, size, rows):
            first, last = max(low - 1, 0), min(low + rows + 1, size)  # a plane more on each side for the differences
            part = self.fixed.space.part(((first, last), *((0, other) for other in others)))
            found = as_map(carried(field.volume, field.space, part), part).determinants()
            yield found[low - first : low - first + rows]

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
            ``succeeded``; ``failure`` (``probability``, ``reasons`` and the evidence); ``similarity`` (``measure``, ``aligned``, ``after``) and ``ncc``
            (``header``, ``after``); of the deformable part ``sdlogj``, ``folding_count`` and ``folding_percent``; where `annotations` has them ``dice`` and
            ``tre_mm``, each for the stages ``header``, ``aligned`` (start) and ``after``.
        """
        stages = {"header": Transform.identity(self.fixed.ndim), "aligned": self.start, "after": self.transform}
        unaligned = resample_image(self.moving.array, moving=self.moving.space, fixed=self.fixed.space)
        content: dict[str, Any] = {
            "succeeded": self.succeeded,
            "failure": self.failure.content(),
            "similarity": {"measure": self.similarity, "aligned": self.similarity_before, "after": self.similarity_after},
            "ncc": {name: _correlation(self.fixed.array, image) for name, image in (("header", unaligned), ("after", self.warped.array))},
        }
        if self.field is not None and min(self.fixed.space.shape) > 1:
            content["sdlogj"], content["folding_count"], content["folding_percent"] = metrics.regularity_of(self._determinants(self.field))
        if annotations.fixed_labels is not None and annotations.moving_labels is not None:
            content["dice"] = self._dice(annotations.fixed_labels, annotations.moving_labels, stages)
        if annotations.fixed_points is not None and annotations.moving_points is not None:
            content["tre_mm"] = self._landmark_errors(annotations.fixed_points, annotations.moving_points, stages)
        return content

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


def _correlation(fixed: npt.NDArray[np.generic], warped: npt.NDArray[np.generic]) -> float:
    """Mean over channels."""
    return float(np.mean([metrics.ncc(one, other) for one, other in zip(fixed, warped, strict=True)]))
