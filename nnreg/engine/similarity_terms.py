"""What every similarity and guide is made of: terms with exact gradients, the channels that they compare, landmarks."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

from nnreg.arrays import Floats
from nnreg.engine.grids import Level
from nnreg.kernels import volumes
from nnreg.kernels.backend import as_number, library, read, zeros


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
        self.everything = self.count = float(prod(fixed.shape[1:]))

    def restrict(self, valid: Floats | None) -> None:
        """See :class:`Term`."""
        self.valid = valid
        self.count = self.everything if valid is None else max(1.0, *read(valid.sum()))

    def __call__(self, warped: Floats, gradient: Floats) -> float:
        """See :class:`Term`."""
        library(warped).subtract(self.fixed, warped, out=gradient)
        if self.valid is not None:
            gradient *= self.valid
        flat = gradient.reshape(-1)
        value: float = 1 - as_number(flat @ flat) / (self.count * len(warped))
        gradient *= 2 / (self.count * len(warped))
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
    """Corresponding points of a level.

    Attributes
    ----------
    nearest : tuple of three int arrays (K,)
        The voxel nearest to each fixed landmark.
    wanted : array, shape (2 or 3, K)
        From each fixed landmark to the moving one after the linear map, voxels.
    weight : float
    """

    nearest: Any
    wanted: Floats
    weight: float

    def missing(self, field: Floats) -> Floats:
        """How far the map is from each landmark, at its nearest voxel: (N, D, H, W), zero elsewhere."""
        return volumes.added(zeros(tuple(field.shape), field), self.nearest, self._lacking(field))

    def furthest(self, field: Floats) -> Any:
        """Distance of the landmark that is furthest from where it should be, voxels."""
        return as_number(self._distances(field).max())

    def distance(self, field: Floats) -> Any:
        """Mean distance of the landmarks from where they should be, voxels."""
        return as_number(self._distances(field).mean())

    def penalty(self, field: Floats, start: Floats) -> Any:
        """What the distance takes from the similarity: its share of that under the field `start`, weighted."""
        return self.weight * self.distance(field) / at_least(self.distance(start), 1.0)

    def _distances(self, field: Floats) -> Any:
        return (self._lacking(field) ** 2).sum(axis=0) ** 0.5

    def _lacking(self, field: Floats) -> Floats:
        return self.wanted - field[(slice(None), *self.nearest)]


def at_least(value: Any, least: Any) -> Any:
    """The larger of two numbers, of which any may be a tensor: a comparison that decides would wait for it."""
    return value * (value >= least) + least * (value < least)


def volume_of_side(level: Level) -> Floats:
    """The fixed image of a level as a volume."""
    image = level.fixed.image
    return image if image.ndim == 4 else image[:, None]
