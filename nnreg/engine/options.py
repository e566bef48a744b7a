"""What a user may choose of a registration."""

from __future__ import annotations

from dataclasses import dataclass

from nnreg.engine.constraints import FREE, Constraints
from nnreg.engine.names import AUTO
from nnreg.engine.presets import Preset, in_planes, preset_named, tailored
from nnreg.engine.similarities import find_similarity
from nnreg.errors import ConfigurationError


@dataclass(frozen=True)
class EngineOptions:
    """How one pair is registered; :func:`nnreg.register` says what each means.

    Raises
    ------
    ConfigurationError
        For an unknown preset or similarity, for a radius or smoothness out of range, and for symmetric levels beside regions that keep their volume.
    """

    guided: bool = True
    preset: str = "default"
    similarity: str = AUTO
    alignment: str = "affine"
    affine_only: bool = False
    symmetric: bool | None = None
    radius: float | None = None
    smoothness: float = 1.0
    constraints: Constraints = FREE

    def __post_init__(self) -> None:
        if self.similarity != AUTO:
            find_similarity(self.similarity)
        if self.symmetric and self.constraints.preserve is not None:
            raise ConfigurationError("symmetric levels and regions that keep their volume exclude each other: a region is known on the fixed grid only.")
        self.spent(3)

    def spent(self, ndim: int) -> Preset:
        """The preset with all that was chosen beside it, for images of `ndim` axes."""
        preset = tailored(preset_named(self.preset), self.radius, self.smoothness)
        return in_planes(preset) if ndim == 2 else preset

    def symmetric_from(self, ndim: int) -> int | None:
        """Multiple of the finest spacing from which on levels are refined in both directions; None for none.

        None where regions keep their volume: they are known on the fixed grid only.
        """
        if self.constraints.preserve is not None:
            return None
        if self.symmetric is None:
            return self.spent(ndim).symmetric_from
        return 1 if self.symmetric else None
