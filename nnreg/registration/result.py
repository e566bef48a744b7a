"""What a registration gives back: the map, what it does, how it was found."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nnreg.geometry import FieldMap, Transform, resample_image, resample_labels
from nnreg.imageio import Image
from nnreg.registration.affine import Alignment
from nnreg.registration.inversion import inverse_transform


@dataclass(frozen=True)
class Decision:
    """One choice that was made from the pair itself."""

    name: str
    value: str
    because: str


@dataclass(frozen=True, eq=False)
class Registration:
    """The result of registering one pair.

    Attributes
    ----------
    transform : Transform
        From the fixed to the moving world (pull-back), the way ITK resamples images.
    alignment : Alignment or None
        The linear part, if it was searched for.
    field : FieldMap or None
        The deformable part on the fixed grid; None after linear alignment only.
    succeeded : bool
        Whether the similarity rose; if not, `transform` is the best that was found and should not be trusted.
    similarity : str
        The measure `similarity_before` and `similarity_after` are taken with, at the finest level.
    decisions : tuple of Decision
    seconds : dict of str to float
        Per stage.
    """

    fixed: Image
    moving: Image
    transform: Transform
    alignment: Alignment | None
    field: FieldMap | None
    succeeded: bool
    similarity: str
    similarity_before: float
    similarity_after: float
    decisions: tuple[Decision, ...]
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def inverse(self) -> Transform:
        """From the moving to the fixed world; computed when first asked for."""
        return inverse_transform(self.transform, self.moving.space)

    @functools.cached_property
    def warped(self) -> npt.NDArray[np.float32]:
        """The moving image on the fixed grid, (C, *fixed.space.shape), sampled once."""
        return resample_image(self.moving.array, moving=self.moving.space, fixed=self.fixed.space, transform=self.transform)

    def warped_labels(self, labels: Image) -> npt.NDArray[np.generic]:
        """Labels of the moving image on the fixed grid, sampled once by nearest neighbour."""
        return resample_labels(labels.array, moving=labels.space, fixed=self.fixed.space, transform=self.transform)

    def displacement(self) -> FieldMap:
        """The whole map, linear part and all, as one field on the fixed grid."""
        return self.transform.sampled_on(self.fixed.space)

    def measures(
        self,
        *,
        fixed_labels: Image | None = None,
        moving_labels: Image | None = None,
        fixed_points: npt.ArrayLike | None = None,
        moving_points: npt.ArrayLike | None = None,
    ) -> dict[str, Any]:
        """Numbers that say how good the map is: similarity, regularity, and overlap and landmark distances before and after where truth is given.

        Parameters
        ----------
        fixed_labels, moving_labels : Image, optional
        fixed_points, moving_points : array (N, ndim), optional
            Voxel indices, x first, as Learn2Reg has them.
        """
        from nnreg import metrics

        content: dict[str, Any] = {
            "succeeded": self.succeeded,
            "similarity": {"measure": self.similarity, "before": self.similarity_before, "after": self.similarity_after},
            "ncc": metrics.ncc(self.fixed.array, self.warped) if self.warped.shape == self.fixed.array.shape else float("nan"),
        }
        if self.field is not None:
            content["sdlogj"] = metrics.sdlogj(self.field.displacement)
            content["folding_percent"] = metrics.folding_percent(self.field.displacement)
        before = self._before()
        if fixed_labels is not None and moving_labels is not None:
            content["dice"] = {
                "before": _dice(fixed_labels, moving_labels, before),
                "after": _dice(fixed_labels, moving_labels, self.transform),
            }
        if fixed_points is not None and moving_points is not None:
            content["tre_mm"] = {
                "before": self._distances(fixed_points, moving_points, before),
                "after": self._distances(fixed_points, moving_points, self.transform),
            }
        return content

    def _before(self) -> Transform:
        """What the headers say."""
        return Transform.identity(self.fixed.ndim)

    def _distances(self, fixed_points: npt.ArrayLike, moving_points: npt.ArrayLike, transform: Transform) -> dict[str, float]:
        from nnreg.geometry import index_points_to_world
        from nnreg.metrics import point_distances

        mapped = transform.map_points(index_points_to_world(fixed_points, self.fixed.space))
        distances = point_distances(mapped, index_points_to_world(moving_points, self.moving.space))
        return {"mean": float(distances.mean()), "median": float(np.median(distances)), "max": float(distances.max())}


def _dice(fixed: Image, moving: Image, transform: Transform) -> dict[str, Any]:
    from nnreg import metrics

    labels: Sequence[int] = sorted({*np.unique(fixed.array).tolist(), *np.unique(moving.array).tolist()} - {0})
    warped = resample_labels(moving.array, moving=moving.space, fixed=fixed.space, transform=transform)
    values = metrics.dice(fixed.array, warped, labels, moving=moving.array)
    finite = [value for value in values.values() if np.isfinite(value)]
    return {"mean": float(np.mean(finite)) if finite else float("nan"), "labels": {str(label): value for label, value in values.items()}}
