"""How far an image takes the shape of another subject."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnreg.errors import ConfigurationError


@dataclass(frozen=True)
class RandomShape:
    """Draws another subject and the share of the way to its shape.

    Attributes
    ----------
    probability
        That an image is changed; drawn for each image of a pair by itself.
    low, high
        The share is uniform between them: 0 leaves the image as it is, 1 gives it the other subject's shape.
    """

    probability: float = 0.75
    low: float = 0.3
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ConfigurationError(f"augmentation: probability is {self.probability}, expected 0 to 1.")
        if not 0 <= self.low <= self.high:
            raise ConfigurationError(f"augmentation subject_shapes: low is {self.low} and high {self.high}, expected 0 <= low <= high.")

    def sample(self, rng: np.random.Generator, others: Sequence[str]) -> tuple[str, float] | None:
        """One of `others` and the share of the way to it; None where the image stays as it is."""
        if not others or rng.random() >= self.probability:
            return None
        return others[int(rng.integers(len(others)))], float(rng.uniform(self.low, self.high))
