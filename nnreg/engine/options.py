"""What a user may choose of a registration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nnreg.engine.device import engine_device
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
        For an unknown preset or similarity, for a radius or smoothness out of range, and for a device that is not there or that the similarity cannot use.
    """

    guided: bool = True
    preset: str = "default"
    similarity: str = AUTO
    alignment: str = "affine"
    affine_only: bool = False
    symmetric: bool | None = None
    radius: float | None = None
    smoothness: float = 1.0
    device: str = "cpu"

    def __post_init__(self) -> None:
        named = None if self.similarity == AUTO else find_similarity(self.similarity)
        self.spent(3)
        if self.on_device is not None and named is not None and not named.on_device:
            raise ConfigurationError(f"similarity {named.name!r} takes numpy arrays only, -device is {self.device!r}. Use -device cpu, or another similarity.")

    @property
    def on_device(self) -> Any:
        """The device of torch that deforms; None for the compiled kernels."""
        return engine_device(self.device)

    def spent(self, ndim: int) -> Preset:
        """The preset with all that was chosen beside it, for images of `ndim` axes."""
        preset = tailored(preset_named(self.preset), self.radius, self.smoothness)
        return in_planes(preset) if ndim == 2 else preset

    def symmetric_from(self, ndim: int) -> int | None:
        """Multiple of the finest spacing from which on levels are refined in both directions; None for none."""
        if self.symmetric is None:
            return self.spent(ndim).symmetric_from
        return 1 if self.symmetric else None
