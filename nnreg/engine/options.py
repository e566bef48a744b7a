"""What a user may choose of a registration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nnreg.engine.constraints import FREE, Constraints
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
        For an unknown preset or similarity, for a radius or smoothness out of range, for symmetric levels beside regions that keep their volume, and for a
        device that is not there, or that the similarity or the constraints cannot use.
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
    constraints: Constraints = FREE

    def __post_init__(self) -> None:
        named = None if self.similarity == AUTO else find_similarity(self.similarity)
        if self.symmetric and self.constraints.preserve is not None:
            raise ConfigurationError("symmetric levels and regions that keep their volume exclude each other: a region is known on the fixed grid only.")
        if self.constraints.hold and self.on_device is not None:
            raise ConfigurationError(
                f"restricted axes and regions that keep their volume are held on the processor, -device is {self.device!r}. Use -device cpu."
            )
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
        """Multiple of the finest spacing from which on levels are refined in both directions; None for none.

        None where regions keep their volume: they are known on the fixed grid only.
        """
        if self.constraints.preserve is not None:
            return None
        if self.symmetric is None:
            return self.spent(ndim).symmetric_from
        return 1 if self.symmetric else None
