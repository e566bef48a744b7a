"""What every similarity and guide is made of: terms with exact gradients, the channels that they compare, landmarks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from nnreg.arrays import Floats
from nnreg.engine.grids import Level


class Term(Protocol):
    """A similarity of the channels it was made for; larger is better."""

    def restrict(self, valid: Floats | None) -> None:
        """Count only voxels where `valid` (D, H, W) is 1; None counts all."""

    def __call__(self, warped: Floats, gradient: Floats) -> float:
        """Value for warped channels (C, D, H, W); writes the derivative with respect to them into `gradient`."""


class MeanSquares:
    """One minus the mean squared difference: for images of one scale, for feature maps and soft labels."""

    def __init__(self, fixed: Floats) -> None:
        self.fixed = fixed
        self.valid: Floats | None = None
        self.count = float(fixed[0].size)

    def restrict(self, valid: Floats | None) -> None:
        """See :class:`Term`."""
        self.valid = valid
        self.count = float(self.fixed[0].size) if valid is None else max(1.0, float(valid.sum()))

    def __call__(self, warped: Floats, gradient: Floats) -> float:
        """See :class:`Term`."""
        np.subtract(self.fixed, warped, out=gradient)
        if self.valid is not None:
            gradient *= self.valid
        flat = gradient.reshape(-1)
        value = 1 - float(flat @ flat) / (self.count * len(warped))
        gradient *= np.float32(2 / (self.count * len(warped)))
        return value


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels that one term compares.

    Attributes
    ----------
    term : Term
    moving : array, shape (C, D, H, W)
        The channels on the moving grid of the level.
    weight : float
        Of its force beside that of the first group, 1 meaning the same greatest length.
    """

    term: Term
    moving: Floats
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Corresponding points of a level, volume indices in array axis order: fixed (N, 3) and moving (N, 3) in fixed-grid voxels after the linear map."""

    fixed: Floats
    target: Floats
    weight: float

    def missing(self, field: Floats) -> Floats:
        """How far the map is from each landmark, at its nearest voxel: (N, D, H, W), zero elsewhere."""
        result = np.zeros_like(field)
        np.add.at(result, self._nearest(field), self._lacking(field))
        return result

    def furthest(self, field: Floats) -> float:
        """Distance of the landmark that is furthest from where it should be, voxels."""
        return float(np.sqrt((self._lacking(field) ** 2).sum(axis=0)).max())

    def distance(self, field: Floats) -> float:
        """Mean distance of the landmarks from where they should be, voxels."""
        return float(np.sqrt((self._lacking(field) ** 2).sum(axis=0)).mean())

    def penalty(self, field: Floats, start: Floats) -> float:
        """What the distance takes from the similarity: its share of that under the field `start`, weighted."""
        return self.weight * self.distance(field) / max(self.distance(start), 1.0)

    def _nearest(self, field: Floats) -> Any:
        axes = (np.clip(np.rint(self.fixed[:, axis]).astype(np.intp), 0, size - 1) for axis, size in enumerate(field.shape[1:]))
        return (slice(None), *axes)

    def _lacking(self, field: Floats) -> Floats:
        wanted = (self.target - self.fixed).T[3 - len(field) :]
        return np.asarray(wanted - field[self._nearest(field)], dtype=np.float32)


def volume_of_side(level: Level) -> Floats:
    """The fixed image of a level as a volume."""
    image = level.fixed.image
    return image if image.ndim == 4 else image[:, None]
