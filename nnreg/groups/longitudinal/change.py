"""How the volumes of labels change between visits, by Jacobian determinants, and how far that may be wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nnreg.arrays import Doubles, Floats
from nnreg.geometry import FieldMap
from nnreg.groups.longitudinal.positions import Positions

Labels = npt.NDArray[np.integer]
LEAST_DETERMINANT = 1e-3  # where a map folds, its logarithm is taken of this


@dataclass(frozen=True)
class LabelChange:
    """One label at one visit.

    Attributes
    ----------
    label
        Its value; 0 stands for the whole foreground.
    volume : mm^3 (mm^2 of images of two axes)
        By the registration.
    change, error : percent
        Of the first visit's volume, and half of what two halves of the voxels, each on its own, disagree by. A change that both of them miss, because
        smoothing flattens it, is not in it.
    own_volume : mm^3, optional
        Of the visit's own label map.
    told_alone : 0 to 1, optional
        How much of a small change of this label alone would be told, between the first and the last visit; smoothing takes the rest. Of a change that its
        surroundings share more is told, of uniform growth all. Not known for the whole foreground.
    """

    label: int
    volume: float
    change: float
    error: float
    own_volume: float | None = None
    told_alone: float | None = None


def log_determinants(field: FieldMap, linear: Doubles) -> Floats:
    """Logarithm (*grid) of the volume in an image of what fills a unit in the middle space: deformation and linear map."""
    n = field.ndim
    determinants = np.maximum(field.determinants(), np.float32(LEAST_DETERMINANT))
    return np.log(determinants) + np.float32(np.log(np.linalg.det(linear[:n, :n])))


@dataclass(frozen=True, eq=False)
class Volumes:
    """Logarithms of Jacobian determinants of each visit, (*grid), by all data, by one half of them, and by the other."""

    whole: list[Floats]
    one: list[Floats]
    other: list[Floats]

    @classmethod
    def of(cls, found: Positions, linear: Sequence[Doubles]) -> Volumes:
        """Of positions, with the linear map to each visit."""
        ways = (found.whole, found.one, found.other)
        return cls(*([log_determinants(field, matrix) for field, matrix in zip(way, linear, strict=True)] for way in ways))

    def since_first(self, visit: int) -> Floats:
        """Logarithm (*grid) of the volume at a visit relative to the first one."""
        return self.whole[visit] - self.whole[0]

    def changes(self, regions: Sequence[Labels], voxel: float, own: Sequence[Mapping[int, float] | None]) -> list[list[LabelChange]]:
        """Of each visit, label by label.

        Parameters
        ----------
        regions : label maps (*grid)
            Those of the visits that have some, in the middle space; the mean of what they say counts, so that no visit's outline is preferred.
        voxel : mm^3 of the grid
        own : label to mm^3
            Volumes of each visit's own label map; None where it has none.
        """
        values = sorted({int(value) for region in regions for value in np.unique(region)} - {0})
        everywhere = [region > 0 for region in regions]
        where = {0: everywhere, **{value: [region == value for region in regions] for value in values}}
        sums = {label: [_log_volumes(way, masks) for way in (self.whole, self.one, self.other)] for label, masks in where.items()}
        return [[_change(label, sums[label], visit, voxel, own[visit]) for label in where] for visit in range(len(self.whole))]


def _log_volumes(logs: Sequence[Floats], masks: Sequence[npt.NDArray[np.bool_]]) -> Doubles:
    """Logarithm of the volume at each visit, voxels: mean over the masks that are not empty."""
    filled = [mask for mask in masks if mask.any()]
    return np.mean([[np.log(np.exp(log[mask], dtype=np.float64).sum()) for log in logs] for mask in filled], axis=0)


def _change(label: int, sums: Sequence[Doubles], visit: int, voxel: float, own: Mapping[int, float] | None) -> LabelChange:
    whole, one, other = (100 * np.expm1(log[visit] - log[0]) for log in sums)
    of_map = None if own is None else (own.get(label, 0.0) if label else sum(own.values()))
    return LabelChange(label, float(voxel * np.exp(sums[0][visit])), float(whole), float(abs(one - other) / 2), of_map)


@dataclass(frozen=True)
class Rate:
    """Change per unit of time: the line of least squares through all visits.

    Attributes
    ----------
    slope : percent of the first visit's volume per unit
    error : standard error of the slope, by what the line leaves; NaN with two visits
    """

    slope: float
    error: float


def rate(times: Sequence[float], changes: Sequence[float]) -> Rate:
    """Slope of changes (percent) over times; NaN where all times are the same."""
    t, y = np.asarray(times, dtype=float), np.asarray(changes, dtype=float)
    spread = float(np.square(t - t.mean()).sum())
    if spread == 0:
        return Rate(float("nan"), float("nan"))
    slope = float(((t - t.mean()) * (y - y.mean())).sum() / spread)
    left = y - y.mean() - slope * (t - t.mean())
    error = float(np.sqrt(np.square(left).sum() / (len(t) - 2) / spread)) if len(t) > 2 else float("nan")
    return Rate(slope, error)
