"""Elastic deformation of a patch: a smooth random displacement field, made by batchgenerators."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nnreg.errors import ConfigurationError
from nnreg.training.augmentation.seeding import global_seed

Range = tuple[float, float]


@dataclass(frozen=True)
class RandomElastic:
    """Draws smooth deformations of a patch.

    Attributes
    ----------
    probability : that a patch is deformed at all
    scale : (low, high), width of the Gaussian that smooths the field, as a share of the patch's size along each axis
    magnitude : (low, high), greatest displacement along each axis as a share of that width
        Up to 0.5 the map does not fold, whatever the scale and the patch.
    """

    probability: float = 0.2
    scale: Range = (0.05, 0.2)
    magnitude: Range = (0.0, 0.5)

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ConfigurationError(f"augmentation elastic: probability is {self.probability}, expected 0 to 1.")
        if not 0 < self.scale[0] <= self.scale[1] or not 0 <= self.magnitude[0] <= self.magnitude[1]:
            raise ConfigurationError(
                f"augmentation elastic: scale {list(self.scale)} and magnitude {list(self.magnitude)} must be [low, high], scale above 0, magnitude 0 or more."
            )

    def reach(self, patch: Sequence[int]) -> tuple[int, ...]:
        """Most voxels that a patch looks beyond its border, per axis."""
        share = self.scale[1] * self.magnitude[1] if self.probability > 0 else 0.0
        return tuple(math.ceil(share * size) for size in patch)

    def sample(self, rng: np.random.Generator, patch: Sequence[int]) -> ElasticDeformation | None:
        """Draw for one patch; None: it stays as it is."""
        # drawn whether used or not, so that the probability does not change what a deformation looks like
        happens = rng.random() < self.probability
        scale, magnitude, seed = rng.uniform(*self.scale), rng.uniform(*self.magnitude), int(rng.integers(2**32))
        return ElasticDeformation(tuple(patch), scale, magnitude, seed) if happens else None


@dataclass(frozen=True)
class ElasticDeformation:
    """The deformation that a seed stands for.

    Attributes
    ----------
    patch : voxels
    scale, magnitude
        As in :class:`RandomElastic`, one number each.
    seed : of the field
    """

    patch: tuple[int, ...]
    scale: float
    magnitude: float
    seed: int

    def displacement(self) -> npt.NDArray[np.float64]:
        """The field (axes, *patch), voxels, of mean 0: the patch as a whole stays where it is."""
        from batchgenerators.augmentations.utils import elastic_deform_coordinates_2

        widths = [self.scale * size for size in self.patch]
        with global_seed(self.seed):
            field: npt.NDArray[np.float64] = elastic_deform_coordinates_2(np.zeros((len(self.patch), *self.patch)), widths, [1.0] * len(widths))
        field -= field.mean(axis=tuple(range(1, field.ndim)), keepdims=True)
        for component, width in zip(field, widths, strict=True):
            # scaled again, since the library's greatest value is mostly a shift where the field is smooth
            component *= self.magnitude * width / max(float(np.abs(component).max()), np.finfo(float).tiny)
        return field

    def positions(self) -> npt.NDArray[np.float64]:
        """Where every voxel of the patch takes its value, (axes, *patch), voxels from the middle of the patch."""
        from batchgenerators.augmentations.utils import create_zero_centered_coordinate_mesh

        mesh: npt.NDArray[np.float64] = create_zero_centered_coordinate_mesh(self.patch)
        return mesh + self.displacement()
